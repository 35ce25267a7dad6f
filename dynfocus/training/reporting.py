"""Tables of `dynfocus data check` and `dynfocus plan`."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from dynfocus.training.checking import SourceReport

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
