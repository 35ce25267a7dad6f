"""Times contenders in turns: round after round, each once, so that drift hits all and every round gives a ratio."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Run = Callable[[], Any]
FEWEST_OF_THE_SLOW = 3


@dataclass(frozen=True)
class Pace:
    """How long a case may take, and how often a round repeats a call that is too short to time."""

    seconds: float  # of a case, if that leaves the fewest rounds; of one contender at the most
    fewest: int
    most: int
    sample: float  # seconds of one measurement, at least

    @classmethod
    def of(cls, depth: str) -> "Pace":
        return {
            "smoke": cls(seconds=0, fewest=1, most=1, sample=0),
            "quick": cls(seconds=2.5, fewest=5, most=30, sample=0.005),
            "full": cls(seconds=15, fewest=7, most=60, sample=0.01),
        }[depth]


def race(runs: Mapping[str, Run], pace: Pace) -> dict[str, list[float]]:
    """Seconds of one call of each, by rounds. Each must have been called before: compiling is not timed here.

    One so slow that it alone outlasts the case drops out after a few rounds, so its list is shorter.
    """
    with _no_collector():
        once = {name: _seconds(run, 1) for name, run in runs.items()}
        calls = {name: max(1, round(pace.sample / seconds)) for name, seconds in once.items()}
        a_round = sum(calls[name] * once[name] for name in runs)
        rounds = min(pace.most, max(pace.fewest, int(pace.seconds / a_round)))
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        names = list(runs)
        for round_number in range(rounds):
            first = round_number % len(names)
            for name in names[first:] + names[:first]:
                if len(seconds[name]) >= FEWEST_OF_THE_SLOW and sum(seconds[name]) > pace.seconds:
                    continue
                _settle(runs[name], calls[name])
                seconds[name].append(_seconds(runs[name], calls[name]))
    return seconds


def _seconds(run: Run, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def _settle(run: Run, calls: int) -> None:
    """Lets the threads of the last contender go to sleep (each OpenMP runtime's spin for milliseconds, on the cores of
    whoever is next), then wakes this one's where a cold start would show."""
    time.sleep(0.006)
    if calls > 1:
        run()


@contextmanager
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
