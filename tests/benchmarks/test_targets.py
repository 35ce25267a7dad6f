import importlib
from pathlib import Path

import pytest

from benchmarks import targets
from benchmarks.results import CaseResult
from benchmarks.targets import MEMORY_TARGETS, TARGETS, Bound, Target, compiled, floor, missed, research
from tests.benchmarks.documents import read_run

KEY = ("dpc_knn", "1x10x10-2-k2-fp32")


def case(seconds: dict[str, list[float]]) -> CaseResult:
    return CaseResult(*KEY, "someone", 10, 10, seconds)


@pytest.mark.parametrize("target", [*TARGETS, *MEMORY_TARGETS], ids=lambda target: f"{target.op}-{target.case}")
def test_every_target_is_of_a_case_of_the_suite(target: Target) -> None:
    module = importlib.import_module(f"benchmarks.test_{target.op.removesuffix('_growth')}")
    cases = {str(case): case for case in [*module.CASES, *getattr(module, "GROWTH", [])]}
    assert target.case in cases
    assert isinstance(target, targets.MemoryTarget) or cases[target.case].depth == "quick"


@pytest.mark.parametrize(
    ("bound", "measured", "held"),
    [(floor(1.5), 1.5, True), (floor(1.5), 1.51, False), (research(4), 4.0, True), (research(4), 3.99, False)],
)
def test_gates(bound: Bound, measured: float, held: bool) -> None:
    assert bound.holds(measured) is held


def test_compiled_is_the_best_of_torch_even_where_that_is_eager() -> None:
    seconds = {
        "ours": [1.0],
        "compiled, top-k": [4.0],
        "compiled, minima": [3.0],
        "vectorised": [2.0],
        "research": [9.0],
    }
    assert compiled(0).measured(case(seconds)) == 2.0
    assert research(0).measured(case(seconds)) == 9.0


def test_what_a_run_lacks_is_not_measured() -> None:
    assert compiled(0).measured(case({"ours": [1.0]})) is None
    assert floor(0).measured(case({"ours": [1.0]})) is None


def test_missed_gates_are_told_and_goals_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "TARGETS", (Target(*KEY, (floor(1.5), research(2)), (research(100),)),))
    monkeypatch.setattr(targets, "MEMORY_TARGETS", (targets.MemoryTarget(*KEY, 5 * 10**5, "why"),))
    times = {KEY: {"ours": [2.0], "research": [5.0], "floor: product": [1.0], "floor: fresh copy": [0.5]}}
    lines = missed(read_run(tmp_path / "run.json", times))
    assert [line.split(": ", 1)[1] for line in lines] == ["2.00, must be ≤ 1.5 × floor", "1.0 MB, must be ≤ 0.5 MB"]
