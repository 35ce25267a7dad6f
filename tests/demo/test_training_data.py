"""The training data on disk: read by the trainer as any user's, true to the scenes, the same for the same seed."""

import json
from itertools import groupby

import numpy as np
import pytest
from PIL import Image

from dynfocus.demo.conversations import CAPTION_TEMPLATES
from dynfocus.demo.scenes import Scene, Shape, random_clip, random_scene
from dynfocus.demo.tower_training import patch_labels
from dynfocus.demo.training_data import labelled_images, write_training_data
from dynfocus.errors import DynFocusError
from dynfocus.training.mixture import open_source
from dynfocus.training.recipe import SourceSettings
from dynfocus.training.samples import checked
from dynfocus.video_reading import read_video
from tests.demo.reading import answer_by_reading

SEED = 7


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training") / "data"
    write_training_data(folder, videos=2, clips=3, conversations=2, seed=SEED, threads=1)
    return folder


def samples(folder, name):
    source = open_source(SourceSettings(path=str(folder / f"{name}.jsonl"), media=str(folder)))
    assert source.broken == ()
    for sample in source.samples:
        assert checked(sample) == sample
        (visual,) = sample.visuals
        assert source.media_file(visual.path).is_file()
        yield sample, visual


def turns(sample):
    """Questions without the placeholder, with their answers."""
    return [(question.rpartition("\n")[2], answer) for question, answer in sample.turns]


@pytest.mark.parametrize(
    "name, shown, make, count",
    [
        ("videos", "video", random_scene, 2),
        ("questions", "video", random_scene, 2),
        ("clips", "clip", random_clip, 3),
    ],
)
def test_conversations_are_about_their_videos(data, name, shown, make, count):
    seen = []
    for sample, visual in samples(data, name):
        number = int(visual.path.removesuffix(".mp4").rpartition("-")[2])
        scene = make("train", SEED, number)
        assert visual == ("video", f"{shown}-{number:05}.mp4")
        assert [answer_by_reading(question, scene) for question, _ in turns(sample)] == [a for _, a in turns(sample)]
        clip = read_video(data / visual.path, fps=None)
        assert (clip.total_frames, clip.fps) == (scene.num_frames, pytest.approx(scene.fps))
        seen.append((number, sample.id))
    assert [number for number, _ in seen] == sorted([*range(count)] * 2)
    assert len(set(seen)) == len(seen)  # ids are all different


def test_images_are_frames_of_the_videos(data):
    images = list(samples(data, "images"))
    for path, group in groupby(images, lambda image: image[1].path[: len("video-00000")]):
        scene, frames = random_scene("train", SEED, int(path[-5:])), read_video(data / f"{path}.mp4", fps=None).frames
        shown = []
        for sample, visual in group:
            frame = int(visual.path[-len("000.png") : -len(".png")])
            assert np.array_equal(np.asarray(Image.open(data / visual.path)), frames[frame])
            event = scene.event_at(frame)
            assert len(sample.turns) == (1 if event is None else 3 if event is not scene.dots else 2)
            asked = [(question, answer) for question, answer in turns(sample) if question not in CAPTION_TEMPLATES]
            assert all(answer == answer_by_reading(question, Scene((event,), (0,))) for question, answer in asked)
            shown.append(event)
        # Each shape once, each small thing twice, and one empty frame.
        expected = [event for event in scene.events for _ in range(1 if isinstance(event, Shape) else 2)]
        assert [event for event in shown if event is not None] == expected
        assert shown.count(None) == 1
    assert len({visual.path for _, visual in images}) == len(images)


def test_labels_belong_to_their_images(data):
    labelled = labelled_images(data, 12, seed=SEED)
    files = sorted(data.glob("*.png"))
    assert labelled.pixels.shape == (len(files), 96, 96, 3) and labelled.pixels.dtype == np.uint8
    assert labelled.labels.shape == (len(files), 3, 144) and labelled.labels.dtype == np.int64
    for file, pixels, labels in zip(files, labelled.pixels, labelled.labels, strict=True):
        _, video, frame = file.stem.split("-")
        assert np.array_equal(pixels, np.asarray(Image.open(file)))
        assert np.array_equal(labels, patch_labels(random_scene("train", SEED, int(video)), int(frame), 12))


def test_the_same_seed_writes_the_same_and_threads_make_no_difference(data, tmp_path):
    write_training_data(tmp_path / "again", videos=2, clips=3, conversations=2, seed=SEED, threads=2)
    first, again = (
        {file.name: file.read_bytes() for file in folder.iterdir()} for folder in (data, tmp_path / "again")
    )
    assert first == again


def test_other_seeds_and_splits_write_something_else(data, tmp_path):
    for name, arguments in (("seed", {"seed": SEED + 1}), ("split", {"seed": SEED, "split": "test"})):
        write_training_data(tmp_path / name, videos=0, clips=1, **arguments)
        assert (tmp_path / name / "clip-00000.mp4").read_bytes() != (data / "clip-00000.mp4").read_bytes()
        lines = (tmp_path / name / "clips.jsonl").read_text().splitlines()
        assert len(lines) == 3 and len({json.loads(line)["id"] for line in lines}) == 3


def test_what_exists_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(DynFocusError, match="exists and is not an empty directory"):
        write_training_data(tmp_path, videos=1, clips=1)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
