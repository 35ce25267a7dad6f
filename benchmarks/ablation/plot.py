"""The ablation as a picture: right answers of each variant by what they ask for, and over the tokens they cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.ablation.runs import Run, accuracy, kinds_of
from benchmarks.ablation.variants import VARIANTS, Variant
from benchmarks.plots import BLUE, FAINT, GREEN, GRID, INK, ORANGE, STYLE

LABELS = 20  # that fit one above another
ABILITIES = {"detail": ORANGE, "time": BLUE, "both": GREEN}


def plot(runs: Mapping[str, Sequence[Run]], file: Path) -> None:
    """Writes a PNG. runs: of each variant."""
    with matplotlib.rc_context(STYLE):
        rows = [each for each in VARIANTS if each.name in runs]
        figure = Figure(figsize=(11, 1.6 + 0.31 * len(rows)), layout="constrained")
        by_ability, over_tokens = figure.subplots(1, 2, width_ratios=(1.5, 1))
        _by_ability(by_ability, rows, runs)
        _over_tokens(over_tokens, rows, runs)
        figure.savefig(file)


def _by_ability(axes: Axes, rows: Sequence[Variant], runs: Mapping[str, Sequence[Run]]) -> None:
    for place, each in enumerate(rows):
        for ability, color in ABILITIES.items():
            values = [accuracy(run, kinds_of(ability)) for run in runs[each.name]]
            axes.plot(values, [place] * len(values), "o", color=color, alpha=0.45, markersize=4, markeredgewidth=0)
            axes.plot(mean(values), place, "|", color=color, markersize=14, markeredgewidth=2.5)
    blind = next(iter(runs.values()))[0]
    for ability, color in ABILITIES.items():
        axes.axvline(accuracy(blind, kinds_of(ability), "blind"), color=color, linestyle=":", linewidth=1)
        axes.plot([], [], "|", color=color, markersize=14, markeredgewidth=2.5, label=ability)
    border = sum(each.first_rank for each in rows) - 0.5
    if border < len(rows) - 1:
        axes.axhline(border, color=FAINT, linewidth=0.8)
        axes.text(1, border + 0.05, "one seed each", color=FAINT, ha="right", va="top", fontsize=8,
                  transform=axes.get_yaxis_transform())  # fmt: skip
    axes.set_yticks(range(len(rows)), [f"{each.name}: {each.label}" for each in rows], fontsize=8.5)
    axes.invert_yaxis()
    axes.set_xlabel("right answers, per cent (dots: runs; dotted: the question alone)")
    axes.set_xlim(0, 100)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, title="asks for an eye on")


def _over_tokens(axes: Axes, rows: Sequence[Variant], runs: Mapping[str, Sequence[Run]]) -> None:
    places = {each.name: (runs[each.name][0]["tokens"], mean(map(accuracy, runs[each.name]))) for each in rows}
    all_tokens, values = zip(*places.values(), strict=True)
    gap = (max(values) - min(values)) / LABELS
    labels = _apart(places, gap)
    axes.set_ylim(min(values) - gap, max(labels.values()) + gap)
    for each in rows:
        tokens, value = places[each.name]
        color = INK if each.first_rank else FAINT
        axes.plot(tokens, value, "o", color=color, markersize=5)
        axes.annotate(
            each.name, (tokens, value), xytext=(tokens * 1.12, labels[each.name]), fontsize=8, color=color, va="center",
            arrowprops={"arrowstyle": "-", "color": GRID, "shrinkA": 0, "shrinkB": 3},
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlim(min(all_tokens) / 1.2, max(all_tokens) * 1.8)
    axes.set_xlabel("visual tokens a video")
    axes.set_ylabel("right answers, all kinds, per cent")


def _apart(places: Mapping[str, tuple[float, float]], gap: float) -> dict[str, float]:
    """Heights for the labels of points (x, y): their order, and `gap` between those whose x are within a third."""
    heights: dict[str, float] = {}
    for name, (x, y) in sorted(places.items(), key=lambda item: item[1][1]):
        near = [other for other in heights if 0.75 < places[other][0] / x < 1.33]
        heights[name] = max([y, *(heights[other] + gap for other in near)])
    return heights
