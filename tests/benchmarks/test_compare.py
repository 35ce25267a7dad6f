from pathlib import Path

import pytest

from benchmarks.compare import Change, changes, main
from benchmarks.results import CaseResult
from tests.benchmarks.documents import write_run


def change(old: list[float], new: list[float], peer_old: list[float], peer_new: list[float]) -> Change:
    return Change(
        CaseResult("op", "case", "someone", 1, 1, {"ours": old, "research": peer_old}),
        CaseResult("op", "case", "someone", 1, 1, {"ours": new, "research": peer_new}),
    )


QUIET = [1.0, 1.0, 1.0, 1.01]


def scaled(seconds: list[float], by: float) -> list[float]:
    return [by * second for second in seconds]


@pytest.mark.parametrize(("by", "verdict"), [(1.2, "**slower**"), (0.8, "**faster**"), (1.02, "same")])
def test_changes_of_a_quiet_machine(by: float, verdict: str) -> None:
    assert change(QUIET, scaled(QUIET, by), QUIET, QUIET).verdict == verdict


def test_drift_that_all_share_is_no_change() -> None:
    assert change(QUIET, scaled(QUIET, 1.5), QUIET, scaled(QUIET, 1.5)).verdict == "same"
    assert change(QUIET, QUIET, QUIET, scaled(QUIET, 1.5)).verdict == "**faster**"


def test_a_change_within_the_quartiles_is_noise() -> None:
    noisy = [0.7, 0.9, 1.1, 1.4]
    assert change(noisy, scaled(noisy, 1.2), QUIET, QUIET).verdict == "same"


def test_only_cases_of_both_are_compared() -> None:
    result = CaseResult("op", "case", "someone", 1, 1, {"ours": [1.0]})
    peer_only = CaseResult("op", "peer", "someone", 1, 1, {"research": [1.0]})
    old = {("op", "case"): result, ("op", "gone"): result, ("op", "peer"): peer_only}
    found = changes(old, {("op", "case"): result, ("op", "new"): result, ("op", "peer"): peer_only})
    assert [change.new.case for change in found] == ["case"]
    assert found[0].drift == 1.0


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [
        write_run(tmp_path / f"{by}.json", {("dpc_knn", "2x3x4-fp32"): {"ours": scaled(QUIET, by), "research": QUIET}})
        for by in (1, 2)
    ]
    main([str(path) for path in paths])
    assert "| `dpc_knn` 2×3×4, fp32 | 1.00 s | 2.00 s | 2.00 | 1.00 |" in capsys.readouterr().out


def test_a_file_of_something_else_ends_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("{}")
    with pytest.raises(SystemExit, match="must be the JSON of a run"):
        main([str(path), str(path)])
