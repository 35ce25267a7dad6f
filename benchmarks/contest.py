"""One case: every answer is checked against float64, then all race, and each contender becomes an entry of the JSON."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.cases import Case
from benchmarks.floors import Work
from benchmarks.memory import peak_extra_bytes, tensors
from benchmarks.race import Pace, Run, race
from benchmarks.results import OURS

Check = Callable[[str, Any], float]
PEER_SHARE = 0.9  # a peer that is right less often is computing something else


class Refused(AssertionError):
    """A contender whose answer is wrong: it gets no time."""


@dataclass(frozen=True)
class Contest:
    benchmark: BenchmarkFixture
    depth: str

    def __call__(
        self,
        case: Case,
        contenders: Mapping[str, Run],
        check: Check,
        work: Work,
        *,
        own_share: float = 1.0,
        repeatable: bool = True,
        details: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """Args:
            contenders: what computes the case, by name; ours are "ours" and whatever begins with it.
            check: the share of a contender's answer that float64 bears out.
            own_share: what is asked of ours; of peers, whose own precision may be at fault, PEER_SHARE.
            repeatable: ours must give the same bits on one thread.
            details: more to record of ours, found out once it has its times.

        Raises:
            Refused: naming all contenders that were wrong, once the others have their times.
        """
        verdicts: dict[str, dict[str, Any]] = {}
        refusals = []
        for name, run in contenders.items():
            try:
                verdicts[name] = judge(name, run, check, own_share, repeatable)
            except Refused as refusal:
                refusals.append(f"{name}: {refusal}")
        runs = {name: run for name, run in contenders.items() if name in verdicts}
        floors = work.floors()
        for run in floors.values():
            run()
        seconds = race({**runs, **floors}, Pace.of(self.depth))
        about = {"op": self._op, "case": str(case), "used_by": case.used_by, "flops": work.cost.flops}
        about |= {"bytes": work.cost.nbytes, "threads": torch.get_num_threads()}
        for name, verdict in verdicts.items():
            extra = details() if name == OURS else {}
            self._record(name, seconds[name], {**about, **verdict, **extra})
        for name in floors:
            self._record(name, work.counted(name, seconds[name]), about)
        if refusals:
            raise Refused(f"{self._op} {case}: {'; '.join(refusals)}")

    @property
    def _op(self) -> str:
        return self.benchmark.name.split("[")[0].removeprefix("test_")

    def _record(self, contender: str, seconds: list[float], info: dict[str, Any]) -> None:
        """pytest-benchmark times one function of a test after the other; what takes turns is handed to it as data."""
        entry = copy.copy(self.benchmark)
        entry.group = f"{info['op']} {info['case']}"
        entry.name = f"{entry.group} {contender}"
        entry.fullname = f"{self.benchmark.fullname.removesuffix(']')}-{contender}]"
        entry.params = None
        entry.extra_info = {**info, "contender": contender}
        stats = entry._make_stats(iterations=1)
        for second in seconds:
            stats.update(second)
        self.benchmark._mode = "race"  # else it warns that it was not used


def judge(name: str, run: Run, check: Check, own_share: float, repeatable: bool) -> dict[str, Any]:
    """The share of the answer that is right, and the memory of a second call.

    Raises:
        Refused: the answer is wrong, or ours has other bits on one thread.
    """
    ours = name.startswith(OURS)
    needed = own_share if ours else PEER_SHARE
    answer = run()
    share = check(name, answer)
    if not share >= needed:
        raise Refused(f"{share:.2%} of the answer agrees with float64, must be {needed:.0%}")
    if ours and repeatable and not _same_bits(answer, _on_one_thread(run)):
        raise Refused(f"other bits on one thread than on {torch.get_num_threads()}")
    del answer
    return {"share": share, "peak_extra_bytes": peak_extra_bytes(run)}


def _on_one_thread(run: Run) -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run()
    finally:
        torch.set_num_threads(threads)


def _same_bits(answer: Any, other: Any) -> bool:
    pairs = zip(tensors(answer), tensors(other), strict=True)
    return all(torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)) for a, b in pairs)
