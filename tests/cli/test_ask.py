"""`dynfocus ask`: what it prints and draws."""

import json
import os

import pytest
from PIL import Image

from tests.cli.command import QUESTION
from tests.video.watermark import write_video


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
