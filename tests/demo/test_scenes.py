"""The synthetic scenes: reproducible, never shared between splits, and what their classes promise."""

from itertools import pairwise

import numpy as np
import pytest

from dynfocus.demo.rendering import DIGIT_HEIGHT, DOT_RADIUS
from dynfocus.demo.scenes import (
    CLIP_FRAMES,
    CLIP_SHAPE_DURATIONS,
    COLORS,
    DETAIL_DURATIONS,
    GAP,
    MAX_DOTS,
    NUM_FRAMES,
    SHAPE_DURATIONS,
    SHAPES,
    SPLITS,
    Dots,
    Number,
    Scene,
    Shape,
    random_clip,
    random_scene,
)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [random_scene("test", 1, index) for index in range(1000)]


@pytest.fixture(scope="module")
def clips() -> list[Scene]:
    return [random_clip("test", 1, index) for index in range(1000)]


@pytest.mark.parametrize("make", [random_scene, random_clip])
def test_a_scene_follows_from_its_arguments_alone(make):
    first = make("train", 3, 7)
    make("train", 3, 8)
    assert make("train", 3, 7) == first


def test_splits_seeds_and_indices_share_nothing_that_is_shown():
    arguments = [(split, seed, index) for split in SPLITS for seed in range(2) for index in range(100)]
    scenes = [random_scene(*each) for each in arguments]
    clips = [random_clip(*each) for each in arguments]
    events = [event for scene in [*scenes, *clips] for event in scene.events]
    assert len(set(events)) == len(events)
    assert len({scene.background_seed for scene in [*scenes, *clips]}) == 2 * len(arguments)
    # Nor is an event of one split merely moved in time in another; the clip of a scene's own number may do that.
    seen: dict[tuple, set[str]] = {}
    for scene, (split, _, _) in zip([*scenes, *clips], [*arguments, *arguments], strict=True):
        for event in scene.events:
            seen.setdefault(event.centers if isinstance(event, Dots) else event.center, set()).add(split)
    assert {len(splits) for splits in seen.values()} == {1}


@pytest.mark.parametrize("num_frames", [96, NUM_FRAMES, 300])
def test_a_scene_has_what_can_be_asked_about(num_frames):
    for index in range(200):
        scene = random_scene("test", 0, index, num_frames)
        assert scene.num_frames == num_frames
        assert len(scene.shapes) in (3, 4)
        assert (len(scene.numbers), len(scene.events)) == (2, len(scene.shapes) + 3)
        assert scene.dots in scene.events
        check_events(scene)
        assert {shape.end - shape.start for shape in scene.shapes} <= set(SHAPE_DURATIONS)


def test_a_clip_has_three_events_of_any_kinds(clips):
    for clip in clips[:200]:
        assert (len(clip.events), clip.num_frames) == (3, CLIP_FRAMES)
        check_events(clip)
        assert {shape.end - shape.start for shape in clip.shapes} <= set(CLIP_SHAPE_DURATIONS)
    assert {len(clip.shapes) for clip in clips} == {0, 1, 2, 3}
    assert {len(clip.numbers) for clip in clips} == {0, 1, 2}
    assert {clip.dots is None for clip in clips} == {True, False}


def check_events(scene: Scene) -> None:
    """Apart, inside the video and the frame, and told apart by what questions name."""
    assert scene.events[0].start >= 0 and scene.events[-1].end <= scene.num_frames
    assert all(after.start - before.end >= GAP for before, after in pairwise(scene.events))
    for values in (
        [shape.color for shape in scene.shapes],
        [shape.shape for shape in scene.shapes],
        [shape.end - shape.start for shape in scene.shapes],
        [number.color for number in scene.numbers],
    ):
        assert len(set(values)) == len(values)
    for event in scene.events:
        assert all(scene.event_at(frame) is event for frame in (event.start, event.end - 1))
        assert scene.event_at(event.start - 1) is None and scene.event_at(event.end) is None
        if isinstance(event, Shape):
            check_shape(event)
        else:
            assert event.end - event.start in DETAIL_DURATIONS
            (check_number if isinstance(event, Number) else check_dots)(event)


def check_shape(shape: Shape) -> None:
    path = np.multiply(shape.velocity, shape.end - shape.start)
    assert np.linalg.norm(path) <= 0.33 + 1e-9
    ends = np.stack([shape.center, np.add(shape.center, path)])
    assert (ends >= shape.radius - 1e-9).all() and (ends <= 1 - shape.radius + 1e-9).all()


def check_number(number: Number) -> None:
    assert 10 <= int(number.digits) <= 99
    # The plate under the digits, twelve columns by seven rows and a margin, lies in one quarter of the frame.
    half = (np.array([12 / 7, 1]) / 2 + 0.25) * DIGIT_HEIGHT
    assert (np.floor(2 * (number.center - half)) == np.floor(2 * (number.center + half))).all()
    vertical, horizontal = number.place.split()
    assert (number.center[1] > 0.5) == (vertical == "bottom")
    assert (number.center[0] > 0.5) == (horizontal == "right")


def check_dots(dots: Dots) -> None:
    centers = np.array(dots.centers)
    assert 1 <= len(centers) <= MAX_DOTS
    assert (centers > DOT_RADIUS).all() and (centers < 1 - DOT_RADIUS).all()
    distances = np.linalg.norm(centers[:, None] - centers, axis=-1)[~np.eye(len(centers), dtype=bool)]
    assert (distances > 3 * DOT_RADIUS).all()  # one can be told from the next


def test_everything_is_spread_evenly(scenes):
    shapes = [shape for scene in scenes for shape in scene.shapes]
    numbers = [number for scene in scenes for number in scene.numbers]
    dots = [scene.dots for scene in scenes]
    for values, expected in (
        ([shape.color for shape in shapes], COLORS),
        ([shape.shape for shape in shapes], SHAPES),
        ([shape.end - shape.start for shape in shapes], SHAPE_DURATIONS),
        ([number.color for number in numbers], COLORS),
        ([number.digits[0] for number in numbers], "123456789"),
        ([number.digits[1] for number in numbers], "0123456789"),
        ([number.place for number in numbers], ("top left", "top right", "bottom left", "bottom right")),
        ([each.color for each in dots], COLORS),
        ([len(each.centers) for each in dots], range(1, MAX_DOTS + 1)),
        ([event.end - event.start for event in [*numbers, *dots]], DETAIL_DURATIONS),
        ([scene.numbers[0].digits < scene.numbers[1].digits for scene in scenes], (True, False)),
    ):
        shares = np.array([values.count(value) / len(values) for value in expected])
        assert shares.sum() == pytest.approx(1)
        assert np.allclose(shares, 1 / len(expected), atol=0.04), (expected, shares)


def test_no_time_of_a_video_is_special(scenes):
    """But for its first and last frames, which only one event in a row can reach."""
    for kind in (Shape, Number, Dots):
        shown = [event for scene in scenes for event in scene.events if isinstance(event, kind)]
        covered = np.bincount([frame for event in shown for frame in range(event.start, event.end)], minlength=128)
        eighths = covered.reshape(8, -1).sum(1)
        assert eighths[1:-1].min() > 0.7 * eighths.max()
        assert covered.min() > 0


def test_most_of_a_video_is_empty_or_a_shape(scenes):
    """Small things are found by looking, not by chance."""
    small = [event.end - event.start for scene in scenes for event in scene.events if not isinstance(event, Shape)]
    assert sum(small) / len(scenes) < 0.15 * NUM_FRAMES


def test_bad_arguments_are_named():
    for make in (random_scene, random_clip):
        with pytest.raises(ValueError, match=r"split must be one of train, .*, got 'validation'"):
            make("validation", 0, 0)
    with pytest.raises(ValueError, match="num_frames must be at least 96, got 95"):
        random_scene("train", 0, 0, num_frames=95)
