"""A run as Markdown tables: against the targets, in memory, by op, and where the connector's time goes."""

from collections.abc import Iterable, Sequence
from math import log

from benchmarks.cases import read_as
from benchmarks.results import OURS, CaseResult, RunResult
from benchmarks.targets import (
    COMPILED,
    GROWTH,
    LARGEST_EXPONENT,
    MB,
    MEMORY_TARGETS,
    RESEARCH,
    TARGETS,
    Bound,
    MemoryTarget,
    Target,
    compiled,
    research,
)

NONE = "–"


def targets_table(run: RunResult) -> str:
    head = ("op, shape", "ours", "× research", "× compiled", "floor", "of the floor", "gate", "goal")
    return table(head, [row for target in TARGETS if (row := target_row(run, target))])


def target_row(run: RunResult, target: Target) -> list[str] | None:
    result = run.cases.get((target.op, target.case))
    if result is None or OURS not in result.seconds:
        return None
    floor, over = result.floor(), result.times_floor()
    return [
        f"`{target.op}` {read_as(target.case)}",
        f"**{duration(result.median(OURS))}**",
        times(research(0).measured(result)),
        times(compiled(0).measured(result)),
        NONE if over is None or floor is None else duration(result.median(OURS) / over),
        NONE if over is None else f"{1 / over:.0%}",
        "<br>".join(verdict(gate, result, "held", "**missed**") for gate in target.gates),
        "<br>".join(verdict(goal, result, "reached", "not yet") for goal in target.goals),
    ]


def verdict(bound: Bound, result: CaseResult, yes: str, no: str) -> str:
    measured = bound.measured(result)
    if measured is None:
        return f"{bound}: not in this run"
    word = yes if bound.holds(measured) else no
    # The ratios to research, compiled and floor have their columns; another's does not.
    return f"{bound}: {word} ({measured:.2f})" if bound.against not in (RESEARCH, COMPILED) else f"{bound}: {word}"


def memory_table(run: RunResult) -> str:
    rows = []
    for target in MEMORY_TARGETS:
        result = run.cases.get((target.op, target.case))
        peak = None if result is None or OURS not in result.details else result.peak_extra_bytes(OURS)
        if result is None or peak is None:
            continue
        word = "held" if peak <= target.at_most else "**missed**"
        rows.append([_memory_name(target), size(peak), f"≤ {size(target.at_most)}: {word}", target.why])
    return table(("op, shape", "peak beyond inputs and results", "gate", "for scale"), rows)


def _memory_name(target: MemoryTarget) -> str:
    return f"`{target.op.removesuffix('_growth')}` {read_as(target.case)}"


def growth_line(run: RunResult) -> str:
    exponent = growth_exponent(run)
    if exponent is None:
        return "Growth in N: not in this run."
    word = "held" if exponent <= LARGEST_EXPONENT else "**missed**"
    sizes = " to ".join(f"{num_points(result):,}" for result in (large_cases(run)[0], large_cases(run)[-1]))
    return (
        f"From N = {sizes} the time of `dpc_knn` grows as N to the {exponent:.2f} (gate: ≤ {LARGEST_EXPONENT}, {word})."
    )


def growth_exponent(run: RunResult) -> float | None:
    """Of N in our time, between the smallest N that fills the threads and the largest."""
    cases = large_cases(run)
    if len(cases) < 2:
        return None
    small, large = cases[0], cases[-1]
    return log(large.median(OURS) / small.median(OURS)) / log(num_points(large) / num_points(small))


def large_cases(run: RunResult) -> list[CaseResult]:
    cases = [result for result in run.of(GROWTH) if OURS in result.seconds and num_points(result) >= 4096]
    return sorted(cases, key=num_points)


def num_points(result: CaseResult) -> int:
    return int(result.case.split("x")[1])


def op_table(results: Iterable[CaseResult]) -> str:
    """Every contender of every case, the fastest first, then the floors."""
    head = ("shape", "", "median", "IQR", "GB/s", "GFLOP/s", "of the floor", "peak memory", "ours is", "right")
    return table(head, [row for result in results for row in case_rows(result)])


def case_rows(result: CaseResult) -> list[list[str]]:
    rows: list[list[str]] = []
    contenders = sorted(result.contenders, key=result.median)
    for name in [*contenders, *(name for name in result.seconds if name.startswith("floor"))]:
        seconds = result.median(name)
        row = [name, duration(seconds), duration(result.iqr(name))]
        if name in result.details:
            over, peak, speedup = result.times_floor(name), result.peak_extra_bytes(name), result.speedup(name)
            row += [
                f"{result.bytes / seconds * 1e-9:,.1f}" if result.bytes else NONE,
                f"{result.flops / seconds * 1e-9:,.0f}" if result.flops else NONE,
                NONE if over is None else f"{1 / over:.0%}",
                NONE if peak is None else size(peak),
                NONE if speedup is None or name == OURS else times(speedup),
                share(result.details[name]["share"]),
            ]
        else:
            row += [NONE] * 6
        rows.append([f"{read_as(result.case)}<br>{result.used_by}" if not rows else "", *row])
    return rows


def connector_table(run: RunResult) -> str:
    results = sorted((result for result in run.of("connector") if OURS in result.details), key=frames)
    names = connector_parts(results)
    rows = []
    for result in results:
        parts = result.details[OURS]["parts"]
        total = sum(parts.values())
        peer = result.fastest("research ops")
        rows.append(
            [
                f"{frames(result):,}",
                f"**{duration(result.median(OURS))}**",
                times(result.speedup(peer) if peer else None),
                *(f"{parts.get(name, 0) / total:.1%}" for name in names),
            ]
        )
    return table(("frames", "the connector", "× with research's ops", *(f"`{name}`" for name in names)), rows)


def connector_parts(results: Sequence[CaseResult]) -> list[str]:
    """All parts of the connector, those that take longest at the largest T first, the unnamed rest last."""
    longest: dict[str, float] = {}
    for result in results:
        longest.update(result.details[OURS]["parts"])
    return sorted(longest, key=lambda name: (name == "rest", -longest[name]))


def frames(result: CaseResult) -> int:
    return int(result.case.split("-")[0].removeprefix("t"))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "Not in this run."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def duration(seconds: float) -> str:
    for unit, scale in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{significant(seconds / scale)} {unit}"
    return f"{seconds * 1e6:.2f} µs"


def size(number: int) -> str:
    return f"{significant(number / MB)} MB" if number < 1000 * MB else f"{significant(number / MB / 1000)} GB"


def times(speedup: float | None) -> str:
    return NONE if speedup is None else f"{significant(speedup)} ×"


def share(right: float) -> str:
    return "all" if right == 1 else f"{min(right, 0.9999):.2%}"


def significant(number: float) -> str:
    """Three digits, never an exponent."""
    decimals = 2 if number < 10 else 1 if number < 100 else 0
    return f"{number:,.{decimals}f}"
