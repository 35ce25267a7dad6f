"""Scenes as pixels: what a file shows is what the scene says, H.264 included."""

from itertools import pairwise

import av
import numpy as np
import pytest

from dynfocus.demo.rendering import DIGIT_HEIGHT, DOT_RADIUS, GLYPHS, PLATE, covered_patches, encode, render
from dynfocus.demo.scenes import COLORS, Dots, Event, Number, Scene, Shape, random_clip, random_scene
from dynfocus.video_reading import read_video

SCENES = [
    *(random_scene("test", 2, index) for index in range(4)),
    *(random_clip("test", 2, index) for index in range(4)),
]


@pytest.fixture(scope="module")
def decoded(tmp_path_factory) -> list[np.ndarray]:
    """Frames of SCENES, float64 [T, H, W, 3], after the round trip through H.264."""
    path = tmp_path_factory.mktemp("scenes") / "scene.mp4"
    frames = []
    for scene in SCENES:
        encode(render(scene), path, scene.fps)
        clip = read_video(path, fps=None)
        assert clip.total_frames == len(clip.frames) == scene.num_frames
        assert clip.fps == pytest.approx(scene.fps)
        frames.append(clip.frames.astype(float))
    return frames


def events_in(decoded: list[np.ndarray], kind: type) -> list[tuple[Event, np.ndarray]]:
    """Every frame [H, W, 3] that shows an event of this kind, with the event."""
    found = [
        (event, frames[frame])
        for scene, frames in zip(SCENES, decoded, strict=True)
        for event in scene.events
        if isinstance(event, kind)
        for frame in range(event.start, event.end)
    ]
    assert len({id(event) for event, _ in found}) >= 4
    return found


def nearest_color(pixel: np.ndarray) -> str:
    return min(COLORS, key=lambda color: np.abs(pixel - COLORS[color]).sum())


def box(image: np.ndarray, left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """The pixels of a box given in widths."""
    x0, y0, x1, y1 = (round(edge * len(image)) for edge in (left, top, right, bottom))
    return image[y0:y1, x0:x1]


def test_empty_frames_are_empty(decoded):
    for scene, frames in zip(SCENES, decoded, strict=True):
        empty = frames[[frame for frame in range(scene.num_frames) if scene.event_at(frame) is None]]
        for color in COLORS.values():
            assert np.abs(empty - color).sum(-1).min() > 60
        assert np.abs(empty - empty.mean(0)).mean() < 4  # noise, and nothing that comes or goes


def test_shapes_show_their_color_where_they_are(decoded):
    for scene, frames in zip(SCENES, decoded, strict=True):
        for shape in scene.shapes:
            for frame in range(shape.start, shape.end):
                x, y = np.add(shape.center, np.multiply(shape.velocity, frame - shape.start))
                middle = box(frames[frame], x - 0.02, y - 0.02, x + 0.02, y + 0.02).mean((0, 1))
                assert nearest_color(middle) == shape.color


def test_dots_are_as_many_as_said_and_of_one_color(decoded):
    for dots, image in events_in(decoded, Dots):
        for x, y in dots.centers:
            assert nearest_color(box(image, x - 0.03, y - 0.03, x + 0.03, y + 0.03).mean((0, 1))) == dots.color
        tinted = np.abs(image - COLORS[dots.color]).sum(-1) < 120
        assert tinted.mean() == pytest.approx(len(dots.centers) * np.pi * DOT_RADIUS**2, rel=0.35)


def test_digits_can_be_read(decoded):
    """Each box is likest, of all ten digits, the one it is said to hold; its strokes have the number's colour."""
    for number, image in events_in(decoded, Number):
        x, y = number.center
        unit = DIGIT_HEIGHT / 7
        for digit, left in zip(number.digits, (x - 6 * unit, x + unit), strict=True):
            top = y - 3.5 * unit
            # Brightness in the middle of each of the 7 x 5 cells.
            cells = np.array(
                [
                    [image[int((top + (row + 0.5) * unit) * 96), int((left + (column + 0.5) * unit) * 96)].mean()
                     for column in range(5)]
                    for row in range(7)
                ]
            )  # fmt: skip
            likeness = {each: np.corrcoef(cells.ravel(), glyph.ravel())[0, 1] for each, glyph in GLYPHS.items()}
            assert max(likeness, key=likeness.__getitem__) == digit
            assert cells[GLYPHS[digit] == 1].mean() > cells[GLYPHS[digit] == 0].mean() + 30
        strokes = box(image, x - 6 * unit, y - 3.5 * unit, x + 6 * unit, y + 3.5 * unit).reshape(-1, 3)
        assert nearest_color(strokes[np.argsort(strokes.sum(1))[-25:]].mean(0)) == number.color


def test_digits_stand_out_from_their_plate():
    assert min(np.mean(color) for color in COLORS.values()) - PLATE.mean() > 60


def still(event: Event) -> Scene:
    """An event alone, in the first of two frames."""
    return Scene((event,), (0,), num_frames=2)


def white(shape: str, center=(0.5, 0.5), velocity=(0.0, 0.0)) -> Shape:
    return Shape(0, 1, "white", shape, center, velocity, 0.2)


def test_shapes_cover_what_their_names_say():
    def area(shape):
        image = render(still(white(shape))).astype(int)
        difference = np.abs(image[0] - image[1]).sum(-1)
        return (difference > difference.max() / 2).mean() / 0.2**2

    assert area("circle") == pytest.approx(np.pi, rel=0.05)
    assert area("square") == pytest.approx(1.72**2, rel=0.05)
    assert area("cross") == pytest.approx(2 * 2 * 0.6 - 0.6**2, rel=0.07)
    assert area("triangle") == pytest.approx(1.75 * 1.75 / 2, rel=0.07)


def test_shapes_move_and_small_things_rest():
    shape = Shape(0, 8, "white", "circle", (0.3, 0.4), (0.04, -0.01), 0.2)
    number = Number(10, 14, "white", "47", (0.25, 0.25))
    frames = render(Scene((shape, number), (0,), num_frames=16)).astype(int)

    def middle(frame):
        lit = np.abs(frames[frame] - frames[15]).sum(-1) > 150
        return (np.argwhere(lit).mean(0)[::-1] + 0.5) / 96

    for frame in range(8):
        assert middle(frame) == pytest.approx([0.3 + 0.04 * frame, 0.4 - 0.01 * frame], abs=0.01)
    assert all(np.abs(one - other).max() <= 8 for one, other in pairwise(frames[10:14]))  # the noise


@pytest.mark.parametrize(
    "shape, area", [("circle", np.pi), ("square", 1.72**2), ("triangle", 1.75**2 / 2), ("cross", 2.04)]
)
@pytest.mark.parametrize("side", [6, 12])
def test_patches_hold_as_much_as_a_shape_covers(shape, area, side):
    event = white(shape, (0.4, 0.55), (0.1, 0.0))
    for frame in range(2):
        ((digit, share),) = covered_patches(event, frame, side)
        assert digit is None and share.shape == (side * side,)
        assert share.min() >= 0 and share.max() <= 1
        assert share.mean() == pytest.approx(area * 0.2**2, rel=0.03)
        columns = np.arange(side * side) % side
        at = (share @ columns / share.sum() + 0.5) / side
        assert at == pytest.approx(0.4 + 0.1 * frame, abs=0.01)


def test_patches_of_numbers_and_dots():
    number = Number(0, 4, "red", "47", (0.25, 0.75))
    boxes = list(covered_patches(number, 2, 12))
    assert [digit for digit, _ in boxes] == ["4", "7"]
    for (_, share), center in zip(boxes, (0.25 - 3.5 / 96 * 2, 0.25 + 3.5 / 96 * 2), strict=True):
        assert share.mean() == pytest.approx(DIGIT_HEIGHT * DIGIT_HEIGHT * 5 / 7, rel=1e-3)
        rows, columns = np.divmod(np.arange(144), 12)
        assert (share @ columns / share.sum() + 0.5) / 12 == pytest.approx(center, abs=0.01)
        assert (share @ rows / share.sum() + 0.5) / 12 == pytest.approx(0.75, abs=0.01)
    dots = Dots(0, 4, "red", ((0.125, 0.125), (0.625, 0.375)))
    found = list(covered_patches(dots, 0, 12))
    assert [digit for digit, _ in found] == [None, None]
    for _, share in found:
        assert share.mean() == pytest.approx(np.pi * DOT_RADIUS**2, rel=0.05)
    assert not np.any(found[0][1] * found[1][1])


def test_patches_are_those_of_the_picture():
    """Labels are made without rendering: they and the pixels must agree."""
    for event in (event for scene in SCENES[:2] for event in scene.events if not isinstance(event, Number)):
        image = render(Scene((event,), (0,), num_frames=event.end + 1)).astype(int)
        lit = np.abs(image[event.start] - image[event.end]).sum(-1) > 60
        share = sum(share for _, share in covered_patches(event, event.start, 12))
        assert np.abs(lit.reshape(12, 8, 12, 8).mean((1, 3)).ravel() - share).max() < 0.35


def test_rendering_and_encoding_are_reproducible(tmp_path):
    scene = random_scene("test", 0, 0)
    frames = render(scene)
    assert frames.shape == (128, 96, 96, 3) and frames.dtype == np.uint8
    assert np.array_equal(frames, render(scene))
    for name in ("a.mp4", "b.mp4"):
        encode(frames, tmp_path / name)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"
