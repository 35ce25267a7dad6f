"""The runs of an ablation, from one JSON each."""

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.ablation.variants import VARIANTS
from dynfocus.demo.questions import ABILITIES

ABILITY_NAMES = ("detail", "time", "both")

Run = dict[str, Any]


def load_runs(results: Path) -> dict[str, list[Run]]:
    """The runs of each variant that has any, in the order of VARIANTS, seeds ascending.

    Raises:
        ValueError: one is of a variant that there is no longer, or not comparable to the others.
    """
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(results.glob("*.json"))]
    changes = {each.name: list(each.changes) for each in VARIANTS}
    for run in found:
        if run["changes"] != changes.get(run["variant"]):
            raise ValueError(f"{results}: the run {run['variant']!r} was of {run['changes']}, which no variant is")
        if any(run[name] != found[0][name] for name in ("steps", "batch", "asked", "blind")):
            raise ValueError(f"{results}: {run['variant']!r} and {found[0]['variant']!r} are not comparable")
    runs = {each.name: [run for run in found if run["variant"] == each.name] for each in VARIANTS}
    return {name: sorted(each, key=lambda run: run["seed"]) for name, each in runs.items() if each}


def accuracy(run: Run, kinds: Iterable[str] = ABILITIES, of: str = "right") -> float:
    """Per cent of right answers to some kinds of questions, each kind with the same weight."""
    return mean(100 * run[of][kind] / run["asked"] for kind in kinds)


def kinds_of(ability: str) -> list[str]:
    return [kind for kind, each in ABILITIES.items() if each == ability]
