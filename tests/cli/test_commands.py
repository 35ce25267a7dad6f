"""Usage errors, and the commands besides `ask`."""

import os
import re
import sys
from types import SimpleNamespace

import pytest
from transformers.utils import is_accelerate_available

from dynfocus.demo.questions import Question
from dynfocus.loading import embedded_model
from dynfocus.showcase import ShowcaseVideo
from tests.cli.command import assert_refused, run

SHOWCASE_RIGHT = 0.6  # of the embedded model's answers


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ([], "Missing command"),
        (["ask"], "Missing argument"),
        (["ask", "video.mp4"], "Missing argument"),
        (["aks", "video.mp4"], "No such command 'aks'"),
        (["ask", "a.mp4", "who?", "--jsno"], "No such option"),
        (["ask", "a.mp4", "who?", "--max-new-tokens", "0"], "Invalid value for '--max-new-tokens'"),
        (["eval", "demo", "--videos", "0"], "Invalid value for '--videos'"),
        (["train", "demo"], "Missing option '--output'"),
        (["assemble", "out", "--vision", "x"], "Missing option '--qformer'"),
    ],
)
def test_usage_errors(arguments, complaint):
    assert_refused(run(*arguments), complaint)


def test_a_random_model_fails_the_demo(model_directory, tmp_path):
    output = tmp_path / "new" / "demo"
    result = run("demo", "--model", model_directory, "--output", output, "--videos", 1)
    assert result.exit_code == 1, result.output
    assert sorted(os.listdir(output)) == ["index.html", "video-1.mp4", "video-1.png"]
    assert "WRONG" in result.stdout
    assert f"of 8 answers are right. See {output / 'index.html'}" in result.stdout
    page = (output / "index.html").read_text(encoding="utf-8")
    assert 'src="data:image/png;base64,' in page
    assert 'src="data:video/mp4;base64,' in page
    assert 'class="wrong"' in page
    assert "://" not in page  # Nothing is fetched from elsewhere.


def test_the_embedded_model_passes_the_demo(tmp_path):
    result = run("demo", "--output", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    right, asked = re.search(r"(\d+) of (\d+) answers are right", result.stdout).groups()
    assert int(asked) == 24
    assert int(right) >= SHOWCASE_RIGHT * 24


@pytest.mark.parametrize("right, exit_code", [(0, 1), (3, 1), (4, 0), (8, 0)])
def test_the_demo_fails_where_most_answers_are_wrong(model_directory, tmp_path, monkeypatch, right, exit_code):
    questions = [Question("color", "What color is the circle?", "red")] * 8
    answers = [SimpleNamespace(answer="red")] * right + [SimpleNamespace(answer="blue")] * (8 - right)
    shown = [ShowcaseVideo(tmp_path / "video-1.mp4", questions, answers)]
    monkeypatch.setattr("dynfocus.showcase.show", lambda *args, **kwargs: shown)
    result = run("demo", "--model", model_directory, "--output", tmp_path)
    assert result.exit_code == exit_code
    assert f"{right} of 8 answers are right" in result.stdout
    assert result.stdout.count("(right)") == right and result.stdout.count("(WRONG, it is red)") == 8 - right


def test_the_embedded_model_is_in_the_package():
    assert (embedded_model() / "config.json").is_file()


def test_training_needs_accelerate(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)  # as if it were not installed
    is_accelerate_available.cache_clear()
    try:
        result = run("train", "demo", "--output", tmp_path / "new")
    finally:
        is_accelerate_available.cache_clear()
    assert_refused(result, "pip install 'dynfocus[train]'")
    assert os.listdir(tmp_path) == []


def test_thin_commands(model_directory, tmp_path, monkeypatch):
    """`train`, `eval` and `assemble` hand on what they are given."""
    seen = {}
    monkeypatch.setattr("dynfocus.demo.train.train", lambda *args, **kwargs: seen.update(train=(args, kwargs)))
    monkeypatch.setattr("dynfocus.evaluation.demo.evaluate", lambda *args, **kwargs: seen.update(eval=(args, kwargs)))
    (tmp_path / "fields.json").write_text('{"num_events": 40}')

    def assemble(*args, **kwargs):
        seen["assemble"] = args, kwargs
        return "the report"

    monkeypatch.setattr("dynfocus.assembly.assemble", assemble)
    assert run("train", "demo", "--seed", 3, "--output", tmp_path / "new", "--overwrite").exit_code == 0
    assert seen["train"] == ((tmp_path / "new",), {"seed": 3, "overwrite": True})
    assert run("eval", "demo", "--model", model_directory, "--videos", 5).exit_code == 0
    assert seen["eval"] == ((model_directory,), {"videos": 5, "seed": 0})
    result = run(
        *("assemble", tmp_path / "out", "--vision", "v", "--qformer", "q", "--language-model", "l"),
        *("--config", tmp_path / "fields.json", "--dtype", "bfloat16"),
    )
    assert (result.exit_code, result.stdout) == (0, "the report\n")
    positional, named = seen["assemble"]
    assert positional == (tmp_path / "out",)
    assert named == {
        "vision": "v",
        "qformer": "q",
        "language_model": "l",
        "tokenizer": None,
        "qformer_tokenizer": None,
        "config_overrides": {"num_events": 40},
        "dtype": "bfloat16",
        "max_shard_size": "5GB",
        "seed": 0,
    }


def test_assemble_refuses(tmp_path):
    result = run(
        *("assemble", tmp_path / "out", "--vision", tmp_path / "v", "--qformer", tmp_path / "q"),
        *("--language-model", tmp_path / "l"),
    )
    assert_refused(result, str(tmp_path))
