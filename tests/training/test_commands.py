"""`dynfocus train`, `data`, `plan` and `merge` on the command line."""

import json

import pytest
import yaml

from tests.cli.command import assert_refused, run
from tests.training import material


@pytest.fixture
def recipe(model_directory, media, tmp_path):
    def write(annotations="data.json", **changes):
        settings = material.recipe(model_directory, media / annotations, **changes)
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings.to_dict()))
        return tmp_path / "recipe.yaml"

    return write


def test_train_and_ask(recipe, tmp_path, media):
    file = recipe(learning_rates={"connector": 1e-3})
    result = run("train", file, "--output", tmp_path / "run", "--set", "schedule.steps=1")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == str(tmp_path / "run" / "model")
    assert list(material.logged(tmp_path / "run")) == [1]
    answer = run("ask", media / "one.mp4", "what color?", "--model", tmp_path / "run" / "model", "--json")
    assert answer.exit_code == 0, answer.output


def test_train_refuses_in_one_line(recipe, tmp_path):
    file = recipe()
    assert_refused(run("train", file, "--set", "schedule.step=1"), "schedule.step is not a known key", "steps?")
    assert_refused(run("train", file), "output is missing")
    assert_refused(run("train", "stage9"), "neither a file nor a shipped recipe")
    assert_refused(run("train", tmp_path / "none.yaml"), "none.yaml: cannot be read")
    missing = run("train", file, "--output", tmp_path / "a", "--set", "data.sources[0].path=gone.json")
    assert_refused(missing, "gone.json: no such file")
    assert_refused(run("train", file, "--output", tmp_path / "a", "--set", "model=gone"), "no such model directory")
    assert not (tmp_path / "a").exists()


def test_data_check_counts(recipe):
    result = run("data", "check", recipe())
    assert result.exit_code == 0, result.output
    row = next(line for line in result.stdout.splitlines() if "data.json" in line)
    assert [cell.strip() for cell in row.split("│")[2:-1]] == ["8", "8", "4", "2", "2", "10", "0"]
    for name in ("tokens", "visual tokens", "answer tokens", "frames", "turns cut"):
        assert name in result.stdout


def test_data_check_names_what_is_broken(recipe, media):
    entries = [material.TEXT, material.BROKEN, {**material.IMAGE, "image": "gone.png"}, {"id": "empty"}]
    material.write_annotations(media, entries, "checked.json")
    result = run("data", "check", recipe("checked.json"))
    assert result.exit_code == 1
    assert "gone.png: no such file" in result.stdout
    assert "entry 3: it has no 'conversations'" in result.stdout
    assert "no-video.mp4" in result.stdout


def test_data_sample_can_be_trained_on(tmp_path, monkeypatch):
    """The shipped tiny recipe, from an empty folder to a model."""
    monkeypatch.chdir(tmp_path)
    assert run("data", "sample", "dynfocus-sample-data", "--videos", 4).exit_code == 0
    lines = (tmp_path / "dynfocus-sample-data" / "conversations.jsonl").read_text().splitlines()
    assert len(lines) == 4 and json.loads(lines[0])["conversations"][0]["value"].startswith("<video>\n")
    changes = ["--set", "schedule.steps=2", "--set", "data.num_frames=8"]
    result = run("train", "tiny-cpu", *changes)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "runs" / "tiny-cpu" / "model" / "config.json").exists()


def test_plan(recipe):
    result = run("plan", recipe(), "--gpus", 2, "--memory", 0.5, "--set", "schedule.batch_size=2")
    assert result.exit_code == 0, result.output
    for strategy in ("DDP", "ZeRO-2", "FSDP2", "ZeRO-3"):
        assert strategy in result.stdout
    assert "TFLOP a step" in result.stdout


def test_plan_says_when_nothing_fits(recipe):
    big = ["--set", "schedule.batch_size=1024", "--set", "schedule.global_batch_size=1024"]
    result = run("plan", recipe(), "--gpus", 1, "--memory", 0.1, *big)
    assert result.exit_code == 1
    assert result.stdout.count("does not fit") == 4


def test_merge_refuses_in_one_line(tmp_path, model_directory):
    assert_refused(run("merge", model_directory, tmp_path / "out"), "adapter_config.json is missing")
