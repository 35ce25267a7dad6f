"""`python -m benchmarks.compare OLD.json NEW.json`: what a change did to each time, and is it beyond noise."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.cases import read_as
from benchmarks.results import OURS, CaseResult, load
from benchmarks.tables import duration, table

LEAST = 0.03  # a change below this is none, however quiet the machine


@dataclass(frozen=True)
class Change:
    old: CaseResult
    new: CaseResult

    @property
    def ratio(self) -> float:
        return self.new.median(OURS) / self.old.median(OURS)

    @property
    def drift(self) -> float:
        """What became of everyone else in the case between the runs: peers and floors have not changed."""
        others = [name for name in self.new.seconds if name in self.old.seconds and not name.startswith(OURS)]
        return median([self.new.median(name) / self.old.median(name) for name in others] or [1.0])

    @property
    def noise(self) -> float:
        """Of a ratio of the medians: the two relative interquartile ranges, as errors add up."""
        relative = [result.iqr(OURS) / result.median(OURS) for result in (self.old, self.new)]
        return sum(part**2 for part in relative) ** 0.5

    @property
    def verdict(self) -> str:
        change = self.ratio / self.drift - 1
        if abs(change) <= max(LEAST, self.noise):
            return "same"
        return "**slower**" if change > 0 else "**faster**"


def changes(old: dict[tuple[str, str], CaseResult], new: dict[tuple[str, str], CaseResult]) -> list[Change]:
    """Of the cases that both have, in the order of the new one."""
    both = [(old[key], result) for key, result in new.items() if key in old]
    return [Change(*pair) for pair in both if all(OURS in result.seconds for result in pair)]


def changes_table(found: list[Change]) -> str:
    rows = [
        [
            f"`{change.new.op}` {read_as(change.new.case)}",
            duration(change.old.median(OURS)),
            duration(change.new.median(OURS)),
            f"{change.ratio:.2f}",
            f"{change.drift:.2f}",
            f"± {change.noise:.2f}",
            change.verdict,
        ]
        for change in found
    ]
    return table(("op, shape", "old", "new", "new / old", "others' new / old", "noise", ""), rows)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args(arguments)
    try:
        old, new = load(options.old), load(options.new)
    except (OSError, ValueError) as error:
        sys.exit(f"benchmarks.compare: {error}")
    found = changes(old.cases, new.cases)
    if not found:
        sys.exit("benchmarks.compare: the runs have no case in common")
    print(changes_table(found))
    for name in ("cpu", "threads", "depth", "versions"):
        if old.machine.get(name) != new.machine.get(name):
            print(f"\nMind: {name} was {old.machine.get(name)}, is {new.machine.get(name)}.")
    print(
        "\nA change counts beyond what the others' times did, and beyond the noise (both runs' interquartile ranges)."
    )


if __name__ == "__main__":
    main()
