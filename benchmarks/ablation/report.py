"""The ablation's page and plot, from one JSON a run."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from benchmarks.ablation.example import draw_example
from benchmarks.ablation.plot import plot
from benchmarks.ablation.runs import ABILITY_NAMES, Run, accuracy, kinds_of, load_runs
from benchmarks.ablation.variants import BASE, VARIANTS, Variant
from benchmarks.tables import NONE, table
from dynfocus.demo.questions import ABILITIES

PAGE = Path(__file__).with_name("page.md")
DOCS = Path(__file__).parent.parent.parent / "docs"


def write_page(results: Path, docs: Path = DOCS) -> None:
    """docs/ablation.md and its pictures."""
    runs = load_runs(results)
    (docs / "ablation.md").write_text(page(runs), encoding="utf-8")
    plot(runs, docs / "ablation.png")
    draw_example(docs / "ablation-video.png")


def page(runs: dict[str, list[Run]]) -> str:
    first = [each for each in VARIANTS if each.first_rank and each.name in runs]
    second = [each for each in VARIANTS if not each.first_rank and each.name in runs]
    base = next(each for each in VARIANTS if each.name == BASE)
    some = runs[BASE][0]
    minutes = [run["train_seconds"] / 60 for each in runs.values() for run in each]
    return PAGE.read_text(encoding="utf-8").format(
        **{name: _by_variant(runs, kinds) for name, kinds in _KINDS.items()},
        tokens={name: f"{each[0]['tokens']:,}" for name, each in runs.items()},
        closely={name: _seen_closely(each) for name, each in runs.items()},
        blind={kind: f"{accuracy(some, [kind], 'blind'):.0f}" for kind in ABILITIES},
        first=_table(first, runs),
        second=_table([base, *second], {name: each[:1] for name, each in runs.items()}),
        kinds=_table_of_kinds(first, runs),
        steps=some["steps"],
        shortest=f"{min(minutes):.0f}",
        longest=f"{max(minutes):.0f}",
        batch=some["batch"],
        videos=some["asked"],
        questions=some["asked"] * len(ABILITIES),
    )


# What the page's text may name: "{all[2/40]}", "{detail[2/0]}", "{number_order[2/40]}".
_KINDS = {
    "all": list(ABILITIES),
    **{name: kinds_of(name) for name in ABILITY_NAMES},
    **{kind.replace(" ", "_"): [kind] for kind in ABILITIES},
}


def _by_variant(runs: dict[str, list[Run]], kinds: Sequence[str]) -> dict[str, str]:
    return {name: f"{mean(accuracy(run, kinds) for run in each):.0f}" for name, each in runs.items()}


def spread(values: Sequence[float]) -> str:
    """Such as 61.2 ± 0.8: mean and standard deviation, which one value does not have."""
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def _table(variants: Sequence[Variant], runs: dict[str, list[Run]]) -> str:
    rows = [
        [
            each.name,
            each.label,
            str(runs[each.name][0]["tokens"]),
            spread([accuracy(run) for run in runs[each.name]]),
            *(spread([accuracy(run, kinds_of(name)) for run in runs[each.name]]) for name in ABILITY_NAMES),
            _seen_closely(runs[each.name]),
            f"{mean(run['train_seconds'] for run in runs[each.name]) / 60:.1f}",
            str(len(runs[each.name])),
        ]
        for each in variants
    ]
    blind = runs[BASE][0]
    chance = [f"{accuracy(blind, kinds, 'blind'):.1f}" for kinds in (ABILITIES, *map(kinds_of, ABILITY_NAMES))]
    rows.append(["", "the question alone", "0", *chance, "", "", ""])
    return table(["", "variant", "tokens", "all", *ABILITY_NAMES, "seen closely", "minutes", "runs"], rows)


def _seen_closely(runs: Sequence[Run]) -> str:
    shares = [run["small_things_seen_closely"] for run in runs]
    return NONE if None in shares else f"{100 * mean(shares):.0f} %"


def _table_of_kinds(variants: Sequence[Variant], runs: dict[str, list[Run]]) -> str:
    rows = [
        [each.name, *(spread([accuracy(run, [kind]) for run in runs[each.name]]) for kind in ABILITIES)]
        for each in variants
    ]
    rows.append(["question alone", *(f"{accuracy(runs[BASE][0], [kind], 'blind'):.1f}" for kind in ABILITIES)])
    return table(["", *ABILITIES], rows)
