"""What a run found, short enough for the end of a terminal."""

from collections.abc import Sequence

from benchmarks.gpu.document import Row
from benchmarks.gpu.goals import checked
from benchmarks.tables import table


def summary(rows: Sequence[Row], rehearsed: bool) -> str:
    parts = []
    if rehearsed:
        parts.append("A REHEARSAL on the CPU, on tiny shapes: no time below means anything.")
    parts += [benchmarks(rows), goals(rows), correctness(rows), faults(rows)]
    return "\n\n".join(part for part in parts if part)


def benchmarks(rows: Sequence[Row]) -> str:
    """Ours against each peer, a line an op and shape; of two backends of ours, the chosen one first."""
    lines: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["stage"] == "benchmarks" and row["status"] == "measured":
            lines.setdefault((row["op"], row["shape"], row["dtype"]), []).append(row)
    cells = []
    for (op, shape, dtype), contenders in lines.items():
        own = sorted((row for row in contenders if row["contender"] == "ours"), key=lambda row: not row["chosen"])
        peers = sorted((row for row in contenders if row["contender"] != "ours"), key=lambda row: row["median_us"])
        best = own[0]["median_us"] if own else None
        share = f"{own[0]['of_roofline']:.0%}" if own and own[0]["of_roofline"] is not None else "–"
        cells.append(
            [
                f"{op} {shape} {dtype}",
                ", ".join(f"{row['backend']} {microseconds(row['median_us'])}" for row in own) or "–",
                share,
                ", ".join(
                    f"{row['contender']} "
                    + (f"{row['median_us'] / best:.1f} x" if best else microseconds(row["median_us"]))
                    for row in peers
                ),
            ]
        )
    return table(("op, shape", "ours, us", "of roofline", "speed-up over"), cells) if cells else ""


def goals(rows: Sequence[Row]) -> str:
    cells = [
        [
            check["what"],
            "–" if check["measured"] is None else f"{check['measured']:.3g} {check['unit']}",
            f"{check['kind']} {check['limit']}",
            check["verdict"],
        ]
        for check in checked(rows)
    ]
    return table(("goal", "measured", "limit", ""), cells)


def correctness(rows: Sequence[Row]) -> str:
    counts = {status: sum(row["status"] == status for row in rows) for status in ("passed", "failed", "skipped")}
    return ", ".join(f"{number} {status}" for status, number in counts.items())


def faults(rows: Sequence[Row]) -> str:
    """Every failed row, and why; then why whole parts were skipped."""
    lines = []
    for row in rows:
        if row["status"] == "failed" or (row["status"] == "skipped" and "contender" not in row):
            where = " ".join(str(row[key]) for key in ("op", "backend", "frames") if key in row)
            why = str(row.get("why", "")).strip().replace("\n", " ")
            lines.append(
                (row["status"] != "failed", f"{row['status']}: {row['stage']}, {row['name']} {where}: {why[:220]}")
            )
    return "\n".join(line for _, line in sorted(lines, key=lambda pair: pair[0])[:25])


def microseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
