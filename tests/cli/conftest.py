"""A tiny random model on disk, and short videos to ask it about."""

import pytest

from tests.cli.command import run
from tests.model import tiny
from tests.video.watermark import break_packet, write_video


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    model = tiny.model()
    model.save_pretrained(directory)
    tiny.processor(model.config, num_frames=12).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "video.mp4", 40)


@pytest.fixture(scope="session")
def broken_video(tmp_path_factory):
    """Frames 12 to 15 of 40 cannot be decoded; keyframes at 0, 10, 20 and 30."""
    path = write_video(tmp_path_factory.mktemp("broken") / "broken.mp4", 40, options={"g": "10", "bf": "0"})
    for number in range(12, 16):
        break_packet(path, number)
    return path


@pytest.fixture
def ask(model_directory):
    return lambda *arguments: run("ask", *arguments, "--model", model_directory, "--max-new-tokens", 3)
