"""`python -m benchmarks.report [JSON] [--out docs] [--keep FILE]`: a Markdown page and its plots from a run's JSON."""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.plots import draw_all
from benchmarks.results import RunResult, is_run, load, save_compact
from benchmarks.tables import connector_table, growth_line, memory_table, op_table, targets_table
from benchmarks.targets import GROWTH, missed

HERE = Path(__file__).parent
RESULTS = HERE / "results"
METHOD = HERE / "METHOD.md"
BUSY = 0.5  # processes that wanted to run beside ours
OPS = {  # sections of the page
    "spatial_prototypes": "spatial_prototypes",
    "dpc_knn": "dpc_knn",
    GROWTH: "dpc_knn as N grows",
    "knn_log_density": "knn_log_density, the density half of dpc_knn",
    "dpc_knn_varlen": "dpc_knn_varlen",
    "rods_pool": "rods_pool",
    "perturbed_topk": "perturbed_topk, forward and backward",
    "pack_frame_tokens": "pack_frame_tokens",
    "cluster_mean": "cluster_mean, forward and backward",
    "connector": "the connector",
    "machine_matmul": "the machine: matrix product",
    "machine_copy": "the machine: copy",
}
CAPTIONS = {
    "speedup": "Speed-up over the peers, and distance from the floor, with gates and goals",
    "roofline": "Roofline of the ops",
    "scaling": "Growth in N and T",
    "connector": "Share of each op in the connector's time",
}


def page(run: RunResult, plots: list[str], notes: str | None = None) -> str:
    """Args:
    plots: those that were drawn.
    notes: why gates are missed, if someone has written it down.
    """
    gates = missed(run)
    parts = [
        "# Benchmarks",
        "<!-- Made by python -m benchmarks.report: change that, not this. -->",
        facts(run),
        "Every gate holds." if not gates else f"Gates missed: {len(gates)}; they are marked below.",
        "## Against the targets",
        "Gates must hold; goals are where we want to be. *Floor* is what any way of computing it takes at the least; "
        "*× research* and *× compiled* are how many times faster we are (see below).",
        targets_table(run),
        plot("speedup", plots),
        plot("roofline", plots),
        *(["## Misses, and why", notes] if notes else []),
        "## Memory and growth",
        memory_table(run),
        growth_line(run),
        plot("scaling", plots),
        "## The whole connector",
        "The paper's settings (C = 1408, 256 patches, 25 events, 20 of them in detail, D = 4096, 32 queries), vision "
        "tower excluded. Shares are of one profiled call; *rest* is what torch does between the ops. With *research's "
        "ops* the same connector runs on the formulas of research, its keys folded too.",
        connector_table(run),
        plot("connector", plots),
        "## How it is measured",
        METHOD.read_text(),
        *(f"{library} is left out: {why}" for library, why in run.machine["left_out"].items()),
        "## Every contender",
        "The fastest first. *Ours is* says how many times faster ours is than the contender of the row.",
    ]
    for op, title in OPS.items():
        if results := run.of(op):
            parts += [f"### {title}", op_table(results)]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def facts(run: RunResult) -> str:
    machine = run.machine
    caches = ", ".join(f"{level} {size}" for level, size in machine["caches"].items())
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    commit = (run.commit.get("id") or "unknown")[:12] + (" with changes on top" if run.commit.get("dirty") else "")
    busy = f" **The machine was busy: load {machine['load']:.1f} at the start.**" if machine["load"] > BUSY else ""
    smoke = "**A smoke run: shapes are cut down, and its times mean nothing.** " if machine["depth"] == "smoke" else ""
    return (
        f"{smoke}{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['instruction_sets'])}; {caches}), "
        f"{machine['threads']} threads, {machine['memory_bytes'] / 2**30:.0f} GiB; {machine['system']}, "
        f"{machine['compiler']}, Python {machine['python']}, {versions}; commit {commit}, {run.when[:10]}, "
        f"{machine['depth']} run.{busy}"
    )


def plot(name: str, plots: list[str]) -> str:
    return f"![{CAPTIONS[name]}](benchmarks-{name}.png)" if name in plots else ""


def newest() -> Path:
    """Of the runs: other measurements are kept there too."""
    kept = [path for path in RESULTS.glob("*.json") if is_run(json.loads(path.read_text()))]
    if not kept:
        sys.exit(f"benchmarks.report: no JSON given, and none of a run in {RESULTS}")
    return max(kept, key=lambda path: load(path).when)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("json", type=Path, nargs="?", help="of a run; the newest in benchmarks/results unless given")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the page and its plots (docs)")
    parser.add_argument("--keep", type=Path, help="also keep the JSON, compactly, in this file")
    options = parser.parse_args(arguments)
    path = options.json or newest()
    try:
        run = load(path)
    except (OSError, ValueError) as error:
        sys.exit(f"benchmarks.report: {error}")
    options.out.mkdir(parents=True, exist_ok=True)
    explained = path.with_suffix(".md")
    notes = explained.read_text() if explained.is_file() else None
    (options.out / "benchmarks.md").write_text(page(run, draw_all(run, options.out), notes))
    if options.keep:
        save_compact(path, options.keep)
    print(targets_table(run), memory_table(run), growth_line(run), connector_table(run), sep="\n\n")
    print(*(f"missed: {line}" for line in missed(run)), sep="\n")
    print(f"\nThe rest is in {options.out / 'benchmarks.md'}.")


if __name__ == "__main__":
    main()
