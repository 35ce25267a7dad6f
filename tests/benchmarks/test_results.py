import json
from pathlib import Path

import pytest

from benchmarks.results import CaseResult, load, ratio, save_compact
from tests.benchmarks.documents import read_run, write_run


def result(**seconds: list[float]) -> CaseResult:
    return CaseResult(
        "op", "case", "someone", 10, 10, {name.replace("_", " "): times for name, times in seconds.items()}
    )


def test_a_ratio_is_taken_within_rounds() -> None:
    # Both slow down fivefold in the third round: by rounds the ratio is 2 throughout, whatever the medians say.
    assert ratio([2, 2.2, 10], [1, 1.1, 5]) == pytest.approx(2)


def test_a_ratio_to_one_that_dropped_out_uses_the_rounds_both_have() -> None:
    assert ratio([30, 30, 30], [3, 3, 3, 1, 1, 1, 1]) == 10


def test_the_floor_is_the_longer_by_rounds() -> None:
    seconds = {
        "floor: product": [1.0, 3.0],
        "floor: fresh copy": [2.0, 2.0],
        "floor: warm copy": [9.0, 9.0],
        "ours": [4.0, 6.0],
    }
    case = CaseResult("op", "case", "someone", 10, 10, seconds)
    assert case.floor() == [2.0, 3.0]
    assert case.times_floor() == 2.0


def test_without_floors_there_is_none() -> None:
    assert result(ours=[1.0]).floor() is None
    assert result(ours=[1.0]).times_floor() is None


def test_kinds_of_contenders() -> None:
    seconds = {
        "compiled, top-k": [3.0],
        "compiled, minima": [2.0],
        "compiledish": [1.0],
        "ours": [1.0],
        "ours, fp32": [5.0],
    }
    case = CaseResult("op", "case", "someone", 10, 10, seconds)
    assert case.fastest("compiled") == "compiled, minima"
    assert case.fastest("ours, fp32") == "ours, fp32"
    assert case.fastest("research") is None


def test_the_compact_file_says_the_same(tmp_path: Path) -> None:
    full = write_run(
        tmp_path / "full.json", {("op", "a"): {"ours": [0.1, 0.2], "research": [1.0]}, ("op", "b"): {"ours": [3.0]}}
    )
    save_compact(full, tmp_path / "compact.json")
    assert load(tmp_path / "compact.json").cases == load(full).cases


def test_another_suites_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"machine_info": {"node": "x"}, "commit_info": {}, "benchmarks": [{}]}))
    with pytest.raises(ValueError, match="must be the JSON of a run of this suite"):
        load(path)


def test_details_are_the_contenders_only(tmp_path: Path) -> None:
    run = read_run(tmp_path / "run.json", {("op", "a"): {"ours": [1.0], "floor: product": [0.5]}})
    assert run.cases["op", "a"].contenders == ["ours"]
    assert list(run.cases["op", "a"].details) == ["ours"]
