"""Every problem of the user is one line and exit code 2, and leaves nothing behind."""

import json
import os
from pathlib import Path

import av
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.cli.command import QUESTION, assert_refused, run
from tests.video.watermark import write_silence, write_video

BAD_VIDEOS = {
    "missing.mp4": (lambda path: None, "no such file"),
    "directory.mp4": (lambda path: path.mkdir(), "is a directory"),
    "empty.mp4": (lambda path: path.touch(), "is empty"),
    "text.mp4": (lambda path: path.write_text("hello\n" * 500), "not a video"),
    "truncated.mp4": (lambda path: _cut(write_video(path, 30)), "damaged beyond reading"),
    "sound.mp4": (lambda path: _sound(path), "holds no video, only audio"),
    "two\nlines.mp4": (lambda path: None, "no such file"),
}


def _cut(path):
    path.write_bytes(path.read_bytes()[:900])


def _sound(path):
    with av.open(str(path), "w") as container:
        write_silence(container, container.add_stream("aac", rate=48000), 0.5)


@pytest.mark.parametrize("name", BAD_VIDEOS)
def test_bad_videos(ask, tmp_path, name):
    make, complaint = BAD_VIDEOS[name]
    make(tmp_path / name)
    before = sorted(os.listdir(tmp_path))
    assert_refused(ask(tmp_path / name, QUESTION, "--plot", tmp_path / "seen.png"), complaint)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(
    "questions, complaint",
    [
        ([""], "the question is empty"),
        ([QUESTION, "  "], "the question is empty"),
        (["what is a <video> ?"], "the question holds '<video>'"),
        (["circle " * 99], "the question has 101 tokens but the model's Q-Former takes at most 40"),
    ],
)
def test_bad_questions(ask, video, tmp_path, questions, complaint):
    assert_refused(ask(video, *questions, "--plot", tmp_path / "seen.png"), complaint)
    assert os.listdir(tmp_path) == []


def test_an_answer_that_does_not_fit(model_directory, video):
    result = run("ask", video, QUESTION, "--model", model_directory, "--max-new-tokens", 9999)
    assert_refused(result, "the language model takes at most 512")


def _copy(source: Path, target: Path, *, leave_out=()) -> Path:
    target.mkdir()
    for file in source.iterdir():
        if file.name in leave_out:
            continue
        if file.is_dir():
            _copy(file, target / file.name)
        else:
            (target / file.name).write_bytes(file.read_bytes())
    return target


def _config(directory, **fields):
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **fields}))


def _without_a_weight(directory):
    weights = load_file(directory / "model.safetensors")
    del weights["query_tokens"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def _with_weights_too_many(directory):
    weights = load_file(directory / "model.safetensors")
    weights |= {f"query_tokens_{number}": weights["query_tokens"].clone() for number in range(5)}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def _truncated_weights(directory):
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


BAD_MODELS = {
    "no config": (lambda d: (d / "config.json").unlink(), "config.json is missing"),
    "config is no JSON": (lambda d: (d / "config.json").write_text("{"), "config.json is not readable JSON"),
    "another type": (lambda d: _config(d, model_type="llama"), "its model type is 'llama', must be 'dynfocus'"),
    "no type": (lambda d: _config(d, model_type=None), "its model type is None"),
    "bad field": (lambda d: _config(d, num_events="many"), "cannot be loaded"),
    "bad setting": (lambda d: _config(d, key_ratio=-1.0), "cannot be loaded"),
    "no processor": (lambda d: (d / "processor_config.json").unlink(), "processor_config.json is missing"),
    "no tokenizer": (lambda d: (d / "tokenizer_config.json").unlink(), "tokenizer_config.json is missing"),
    "broken tokenizer": (lambda d: (d / "tokenizer.json").write_text("{}"), "cannot be loaded"),
    "no Q-Former tokenizer": (lambda d: _remove_all(d / "qformer_tokenizer"), "qformer_tokenizer is missing"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "has no weights"),
    "a weight missing": (_without_a_weight, "incomplete, 1 weights are missing, such as query_tokens"),
    "weights too many": (
        _with_weights_too_many,
        "5 weights have no place in the model, such as query_tokens_0, query_tokens_1, query_tokens_2",
    ),
    "weights of another shape": (lambda d: _config(d, num_query_tokens=9), "cannot be loaded"),
    "truncated weights": (_truncated_weights, "not a readable safetensors file"),
}


def _remove_all(directory):
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()


@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_models(model_directory, video, tmp_path, case):
    spoil, complaint = BAD_MODELS[case]
    model = _copy(model_directory, tmp_path / "model")
    spoil(model)
    result = run("ask", video, QUESTION, "--model", model, "--plot", tmp_path / "seen.png")
    assert_refused(result, str(model), complaint)
    assert os.listdir(tmp_path) == ["model"]


def test_missing_models(video, tmp_path):
    assert_refused(run("ask", video, QUESTION, "--model", tmp_path / "nothing"), "no such model directory")
    assert_refused(run("ask", video, QUESTION, "--model", video), "not a directory")
    assert_refused(run("ask", video, QUESTION, "--model", tmp_path), "config.json is missing")
    assert_refused(run("eval", "demo", "--model", tmp_path / "nothing"), "no such model directory")


NOT_UTF8 = "\udcff"  # what Python makes of the byte ff in an argument


def test_names_that_are_no_text(ask, video, tmp_path):
    name = tmp_path / NOT_UTF8
    assert_refused(ask(name, QUESTION), "no such file")
    assert_refused(ask(video, QUESTION, "--plot", name / "seen.png"), "cannot be written")
    assert_refused(ask(video, QUESTION, "--device", NOT_UTF8), "cannot be used")
    assert_refused(run("ask", video, QUESTION, "--model", name), "no such model directory")
    name.write_bytes(video.read_bytes())
    result = ask(name, QUESTION, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)[0]["video"] == str(name)


def test_bad_device(ask, video):
    assert_refused(ask(video, QUESTION, "--device", "abacus"), "device 'abacus' cannot be used")


def test_unwritable_outputs_are_refused_first(video, tmp_path):
    """Before the model is loaded: it does not even exist."""
    (tmp_path / "directory.png").mkdir()
    (tmp_path / "file").touch()
    before = sorted(os.listdir(tmp_path))
    for plot in ("directory.png", "nowhere/seen.png", "file/seen.png", "a" * 300 + ".png"):
        result = run("ask", video, QUESTION, "--model", "nothing", "--plot", tmp_path / plot)
        assert_refused(result, "cannot be written")
    for output in ("file", "file/demo", "a" * 300):
        assert_refused(run("demo", "--model", "nothing", "--output", tmp_path / output), "cannot be written")
    assert_refused(run("ask", video, QUESTION, "--plot", tmp_path / "seen.jpg"), "must end in .png")
    assert sorted(os.listdir(tmp_path)) == before


def test_a_read_only_directory(video, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    plot = tmp_path / "seen.png"
    assert_refused(run("ask", video, QUESTION, "--plot", plot), f"{plot}: cannot be written (Permission denied)")
    assert_refused(run("demo", "--output", tmp_path), "cannot be written (Permission denied)")


def test_a_plot_never_replaces_its_video(tmp_path):
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 64)).save(picture)
    before = picture.read_bytes()
    assert_refused(run("ask", picture, QUESTION, "--plot", picture), "would overwrite the video")
    assert picture.read_bytes() == before


def test_nothing_is_left_of_a_plot_that_fails(ask, video, tmp_path, monkeypatch):
    def fail(answers):
        raise KeyboardInterrupt

    monkeypatch.setattr("dynfocus.plotting.plot_answers", fail)
    result = ask(video, QUESTION, "--plot", tmp_path / "seen.png")
    assert result.exit_code != 0
    assert os.listdir(tmp_path) == []
