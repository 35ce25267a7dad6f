"""The command line through real processes: their own streams, exit codes, imports and memory."""

import json
import os
import subprocess
import sys

from tests.cli.command import QUESTION
from tests.video.watermark import PRINT_PEAK_MEMORY, write_still


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
        "commands = 'ask,demo,eval demo,train,train demo,train recipe,data check,data sample,plan,merge,assemble'\n"
        "for arguments in ([], *map(str.split, commands.split(','))):\n"
        "    assert CliRunner().invoke(app, [*arguments, '--help']).exit_code == 0\n"
        "print(*{'torch', 'transformers', 'matplotlib', 'av', 'numpy'} & set(sys.modules))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
