"""The synthetic videos: reproducible, what they claim to show, and real H.264."""

from itertools import pairwise

import av
import numpy as np
import pytest

from dynfocus.demo.scenes import COLORS, SHAPES, SPLITS, Event, Scene, encode, random_scene, render
from dynfocus.video_reading import read_video


def test_a_scene_follows_from_its_arguments_alone():
    assert random_scene("train", 3, 7) == random_scene("train", 3, 7)
    assert np.array_equal(render(random_scene("train", 3, 7)), render(random_scene("train", 3, 7)))


def test_splits_seeds_and_indices_share_no_scene():
    scenes = [random_scene(split, seed, i) for split in SPLITS for seed in range(3) for i in range(100)]
    assert len({scene.events for scene in scenes}) == len(scenes)


@pytest.mark.parametrize("num_frames", [24, 48, 64])
def test_events_are_apart_distinct_and_inside_the_frame(num_frames):
    for index in range(200):
        events = random_scene("test", 0, index, num_frames).events
        assert len(events) in (2, 3)
        assert len({event.color for event in events}) == len({event.shape for event in events}) == len(events)
        assert events[0].start >= 0 and events[-1].end <= num_frames
        assert all(before.end < after.start for before, after in pairwise(events))
        for event in events:
            last = np.add(event.center, np.multiply(event.velocity, event.end - event.start))
            corners = np.stack([event.center, last])
            assert (corners >= event.radius - 1e-9).all() and (corners <= 1 - event.radius + 1e-9).all()


def test_colors_shapes_and_times_are_spread_evenly():
    events = [event for index in range(800) for event in random_scene("test", 1, index).events]
    for values, expected in (([e.color for e in events], COLORS), ([e.shape for e in events], SHAPES)):
        shares = np.array([values.count(value) / len(values) for value in expected])
        assert np.allclose(shares, 1 / len(expected), atol=0.04)
    covered = np.bincount([frame for e in events for frame in range(e.start, e.end)], minlength=48)
    # No time of the video is special, but for the first and last frames, which only one event in a row can reach.
    assert covered[6:-6].min() > 0.7 * covered.max()
    assert covered.min() > 0


def test_every_frame_shows_its_event_after_the_h264_round_trip(tmp_path):
    for index in range(4):
        scene = random_scene("test", 2, index)
        encode(render(scene), tmp_path / "scene.mp4", scene.fps)
        clip = read_video(tmp_path / "scene.mp4", fps=None)
        assert clip.total_frames == len(clip.frames) == scene.num_frames
        assert clip.fps == pytest.approx(scene.fps)
        for frame, image in enumerate(clip.frames.astype(float)):
            # How far the picture's most coloured or brightest spot is from the textured background.
            distance = {color: np.abs(image - COLORS[color]).sum(-1).min() for color in COLORS}
            event = scene.event_at(frame)
            if event is None:
                assert min(distance.values()) > 60
            else:
                assert min(distance, key=distance.__getitem__) == event.color


def test_shapes_cover_what_their_names_say():
    def area(shape):
        event = Event("white", shape, 0, 1, (0.5, 0.5), (0.0, 0.0), 0.2)
        image = render(Scene((event,), (0,), num_frames=2)).astype(int)
        difference = np.abs(image[0] - image[1]).sum(-1)
        return (difference > difference.max() / 2).mean() / 0.2**2

    assert area("circle") == pytest.approx(np.pi, rel=0.05)
    assert area("square") == pytest.approx(1.72**2, rel=0.05)
    assert area("cross") == pytest.approx(2 * 2 * 0.6 - 0.6**2, rel=0.07)
    assert area("triangle") == pytest.approx(1.75 * 1.75 / 2, rel=0.07)
    with pytest.raises(ValueError, match="shape must be one of"):
        area("heptagon")


def test_encoding_is_h264_and_reproducible(tmp_path):
    frames = render(random_scene("test", 0, 0))
    for name in ("a.mp4", "b.mp4"):
        encode(frames, tmp_path / name)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="split must be one of"):
        random_scene("validation", 0, 0)
    with pytest.raises(ValueError, match="num_frames must be at least 24"):
        random_scene("train", 0, 0, num_frames=10)
