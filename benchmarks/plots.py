"""A run as pictures: roofline, speed-ups against gates and goals, growth in N and T, the connector's time by part."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.cases import read_as
from benchmarks.results import OURS, CaseResult, RunResult
from benchmarks.tables import connector_parts, duration, frames, num_points, size
from benchmarks.targets import GROWTH, MB, TARGETS, compiled, floor, research

# Okabe and Ito's colours, which colour-blind people can tell apart.
BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442",
)  # fmt: skip
INK, FAINT, GRID = "#222222", "#777777", "#DDDDDD"
MARKERS = {
    "dpc_knn": ("o", BLUE),
    "dpc_knn_varlen": ("s", SKY),
    "spatial_prototypes": ("D", GREEN),
    "rods_pool": ("^", ORANGE),
    "cluster_mean": ("v", PURPLE),
}
STYLE: Any = {
    "figure.dpi": 110, "font.size": 10, "axes.edgecolor": FAINT, "axes.labelcolor": INK, "axes.titlesize": 11,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": GRID,
    "axes.axisbelow": True, "xtick.color": INK, "ytick.color": INK, "legend.frameon": False,
}  # fmt: skip


def draw_all(run: RunResult, folder: Path) -> list[str]:
    """Writes what the run has data for; the names of the files."""
    drawn = []
    pictures: dict[str, Callable[[RunResult], Figure | None]] = {
        "speedup": draw_speedup, "roofline": draw_roofline, "scaling": draw_scaling, "connector": draw_connector,
    }  # fmt: skip
    for name, draw in pictures.items():
        with matplotlib.rc_context(STYLE):
            figure = draw(run)
            if figure is not None:
                figure.savefig(folder / f"benchmarks-{name}.png", bbox_inches="tight", metadata={"Software": None})
                drawn.append(name)
    return drawn


def draw_speedup(run: RunResult) -> Figure | None:
    """Left: how many times faster than the peers; right: how far from the floor; with gates (|) and goals (◇)."""
    rows = [(target, run.cases[target.op, target.case]) for target in TARGETS if (target.op, target.case) in run.cases]
    rows = [(target, result) for target, result in reversed(rows) if OURS in result.seconds]
    if not rows:
        return None
    figure = Figure(figsize=(11, 0.9 + 0.46 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    bars = ((left, research(0), BLUE, 0.18), (left, compiled(0), ORANGE, -0.18), (right, floor(0), GREEN, 0.0))
    for axes, bound, color, offset in bars:
        for y, (target, result) in enumerate(rows):
            if (measured := bound.measured(result)) is None:
                continue
            axes.barh(y + offset, measured - 1, left=1, height=0.32, color=color)
            for wanted, marker in ((target.gates, "|"), (target.goals, "D")):
                for limit in (other.limit for other in wanted if other.against == bound.against):
                    axes.plot(limit, y + offset, marker, color=INK, markersize=13 if marker == "|" else 5, mfc="white")
    labels = [f"{target.op}\n{read_as(target.case)}" for target, _ in rows]
    left.set_yticks(range(len(rows)), labels, fontsize=8)
    left.set_ylim(-0.6, len(rows) - 0.4)
    _log_ticks(left, (0.5, 1, 2, 5, 10, 20, 50, 100, 200))
    left.axvline(1, color=INK, linewidth=0.8)
    left.set_xlabel("times faster than the peer (log)")
    right.axvline(1, color=INK, linewidth=0.8)
    right.set_xlabel("our time in units of the floor")
    marks = [
        Line2D([], [], color=BLUE, linewidth=6, label="over research"),
        Line2D([], [], color=ORANGE, linewidth=6, label="over compiled"),
        Line2D([], [], color=GREEN, linewidth=6, label="over the floor (shorter is better)"),
        Line2D([], [], color=INK, marker="|", markersize=12, linestyle="", label="gate"),
        Line2D([], [], color=INK, marker="D", markersize=5, mfc="white", linestyle="", label="goal"),
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=5)
    return figure


def draw_roofline(run: RunResult) -> Figure | None:
    """Rate of work over work a byte; from each of our points a line to the fastest compiled peer."""
    matmul, copy = run.of("machine_matmul"), run.of("machine_copy")
    results = [
        result for op in MARKERS for result in run.of(op) if result.flops and result.bytes and OURS in result.seconds
    ]
    if not (matmul and copy and results):
        return None
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    axes = figure.subplots()
    intensities = [result.flops / result.bytes for result in results]
    low, high = min(intensities) / 3, max(intensities) * 3
    bandwidth = copy[0].bytes / copy[0].median("warm")
    for name, style in (("fp32", "-"), ("bf16", "--")):
        peak = matmul[0].flops / matmul[0].median(name)
        ridge = peak / bandwidth
        axes.plot([low, ridge, high], [low * bandwidth, peak, peak], style, color=INK, linewidth=1.2)
        axes.annotate(
            f"torch's {name} matmul, {peak / 1e9:,.0f} GFLOP/s", (high, peak), (0, 4), textcoords="offset points",
            ha="right", fontsize=8, color=INK,
        )  # fmt: skip
    for result, intensity in zip(results, intensities, strict=True):
        marker, color = MARKERS[result.op]
        filled = result.case.endswith("fp32")
        ours = result.flops / result.median(OURS)
        axes.plot(intensity, ours, marker, color=color, mfc=color if filled else "white", markersize=7, zorder=3)
        if peer := result.fastest("compiled"):
            theirs = result.flops / result.median(peer)
            axes.plot([intensity] * 2, [theirs, ours], color=color, linewidth=1, alpha=0.6)
            axes.plot(intensity, theirs, "_", color=color, markersize=9)
    axes.set(xscale="log", yscale="log", xlim=(low, high))
    axes.set_xlabel("flops a byte that must be moved")
    axes.set_ylabel("flops that must be done, a second")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value / 1e9:g} G")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", label=op) for op, (marker, color) in MARKERS.items()
    ]
    handles.append(Line2D([], [], color=FAINT, marker="o", mfc="white", linestyle="", label="hollow: bf16, fp16"))
    handles.append(Line2D([], [], color=FAINT, marker="_", linestyle="-", label="line: to compiled torch"))
    figure.legend(handles=handles, loc="outside right upper", fontsize=8)
    steep = low**0.5 * ridge**0.5  # halfway up the copy's line: above a roof there can be no point
    axes.annotate(
        f"copy, {bandwidth / 1e9:.0f} GB/s read + written", (steep, steep * bandwidth), (-6, 6),
        textcoords="offset points", ha="right", fontsize=8, color=INK,
    )  # fmt: skip
    return figure


def draw_scaling(run: RunResult) -> Figure | None:
    """dpc_knn's time and memory in N, the connector's time in T."""
    growth = sorted(run.of(GROWTH), key=num_points)
    connector = sorted(run.of("connector"), key=frames)
    if not growth or not connector:
        return None
    figure = Figure(figsize=(11, 4), layout="constrained")
    time, memory, video = figure.subplots(1, 3)
    _curves(time, growth, num_points, CaseResult.median, guide=2)
    time.set(title="dpc_knn, C = 64: time", xlabel="N points")
    _curves(memory, growth, num_points, _peak_bytes)
    memory.axhline(128 * MB, color=INK, linewidth=0.8)
    memory.annotate(
        "gate: 128 MB", (num_points(growth[-1]), 128 * MB), (0, 3), textcoords="offset points", ha="right", fontsize=8
    )
    memory.set(title="dpc_knn, C = 64: peak extra memory", xlabel="N points")
    _curves(video, connector, frames, CaseResult.median, guide=1)
    video.set(title="the connector: time", xlabel="T frames")
    for axes, unit in ((time, duration), (memory, size), (video, duration)):
        axes.yaxis.set_major_formatter(lambda value, _, unit=unit: unit(value).replace(".00", "").replace(".0", ""))
    marks = [Line2D([], [], label=kind, **style) for kind, style in CURVES]
    marks.append(Line2D([], [], color=FAINT, linestyle=":", label="as N², as T"))
    figure.legend(handles=marks, loc="outside upper center", ncols=3)
    return figure


def draw_connector(run: RunResult) -> Figure | None:
    """Share of each part, one bar a length of video."""
    results = sorted((result for result in run.of("connector") if OURS in result.details), key=frames, reverse=True)
    if not results:
        return None
    figure = Figure(figsize=(9, 0.9 + 0.55 * len(results)), layout="constrained")
    axes = figure.subplots()
    colors = dict(zip(connector_parts(results), (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW, FAINT), strict=False))
    for y, result in enumerate(results):
        parts = result.details[OURS]["parts"]
        total, start = sum(parts.values()), 0.0
        for name, color in colors.items():
            width = parts.get(name, 0) / total
            axes.barh(y, width, left=start, color=color, height=0.6, label=name if y == 0 else None)
            if width > 0.06:
                ink = "white" if color in (BLUE, GREEN, RED, FAINT) else INK
                axes.text(start + width / 2, y, f"{width:.0%}", ha="center", va="center", color=ink, fontsize=9)
            start += width
    axes.set_yticks(range(len(results)), [f"{frames(result):,} frames" for result in results])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlim(0, 1)
    figure.legend(loc="outside upper center", ncols=4, fontsize=8)
    return figure


CURVES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ours", {"color": BLUE, "marker": "o", "linestyle": "-"}),
    ("research", {"color": ORANGE, "marker": "s", "linestyle": "--"}),
)


def _curves(
    axes: Axes,
    results: Sequence[CaseResult],
    x: Callable[[CaseResult], int],
    y: Callable[[CaseResult, str], float],
    guide: int | None = None,
) -> None:
    """y over x for ours and research; with `guide`, what growth as x^guide up to our last point looks like."""
    for kind, style in CURVES:
        shown = [(x(result), y(result, name)) for result in results if (name := _contender(result, kind))]
        axes.plot(*zip(*shown, strict=True), **style)
        if guide is not None and kind == OURS and shown:
            last_x, last_y = shown[-1]
            axes.plot([at for at, _ in shown], [last_y * (at / last_x) ** guide for at, _ in shown], ":", color=FAINT)
    axes.set(xscale="log", yscale="log")
    ticks = [x(result) for result in results]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()


def _contender(result: CaseResult, kind: str) -> str | None:
    return next((name for name in result.details if name.startswith(kind)), None)


def _peak_bytes(result: CaseResult, name: str) -> float:
    return max(0.1 * MB, result.peak_extra_bytes(name) or 0)  # a logarithm needs something


def _log_ticks(axes: Axes, ticks: Sequence[float]) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axes.minorticks_off()
