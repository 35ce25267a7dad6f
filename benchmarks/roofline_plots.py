"""The cost model as pictures: floors over the number of frames, and work for a byte under the roofs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.gpus import GPU
from benchmarks.plots import BLUE, FAINT, GREEN, INK, ORANGE, RED, SKY, STYLE
from benchmarks.roofline_lines import LONGEST, Line
from benchmarks.tables import duration

Seconds = Callable[[Line], float | None]

PANELS = {  # op: title
    "spatial_prototypes": "spatial_prototypes",
    "dpc_knn of frames, stored": "dpc_knn of frames, distances stored",
    "dpc_knn of frames, streamed": "dpc_knn of frames, streamed",
    "cluster_mean": "cluster_mean",
    "rods_pool": "rods_pool over 22 prototypes",
    "rods_pool, backward": "rods_pool, backward",
    "pack_frame_tokens": "pack_frame_tokens",
    "connector": "the whole connector",
}
COLORS = (ORANGE, SKY, BLUE)  # of the GPUs, the slowest first
STYLES: dict[str, Literal["-", "--"]] = {"bf16": "-", "fp32": "--"}
MEASURED = {"bf16": "x", "fp32": "+"}
MARKERS = {  # of the roofline: op: (marker, colour)
    "spatial_prototypes": ("D", GREEN),
    "dpc_knn of frames, stored": ("o", BLUE),
    "dpc_knn of frames, streamed": ("s", SKY),
    "rods_pool": ("^", ORANGE),
    "rods_pool over patches": ("v", ORANGE),
    "connector": ("*", RED),
}


def draw_all(every: Sequence[Line], gpus: Sequence[GPU], own: GPU, seconds: Seconds, folder: Path) -> None:
    """own: the GPU whose launches are shown and under whose roof the ops stand."""
    for name, draw in (("floors", draw_floors), ("intensity", draw_intensity)):
        with matplotlib.rc_context(STYLE):
            figure = draw(every, gpus, own, seconds)
            figure.savefig(folder / f"roofline-{name}.png", bbox_inches="tight", metadata={"Software": None})


def draw_floors(every: Sequence[Line], gpus: Sequence[GPU], own: GPU, seconds: Seconds) -> Figure:
    """A panel an op, a curve a GPU and dtype; grey is what its launches take; a cross is what was measured."""
    figure = Figure(figsize=(13, 7), layout="constrained")
    panels = figure.subplots(2, 4, sharex=True, sharey=True).flat
    for axes, (op, title) in zip(panels, PANELS.items(), strict=True):
        panel = [line for line in every if line.op == op and line.frames < LONGEST]
        axes.set(xscale="log", yscale="log", title=title)
        for dtype, style in STYLES.items():
            shown = [line for line in panel if line.dtype == dtype]
            for gpu, color in zip(gpus, COLORS, strict=True):
                floors = [gpu.floor(line.parts, dtype) for line in shown]
                axes.plot([line.frames for line in shown], floors, style, color=color, marker="o", markersize=3)
            for line in shown:
                if (second := seconds(line)) is not None:
                    axes.plot(line.frames, second, MEASURED[dtype], color=INK, markersize=7)
        launched = [(line.frames, line.launches * own.launch_seconds) for line in panel if line.launches]
        if launched:
            axes.fill_between(*zip(*sorted(launched), strict=True), color=FAINT, alpha=0.2, linewidth=0)
        axes.set_xticks(ticks := sorted({line.frames for line in panel}), [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(lambda value, _: duration(value).replace(".00", "").replace(".0", ""))
    marks = [Line2D([], [], color=color, label=gpu.name) for gpu, color in zip(gpus, COLORS, strict=True)]
    marks += [Line2D([], [], color=FAINT, linestyle=style, label=dtype) for dtype, style in STYLES.items()]
    marks.append(Line2D([], [], color=FAINT, alpha=0.3, linewidth=8, label="its launches, in one CUDA graph"))
    marks += [
        Line2D([], [], color=INK, marker=marker, linestyle="", label=f"measured, {dtype}")
        for dtype, marker in MEASURED.items()
        if any(line.dtype == dtype and seconds(line) is not None for line in every)
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=len(marks))
    figure.supxlabel("frames", fontsize=10)
    figure.supylabel("floor", fontsize=10)
    return figure


def draw_intensity(every: Sequence[Line], gpus: Sequence[GPU], own: GPU, seconds: Seconds) -> Figure:
    """The roofs, and under one GPU's each op, from the fewest frames to the most; lines lead to the measured."""
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    axes = figure.subplots()
    shown = [line for line in every if line.op in MARKERS and line.dtype == "bf16"]
    intensity = {line: line.cost.flops / line.cost.nbytes for line in shown}
    low, high = min(intensity.values()) / 3, max(intensity.values()) * 25
    for gpu, color in zip(gpus, COLORS, strict=True):
        for dtype, style in STYLES.items():
            peak = gpu.flops_per_s[dtype]
            axes.plot([low, peak / gpu.bytes_per_s, high], [low * gpu.bytes_per_s, peak, peak], style, color=color)
    names: dict[str, list[str]] = {}
    for gpu in gpus:
        for dtype, rate in gpu.flops_per_s.items():
            names.setdefault(f"{rate / 1e12:,.0f} TFLOP/s {dtype}", []).append(gpu.name)
    for text, alike in names.items():
        peak = float(text.split()[0].replace(",", "")) * 1e12
        axes.annotate(
            f"{', '.join(alike)}: {text}", (high, peak), (-4, 4), textcoords="offset points", ha="right", fontsize=8
        )
    frames = sorted({line.frames for line in shown})
    for line in shown:
        marker, color = MARKERS[line.op]
        size = 5 + 1.5 * frames.index(line.frames)
        reachable = line.cost.flops / own.floor(line.parts, line.dtype)
        axes.plot(intensity[line], reachable, marker, color=color, mfc="white", markersize=size, zorder=3)
        if (second := seconds(line)) is not None:
            reached = line.cost.flops / second
            axes.plot([intensity[line]] * 2, [reached, reachable], color=color, linewidth=1)
            axes.plot(intensity[line], reached, marker, color=color, markersize=size, zorder=3)
    axes.set(xscale="log", yscale="log", xlim=(low, high))
    axes.set_xlabel("FLOPs for a byte that must be moved (bf16)")
    axes.set_ylabel("FLOPs a second")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value / 1e12:g} T")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    marks = [
        Line2D([], [], color=color, label=f"roof of {gpu.name}, {gpu.bytes_per_s / 1e12:.1f} TB/s")
        for gpu, color in zip(gpus, COLORS, strict=True)
    ]
    marks.append(Line2D([], [], color=FAINT, linestyle="--", label="… in fp32 (three tf32)"))
    marks += [
        Line2D([], [], color=color, marker=marker, mfc="white", linestyle="", label=op)
        for op, (marker, color) in MARKERS.items()
    ]
    span = f"{frames[0]:,} to {frames[-1]:,} frames"
    marks.append(Line2D([], [], linestyle="", label=f"hollow: what {own.name} allows,\n{span} (larger)"))
    if any(seconds(line) is not None for line in shown):
        marks.append(Line2D([], [], color=FAINT, marker="o", label="filled: measured"))
    figure.legend(handles=marks, loc="outside right upper", fontsize=9)
    return figure
