"""The estimators as a picture: their errors in every case, and over the number of samples in one."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.plots import BLUE, FAINT, INK, ORANGE, RED, SKY, STYLE

MARKS: dict[str, dict[str, Any]] = {
    "plain": {"color": ORANGE, "marker": "s"},
    "antithetic": {"color": SKY, "marker": "D"},
    "leave-one-out": {"color": BLUE, "marker": "o"},
    "diagonal": {"color": RED, "marker": "x"},
}
ERROR = "relative error  E‖ĝ − g‖² / ‖g‖²"
TICKS = (0.03, 0.1, 0.3, 1, 3, 10)
BESIDE = 1.5  # how far below the curve its slope is drawn


def draw(document: dict[str, Any], num_samples: int, path: Path) -> None:
    """num_samples: of the cases on the left; the one that was measured at several is on the right."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 5.8), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        _draw_cases(left, document["cases"], num_samples)
        _draw_samples(right, max(document["cases"], key=lambda case: len(case["estimates"])))
        handles, labels = right.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
        figure.savefig(path, bbox_inches="tight", metadata={"Software": None})


def _draw_cases(axes: Axes, cases: list[dict[str, Any]], num_samples: int) -> None:
    y, ticks, previous = 0.0, [], None
    for case in cases:
        shape = f"L = {case['length']}, K = {case['k']}"
        if shape != previous:
            y -= 1.2
            axes.annotate(shape, (0, y), (-4, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                          ha="right", va="center", weight="bold", fontsize=9, color=INK)  # fmt: skip
        y, previous = y - 1, shape
        ticks.append((y, f"{case['scores']}; G {case['gradient']}"))
        errors = {
            estimate["estimator"]: estimate["relative_error"]
            for estimate in case["estimates"]
            if estimate["num_samples"] == num_samples
        }
        for name, mark in MARKS.items():
            axes.plot(errors[name], y, linestyle="", markersize=6, zorder=3, **mark)
    places, names = zip(*ticks, strict=True)
    axes.set_yticks(places, names, fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.minorticks_off()
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.annotate("a gradient of zeros", (1, 1), (0, 4), xycoords=("data", "axes fraction"),
                  textcoords="offset points", ha="center", fontsize=8, color=INK)  # fmt: skip
    axes.set_xlabel(ERROR)
    axes.set_title(f"{num_samples} samples", loc="left")


def _draw_samples(axes: Axes, case: dict[str, Any]) -> None:
    numbers = sorted({estimate["num_samples"] for estimate in case["estimates"]})
    curves = {
        name: [estimate["relative_error"] for estimate in case["estimates"] if estimate["estimator"] == name]
        for name in MARKS
    }
    for name, mark in MARKS.items():
        axes.plot(numbers, curves[name], label=name, markersize=6, **mark)
    last = curves["leave-one-out"][-1]
    axes.plot(numbers, [last * numbers[-1] / n / BESIDE for n in numbers], ":", color=FAINT, label="as 1 / n")
    axes.set(xscale="log", yscale="log", xlabel="samples n", ylabel=ERROR)
    axes.set_xticks(numbers, [f"{n:,}" for n in numbers])
    axes.set_yticks(ticks := TICKS[1:-1], [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_title(f"L = {case['length']}, K = {case['k']}, {case['scores']}, G {case['gradient']}", loc="left")
