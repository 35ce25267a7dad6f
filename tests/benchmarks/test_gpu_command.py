"""make gpu without a GPU: time boxes, what survives a crash, exit codes, and that no rehearsal passes for a run."""

import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import correctness, document, goals, runner, tables
from benchmarks.gpu.facts import name_of
from benchmarks.gpu.processes import Ended, together
from benchmarks.gpu.races import Sizes, races
from benchmarks.gpu.runner import Box, Settings
from benchmarks.gpu.stage import Stage, read_rows
from benchmarks.roofline_lines import lines

SOURCE = Path(__file__).parents[2]
ROW = "from benchmarks.gpu.stage import Stage; import os, sys, time; stage = Stage.given(sys.argv[1]); "


def settings(tmp_path: Path, codes: dict[str, str], budget: float = 60, **fields) -> Settings:
    """Stages that are a line of Python each, with equal shares."""
    boxes = [Box(name, 1, needed=name == "needed") for name in codes]
    return Settings(
        budget,
        tmp_path / "out",
        fields.pop("rehearsed", False),
        boxes,
        command=lambda name: [sys.executable, "-c", ROW + codes[name], name],
    )


def written(tmp_path: Path, name: str = "gpu.json") -> dict:
    return json.loads((tmp_path / "out" / name).read_text())


def test_what_a_stage_leaves_over_is_the_next_ones() -> None:
    deadlines = runner.deadlines_of([Box("a", 1), Box("b", 3)], start=100, budget=40)
    assert deadlines == {"a": 110, "b": 140}


def test_the_stages_fit_nine_minutes() -> None:
    last = runner.deadlines_of(runner.BOXES, 0, 540)[runner.BOXES[-1].name]
    assert last == pytest.approx(540)


def test_rows_survive_a_crash_and_the_next_stage_goes_on(tmp_path: Path) -> None:
    codes = {
        "first": "stage.add('found', 'measured', value=1); os._exit(3)",
        "second": "stage.add('seen', 'passed', before=[row['name'] for row in stage.earlier_rows()])",
    }
    rows = runner.run(settings(tmp_path, codes))
    assert written(tmp_path)["rows"] == rows
    assert [row["name"] for row in rows] == ["found", "stage", "seen", "stage"]
    assert rows[1]["status"] == "failed" and "ended with 3" in rows[1]["why"]
    assert rows[2]["before"] == ["found", "stage"]
    assert document.failed(rows) == [rows[1]]


def test_the_file_is_whole_after_each_stage(tmp_path: Path) -> None:
    look = "import json; stage.add('so far', 'passed', rows=len(json.load(open(stage.out / 'gpu.json'))['rows']))"
    rows = runner.run(settings(tmp_path, {"first": "stage.add('one', 'passed')", "second": look}))
    assert next(row for row in rows if row["name"] == "so far")["rows"] == 2
    assert not list((tmp_path / "out").glob("*.new"))


def test_a_stage_that_outlasts_its_box_is_killed_with_all_it_started(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    child = f"import time; time.sleep(6); open({str(alive)!r}, 'w')"
    codes = {
        "slow": f"stage.add('begun', 'measured'); import subprocess; subprocess.run([sys.executable, '-c', {child!r}])",
        "next": "stage.add('reached', 'passed')",
    }
    start = time.time()
    rows = runner.run(settings(tmp_path, codes, budget=10))
    assert time.time() - start < 10
    assert [row["name"] for row in rows] == ["begun", "stage", "reached", "stage"]
    assert "killed" in rows[1]["why"] and rows[1]["status"] == "failed"
    time.sleep(max(0.0, start + 8 - time.time()))
    assert not alive.exists()


def test_a_stage_is_told_its_deadline_and_skips_what_it_cannot_reach(tmp_path: Path) -> None:
    codes = {
        "only": "stage.enough_time('long', 1000) or stage.enough_time('short', 0.1) and stage.add('done', 'passed')"
    }
    rows = runner.run(settings(tmp_path, codes))
    assert [(row["name"], row["status"]) for row in rows] == [
        ("long", "skipped"),
        ("done", "passed"),
        ("stage", "passed"),
    ]


def test_no_stage_begins_without_time(tmp_path: Path) -> None:
    rows = runner.run(settings(tmp_path, {"a": "os._exit(1)", "b": "os._exit(1)"}, budget=2))
    assert [row["status"] for row in rows] == ["skipped", "skipped"]


def test_without_what_all_need_nothing_else_runs(tmp_path: Path) -> None:
    rows = runner.run(
        settings(tmp_path, {"needed": "stage.add('device', 'failed')", "rest": "stage.add('x', 'passed')"})
    )
    assert [row["stage"] for row in rows] == ["needed", "needed"]


def test_half_a_line_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"name": "whole"}\n{"name": "ha')
    assert read_rows(path) == [{"name": "whole"}]


def test_a_rehearsal_cannot_pass_for_a_measurement(tmp_path: Path) -> None:
    runner.run(settings(tmp_path, {"a": "stage.add('x', 'measured', median_us=1.0)"}, rehearsed=True))
    found = written(tmp_path, "rehearsal.json")
    assert found["kind"] == document.REHEARSAL and all(row["rehearsed"] for row in found["rows"])
    with pytest.raises(ValueError, match="must be a 'dynfocus gpu run'"):
        document.load(tmp_path / "out" / "rehearsal.json")
    renamed = tmp_path / "gpu.json"
    renamed.write_text(json.dumps({**found, "kind": document.RUN, "rehearsed": False}))
    with pytest.raises(ValueError, match="must be"):
        document.load(renamed)


def test_a_measurement_is_read_back(tmp_path: Path) -> None:
    rows = runner.run(settings(tmp_path, {"a": "stage.add('x', 'measured', median_us=1.0)"}))
    assert document.load(tmp_path / "out" / "gpu.json")["rows"] == rows


def test_a_rehearsal_is_not_kept_among_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="a rehearsal measures nothing"):
        document.path_in(document.RESULTS / "gpu", rehearsed=True)
    assert document.path_in(document.RESULTS / "gpu", rehearsed=False).name == "gpu.json"
    assert command.main(["--dry-run", "--out", str(document.RESULTS)]) == 2
    assert "rehearsal measures nothing" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "code"), [("passed", 0), ("skipped", 0), ("measured", 0), ("failed", 1)])
def test_exit_codes(status: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"stage": "correctness", "name": "float64", "status": status, "op": "dpc_knn", "why": "off by 3"}
    monkeypatch.setattr(runner, "run", lambda settings: [row])
    assert command.main(["--out", str(tmp_path)]) == code


def test_a_status_is_one_of_four(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="status is 'fine'"):
        Stage("x", tmp_path / "rows", tmp_path, time.time(), True).add("x", "fine")


def test_without_a_gpu_it_says_so_and_fails(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run_command("--only", "facts", "--out", str(tmp_path))
    assert done.returncode == 1
    assert "no CUDA device" in done.stdout and "DRY_RUN=1" in done.stdout


def test_a_rehearsal_of_the_first_stage(tmp_path: Path) -> None:
    done = run_command("--dry-run", "--only", "facts", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "REHEARSAL" in done.stdout
    rows = json.loads((tmp_path / "rehearsal.json").read_text())["rows"]
    assert {"device", "copy bandwidth", "matmul", "empty launch"} <= {row["name"] for row in rows}


def run_command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments], cwd=SOURCE, capture_output=True, text=True
    )


def test_wheels_are_unpacked_without_pip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "thing-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("thing/__init__.py", "found = True\n")
    (site,) = command.unpacked(tmp_path, tmp_path / "site")
    assert (site / "thing" / "__init__.py").is_file()
    with pytest.raises(ValueError, match=r"must be a folder with \.whl files"):
        command.unpacked(tmp_path / "site", tmp_path / "other")


def test_processes_run_together_and_end_at_the_deadline(tmp_path: Path) -> None:
    commands = {
        name: [sys.executable, "-c", code] for name, code in {"quick": "exit(4)", "slow": "while True: pass"}.items()
    }
    start = time.time()
    ended = {end.name: end for end in together(commands, {name: {} for name in commands}, tmp_path, start + 4, jobs=2)}
    assert ended["quick"].code == 4 and ended["slow"].code is None
    assert time.time() - start < 8


def test_outcomes_of_tests_survive_a_crash_among_them(tmp_path: Path) -> None:
    tests = tmp_path / "test_some.py"
    tests.write_text(
        "import os, pytest\n"
        "@pytest.mark.parametrize('b', ['triton', 'cuda'])\n"
        "def test_right(b): pass\n"
        "@pytest.mark.parametrize('b', ['cuda'])\n"
        "def test_wrong(b): assert False\n"
        "@pytest.mark.parametrize('b', ['triton'])\n"
        "def test_dies(b): os._exit(7)\n"
        "def test_never(): pass\n"
    )
    stage = Stage("correctness", tmp_path / "rows.jsonl", tmp_path, time.time() + 60, True)
    environment = {
        correctness.outcomes.FILE: str(correctness.outcomes_of(stage, "tests-some-0")),
        correctness.outcomes.DEADLINE: str(time.time() + 60),
        "PYTHONPATH": str(SOURCE),
    }
    command_line = [sys.executable, "-m", "pytest", str(tests), *correctness.OPTIONS, "--rootdir", str(tmp_path)]
    (ended,) = together(
        {"tests-some-0": command_line}, {"tests-some-0": environment}, tmp_path, time.time() + 60, jobs=1
    )
    correctness.add_tests(stage, ended)
    rows = [(row["status"], row.get("backend"), row.get("counts")) for row in read_rows(stage.rows)]
    assert rows == [
        ("failed", None, None),  # ended with 7
        ("failed", "cuda", {"passed": 1, "failed": 1}),
        ("passed", "triton", {"passed": 1}),
        ("skipped", None, None),  # two were not reached
    ]


@pytest.mark.parametrize(("shard", "names"), [("0/2", ["test_a", "test_c"]), ("1/2", ["test_b"])])
def test_a_shard_has_every_nth_of_the_tests_selected(shard: str, names: list[str], tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text("def test_x(): pass\n" + "".join(f"def test_{n}(): pass\n" for n in "abc"))
    environment = {
        correctness.outcomes.FILE: str(tmp_path / "outcomes"),
        correctness.outcomes.DEADLINE: str(time.time() + 60),
        correctness.outcomes.SHARD: shard,
    }
    line = [sys.executable, "-m", "pytest", str(tmp_path), *correctness.OPTIONS, "--rootdir", str(tmp_path)]
    (ended,) = together({"x": [*line, "-k", "not test_x"]}, {"x": environment}, tmp_path, time.time() + 60, jobs=1)
    assert ended.code == 0, ended.said()
    assert [line["name"] for line in read_rows(tmp_path / "outcomes") if "name" in line] == names


def test_a_file_without_tests_of_a_backend_is_skipped(tmp_path: Path) -> None:
    stage = Stage("correctness", tmp_path / "rows.jsonl", tmp_path, time.time() + 60, True)
    correctness.add_tests(stage, Ended("tests-some-0", correctness.NO_TESTS, tmp_path / "log"))
    assert [row["status"] for row in read_rows(stage.rows)] == ["skipped"]


def made_up_rows(median_us: float) -> list[document.Row]:
    """Ours in 100 µs beside peers of the time given, at half the copy bandwidth."""
    head = {"stage": "benchmarks", "status": "measured"}
    rows: list[document.Row] = [{"stage": "facts", "name": "copy bandwidth", "status": "measured", "gb_per_s": 4000.0}]
    for op, frames, shape in (
        ("spatial_prototypes", 1000, "1000 x 256 x 1408"),
        ("dpc_knn", 3600, "1 x 3600 x 22528"),
        ("rods_pool", 1000, "1000 x 22 x 1408, 32 queries"),
    ):
        about = {**head, "op": op, "name": op, "frames": frames, "shape": shape, "dtype": "bf16"}
        own = {"contender": "ours", "of_roofline": 0.4, "gb_per_s": 2000.0}
        rows += [
            {**about, **own, "backend": "cuda", "chosen": True, "median_us": 100.0},
            {**about, **own, "backend": "triton", "chosen": False, "median_us": 1.0},
            {**about, "contender": "vectorised", "median_us": median_us},
        ]
    for name, more in (("connector", {"how_run": "eager"}), ("vision tower", {})):
        rows.append(
            {"stage": "connector", "status": "measured", "name": name, "frames": 1000, "median_us": 10.0, **more}
        )
    return rows


def test_goals_are_of_the_backend_that_users_get() -> None:
    values = {goal.what: goal.value(made_up_rows(1500.0)) for goal in goals.GOALS}
    assert values["spatial clustering, T = 1000, over vectorised eager"] == 15
    assert values["temporal clustering, T = 3600, over vectorised eager"] == 15
    assert values["rods over prototypes, T = 1000, of the copy bandwidth"] == 50
    assert values["connector, T = 1000, share of the ViT-g's time"] == 100
    assert values["connector, T = 64, as one CUDA graph"] is None


def test_the_summary_says_what_was_held_and_what_failed() -> None:
    rows = [*made_up_rows(1500.0), {"stage": "s", "name": "n", "status": "failed", "op": "dpc_knn", "why": "off by 3"}]
    text = tables.summary(rows, rehearsed=False)
    assert "REHEARSAL" not in text
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()}
    assert "missed" in lines["spatial clustering, T = 1000, over vectorised eager"]
    assert "held" in lines["temporal clustering, T = 3600, over vectorised eager"]
    assert "not in this run" in lines["connector, T = 64, as one CUDA graph"]
    assert "cuda 100, triton 1.0" in lines["spatial_prototypes 1000 x 256 x 1408 bf16"]
    assert "failed: s, n dpc_knn: off by 3" in text


def test_every_race_is_a_line_of_the_cost_model_which_finds_its_rows() -> None:
    known = {tuple(line.measured_as.get(key) for key in ("op", "shape", "dtype")) for line in lines((64,))}
    for race in races(Sizes(frames=(64,)), "cpu"):
        assert (race.op, race.shape, name_of(race.dtype)) in known
