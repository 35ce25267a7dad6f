"""A run as its JSON tells it: each case with its contenders' seconds, round by round."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.floors import FRESH_COPY, PRODUCT

OURS = "ours"


@dataclass(frozen=True)
class CaseResult:
    op: str
    case: str
    used_by: str
    flops: int
    bytes: int
    seconds: dict[str, list[float]] = field(default_factory=dict)  # of contenders and floors
    details: dict[str, dict[str, Any]] = field(default_factory=dict)  # of contenders

    @property
    def contenders(self) -> list[str]:
        return [name for name in self.seconds if not name.startswith("floor")]

    def median(self, name: str) -> float:
        return median(self.seconds[name])

    def iqr(self, name: str) -> float:
        return interquartile_range(self.seconds[name])

    def fastest(self, *kinds: str) -> str | None:
        """Of the contenders that are of one of the kinds: named so, or so and then a comma."""
        names = [name for name in self.contenders if any(f"{name},".startswith(f"{kind},") for kind in kinds)]
        return min(names, key=self.median, default=None)

    def floor(self) -> list[float] | None:
        """By rounds: the product or the bytes, whichever takes longer; for the rounds that have both."""
        floors = [self.seconds[name] for name in (PRODUCT, FRESH_COPY) if name in self.seconds]
        return [max(times) for times in zip(*floors, strict=False)] if floors else None

    def times_floor(self, name: str = OURS) -> float | None:
        floor = self.floor()
        return None if floor is None or name not in self.seconds else ratio(self.seconds[name], floor)

    def speedup(self, over: str, of: str = OURS) -> float | None:
        """How many times as long `over` takes as `of`: the median of the rounds' ratios."""
        if over not in self.seconds or of not in self.seconds:
            return None
        return ratio(self.seconds[over], self.seconds[of])

    def peak_extra_bytes(self, name: str) -> int | None:
        return self.details[name].get("peak_extra_bytes")


@dataclass(frozen=True)
class RunResult:
    machine: dict[str, Any]
    commit: dict[str, Any]
    when: str
    cases: dict[tuple[str, str], CaseResult]

    def of(self, op: str) -> list[CaseResult]:
        return [result for result in self.cases.values() if result.op == op]


def load(path: Path) -> RunResult:
    """Raises:
    ValueError: the JSON is not of a run of this suite.
    """
    document = json.loads(path.read_text())
    if not is_run(document):
        raise ValueError(f"{path} must be the JSON of a run of this suite (make bench), and is not")
    cases: dict[tuple[str, str], CaseResult] = {}
    for entry in document["benchmarks"]:
        info = dict(entry["extra_info"])
        key = (info["op"], info["case"])
        if key not in cases:
            cases[key] = CaseResult(*key, info["used_by"], info["flops"], info["bytes"])
        cases[key].seconds[info["contender"]] = entry["stats"]["data"]
        if "share" in info:
            cases[key].details[info["contender"]] = info
    return RunResult(document["machine_info"], document["commit_info"], document["datetime"], cases)


def is_run(document: dict[str, Any]) -> bool:
    return bool(document.get("benchmarks")) and "depth" in document.get("machine_info", {})


def save_compact(path: Path, target: Path) -> None:
    """The same JSON with a line an entry and times to the tenth of a microsecond, small enough to keep."""
    document = json.loads(path.read_text())
    for entry in document["benchmarks"]:
        stats = entry["stats"]
        entry["stats"] = {"data": [round(second, 7) for second in stats["data"]], "median": stats["median"]}
        for unused in ("options", "params", "param", "group"):
            entry.pop(unused, None)
    lines = ",\n".join(json.dumps(entry) for entry in document.pop("benchmarks"))
    head = json.dumps(document)
    target.write_text(f'{head[:-1]}, "benchmarks": [\n{lines}\n]}}\n')


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """The median of the rounds' ratios, of the rounds that both have."""
    return median(n / d for n, d in zip(numerator, denominator, strict=False))


def interquartile_range(seconds: Sequence[float]) -> float:
    if len(seconds) < 2:
        return 0.0
    low, _, high = quantiles(seconds, n=4, method="inclusive")
    return high - low
