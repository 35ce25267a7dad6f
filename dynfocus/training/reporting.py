"""Tables of `dynfocus data check` and `dynfocus plan`."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from dynfocus.training.checking import SourceReport
from dynfocus.training.planning import GIB, Plan

_SHOWN = 10


def print_data(reports: Sequence[SourceReport]) -> None:
    """One table of sources, one of token statistics, and the first broken samples of each."""
    console = Console(width=None if Console().is_terminal else 140)
    sources = Table("source", "samples", "an epoch", "video", "image", "text", "turns", "broken")
    counted = Table("source", "per sample", "mean", "median", "95 %", "most", title="made ready for the model")
    for report in reports:
        kinds = [f"{report.kinds[kind]:,}" for kind in ("video", "image", "text")]
        sources.add_row(
            *(report.name, f"{report.samples:,}", f"{report.per_epoch:,}"),
            *(*kinds, f"{report.turns:,}", f"{len(report.broken):,}"),
        )
        for name, values in report.statistics().items():
            counted.add_row(f"{report.name} ({len(report.counts[name]):,})", name, *(f"{v:,.1f}" for v in values))
    console.print(sources, counted)
    for report in reports:
        for what, reason in report.broken[:_SHOWN]:
            print(f"{report.name}: {what}: {reason}")
        if len(report.broken) > _SHOWN:
            print(f"{report.name}: and {len(report.broken) - _SHOWN:,} more")


def print_plan(plan: Plan, gpus: int, memory: float) -> None:
    """A line about the step, and a table with a row per way to share the model over the GPUs."""
    console = Console(width=None if Console().is_terminal else 140)
    print(
        f"{plan.trained:,} of {plan.parameters:,} parameters train; samples of up to {plan.frames:,} frames and "
        f"{plan.tokens:,} tokens; {plan.accumulation} batches a step and GPU; {plan.flops / 1e12:,.3g} TFLOP a step"
    )
    columns = ("shared by", "weights", "gradients", "optimizer", "activations", "total", f"of {memory:g} GiB")
    table = Table(*columns, title=f"GiB on each of {gpus} GPUs (estimate)")
    for row in plan.memory:
        parts = (row.weights, row.gradients, row.optimizer, row.activations, row.total)
        fits = f"{row.total / GIB / memory:.0%}" if row.total / GIB <= memory else "does not fit"
        table.add_row(row.strategy, *(f"{part / GIB:,.2f}" for part in parts), fits)
    console.print(table)
