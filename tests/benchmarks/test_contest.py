from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.contest import Contest, Refused
from benchmarks.counts import Cost
from benchmarks.floors import Work


@dataclass(frozen=True, kw_only=True)
class Shape(Case):
    n: int = 4

    @property
    def shape(self) -> str:
        return f"{self.n}"


class FakeBenchmark(SimpleNamespace):
    """What a contest touches of pytest-benchmark's fixture; keeps what is recorded."""

    def __init__(self) -> None:
        super().__init__(name="test_op[case]", fullname="file::test_op[case]", entries={})

    def _make_stats(self, iterations: int) -> SimpleNamespace:
        seconds: list[float] = []
        self.entries[self.extra_info["contender"]] = (self.extra_info, seconds)
        return SimpleNamespace(update=seconds.append)


def contest(contenders: dict[str, Callable[[], Any]], **options: Any) -> dict[str, Any]:
    """What was recorded, by contender; an answer is right where it is 1."""
    benchmark = FakeBenchmark()
    call = Contest(benchmark, "smoke")  # type: ignore[arg-type]
    try:
        call(
            Shape(used_by="someone"), contenders, lambda _, answer: (answer == 1).double().mean().item(),
            Work(Cost(flops=0, read=8, written=8)), **options,
        )  # fmt: skip
    except Refused as refusal:
        return {**benchmark.entries, "refusal": str(refusal)}
    return dict(benchmark.entries)


def right() -> Tensor:
    return torch.ones(100)


def wrong_in(number: int) -> Callable[[], Tensor]:
    return lambda: torch.ones(100).index_fill(0, torch.arange(number), 2)


def test_what_is_right_is_recorded_with_the_floors() -> None:
    recorded = contest({"ours": right, "research": right})
    assert set(recorded) == {"ours", "research", "floor: fresh copy", "floor: warm copy"}
    info, seconds = recorded["ours"]
    assert info["op"] == "op"
    assert info["case"] == "4-fp32"
    assert info["share"] == 1.0
    assert len(seconds) == 1
    assert seconds[0] > 0


def test_ours_must_be_right_everywhere_and_gets_no_time_else() -> None:
    recorded = contest({"ours": wrong_in(1), "research": right})
    assert "ours: 99.00% of the answer agrees" in recorded["refusal"]
    assert "ours" not in recorded
    assert "research" in recorded  # the others have theirs


def test_near_ties_may_be_allowed_for() -> None:
    assert "ours" in contest({"ours": wrong_in(1)}, own_share=0.98)


def test_a_peers_own_imprecision_is_told() -> None:
    recorded = contest({"ours": right, "research": wrong_in(5)})
    assert recorded["research"][0]["share"] == pytest.approx(0.95)
    assert "refusal" not in recorded


def test_a_peer_that_computes_something_else_is_out() -> None:
    recorded = contest({"ours": right, "research": wrong_in(20)})
    assert "research" not in recorded
    assert "research: 80.00%" in recorded["refusal"]


def test_nan_is_wrong() -> None:
    recorded = contest({"ours": lambda: torch.full((100,), torch.nan)})
    assert "ours" not in recorded


def test_ours_must_have_the_same_bits_on_one_thread() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        recorded = contest({"ours": lambda: torch.ones(100) + 0 * torch.rand(100), "research": right})
        assert "ours" in recorded  # other values at random would be other bits, but these are ones
        by_threads = lambda: torch.full((100,), 1.0 if torch.get_num_threads() == 2 else -1.0)  # noqa: E731
        assert "other bits on one thread than on 2" in contest({"ours": by_threads})["refusal"]
        assert "research" in contest({"ours": right, "research": by_threads})
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_details_are_recorded_of_ours() -> None:
    recorded = contest({"ours": right, "ours, fp32": right}, details=lambda: {"parts": {"rest": 1.0}})
    assert recorded["ours"][0]["parts"] == {"rest": 1.0}
    assert "parts" not in recorded["ours, fp32"][0]
