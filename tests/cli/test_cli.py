"""The commands: what they print and write, and that every problem of the user is one line and exit code 2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers.utils import is_accelerate_available
from typer.testing import CliRunner

from dynfocus.cli import app
from dynfocus.loading import embedded_model
from tests.video.watermark import PRINT_PEAK_MEMORY, write_silence, write_still, write_video

QUESTION = "what color is the circle?"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_refused(result, *complaints):
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("dynfocus: ")
    for complaint in complaints:
        assert complaint in result.stderr


@pytest.fixture
def ask(model_directory):
    return lambda *arguments: run("ask", *arguments, "--model", model_directory, "--max-new-tokens", 3)


def test_ask(ask, video):
    result = ask(video, QUESTION, "which came first")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    first, second = result.stdout.split("\n\n")
    assert first.startswith(f"Q: {QUESTION}\nA: ")
    assert second.startswith("Q: which came first\nA: ")
    assert "key frames: " in first
    assert "tokens: 54 (cones 30, rods 24) in place of 192 (12 frames × 16 patches)" in first
    for stage in ("decode", "preprocess", "vision tower", "connector", "language model"):
        assert stage in first
    assert "lost" not in result.stdout


def test_json(ask, video):
    result = ask(video, QUESTION, "which came first", "--json")
    assert result.exit_code == 0, result.output
    answers = json.loads(result.stdout)
    assert [answer["question"] for answer in answers] == [QUESTION, "which came first"]
    event = {"frame": int, "seconds": float, "score": float, "is_key": bool, "spans": [[float]]}
    schema = {
        "video": str,
        "question": str,
        "answer": str,
        "key_frames": [{"frame": int, "seconds": float}],
        "events": [event],
        "tokens": {"used": int, "cones": int, "rods": int, "dense": int, "patches_per_frame": int},
        "frames": {"sampled": int, "in_file": int, "lost": int, "damaged": int, "duration_seconds": float},
        "seconds": {
            "decode": float,
            "preprocess": float,
            "vision_tower": float,
            "connector": float,
            "language_model": float,
        },
    }
    for answer in answers:
        assert _matches(answer, schema)
        assert answer["video"] == str(video)
        assert len(answer["key_frames"]) == 3
        assert answer["frames"] == {
            "sampled": 12,
            "in_file": 40,
            "lost": 0,
            "damaged": 0,
            "duration_seconds": pytest.approx(4 / 3),
        }


def _matches(value, schema) -> bool:
    """A list schema holds for every element of a list that is not empty, a dictionary's for exactly its keys."""
    if isinstance(schema, list):
        return isinstance(value, list) and bool(value) and all(_matches(item, schema[0]) for item in value)
    if isinstance(schema, dict):
        return value.keys() == schema.keys() and all(_matches(value[key], schema[key]) for key in schema)
    return type(value) is schema


def test_plot(ask, video, tmp_path):
    plot = tmp_path / "seen.png"
    plot.write_text("an old file gives way")
    umask = os.umask(0o022)
    os.umask(umask)
    result = ask(video, QUESTION, "--plot", plot)
    assert result.exit_code == 0, result.output
    with Image.open(plot) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert min(picture.size) > 500
    assert os.listdir(tmp_path) == ["seen.png"]
    assert plot.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize(
    "name, codec",
    [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9"), ("a.gif", "gif"), ("a.avi", "mpeg4")],
)
def test_containers(ask, tmp_path, name, codec):
    path = write_video(tmp_path / name, 20, codec=codec, pix_fmt="rgb8" if codec == "gif" else "yuv420p")
    result = ask(path, QUESTION, "--json")
    assert result.exit_code == 0, result.output
    (answer,) = json.loads(result.stdout)
    assert answer["answer"]
    assert answer["frames"]["in_file"] == 20


def test_a_broken_video_is_answered_and_the_loss_is_said(ask, broken_video, tmp_path):
    result = ask(broken_video, QUESTION, "--plot", tmp_path / "a.png")
    assert result.exit_code == 0, result.output
    assert "broken video: 4 of 40 frames are lost" in result.stdout
    assert (tmp_path / "a.png").exists()
    frames = json.loads(ask(broken_video, QUESTION, "--json").stdout)[0]["frames"]
    assert frames["lost"] == 4
    assert frames["sampled"] <= 12


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


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ([], "Missing command"),
        (["ask"], "Missing argument"),
        (["ask", "video.mp4"], "Missing argument"),
        (["aks", "video.mp4"], "No such command 'aks'"),
        (["ask", "a.mp4", "who?", "--jsno"], "No such option"),
        (["ask", "a.mp4", "who?", "--max-new-tokens", "0"], "Invalid value for '--max-new-tokens'"),
        (["eval", "demo", "--pairs", "0"], "Invalid value for '--pairs'"),
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
    assert f"of 3 answers are right. See {output / 'index.html'}" in result.stdout
    page = (output / "index.html").read_text(encoding="utf-8")
    assert 'src="data:image/png;base64,' in page
    assert 'src="data:video/mp4;base64,' in page
    assert 'class="wrong"' in page
    assert "http" not in page  # Nothing is fetched from elsewhere.


def test_the_embedded_model_passes_the_demo(tmp_path):
    result = run("demo", "--output", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    assert "9 of 9 answers are right" in result.stdout


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
    assert run("eval", "demo", "--model", model_directory, "--pairs", 5).exit_code == 0
    assert seen["eval"] == ((model_directory,), {"pairs": 5, "seed": 0})
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


# The same through real processes: their own streams, exit codes and imports.


def process(*arguments, **options):
    command = [sys.executable, "-m", "dynfocus", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, **options)


def test_process_refuses_in_one_line(tmp_path):
    result = process("ask", tmp_path / "missing.mp4", QUESTION)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"dynfocus: {tmp_path / 'missing.mp4'}: no such file\n"


def test_process_refuses_a_model_in_one_line(video, tmp_path):
    result = process("ask", video, QUESTION, "--model", tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


def test_process_answers_with_json_alone_on_stdout(video, model_directory, tmp_path):
    result = process(
        *("ask", video, QUESTION, "--json", "--model", model_directory, "--plot", tmp_path / "a.png"),
        env={**os.environ, "OMP_NUM_THREADS": "1", "LC_ALL": "C"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert json.loads(result.stdout)[0]["question"] == QUESTION
    assert os.listdir(tmp_path) == ["a.png"]


def test_process_refuses_a_question_in_another_encoding(video, model_directory):
    command = [sys.executable, "-m", "dynfocus", "ask", video, b"what color is the \xe9", "--model", model_directory]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "dynfocus: the question 'what color is the \\udce9' is not Unicode text\n"


def test_process_answers_on_a_terminal_that_lacks_letters(video, model_directory):
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = process("ask", video, QUESTION, "--model", model_directory, env=ascii_only)
    assert (result.returncode, result.stderr) == (0, "")
    assert "(12 frames \\xd7 16 patches)" in result.stdout


def test_one_hour_in_bounded_memory(model_directory, tmp_path):
    """One frame a second: an hour of them takes hardly more memory than ten seconds."""
    program = f"from dynfocus.cli import app\ntry:\n    app()\nfinally:\n    exec({PRINT_PEAK_MEMORY!r})"
    frames, peak = [], []
    for num_frames in (10, 3600):
        path = write_still(tmp_path / "video.mp4", num_frames, options={"preset": "ultrafast", "g": "60"})
        command = [sys.executable, "-c", program, "ask", path, QUESTION, "--json", "--model", model_directory]
        result = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
        output, _, memory = result.stdout.rstrip().rpartition("\n")
        frames.append(json.loads(output)[0]["frames"])
        peak.append(int(memory))
    assert [seen["in_file"] for seen in frames] == [10, 3600]
    assert [seen["sampled"] for seen in frames] == [10, 12]
    assert frames[1]["duration_seconds"] == 3600
    assert peak[1] - peak[0] < 60e6


def test_help_is_quick():
    """No command's help imports what takes seconds."""
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from dynfocus.cli import app\n"
        "for arguments in ([], ['ask'], ['demo'], ['eval', 'demo'], ['train', 'demo'], ['assemble']):\n"
        "    assert CliRunner().invoke(app, [*arguments, '--help']).exit_code == 0\n"
        "print(*{'torch', 'transformers', 'matplotlib', 'av', 'numpy'} & set(sys.modules))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
