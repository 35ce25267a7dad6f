"""What the vision tower is told each patch shows, and that it learns it."""

from collections import Counter

import numpy as np
import pytest
import torch

from dynfocus.demo.build import build
from dynfocus.demo.rendering import render
from dynfocus.demo.scenes import COLORS, SHAPES, Dots, Number, Scene, Shape, random_scene
from dynfocus.demo.tower_training import ATTRIBUTES, UNCLEAR, LabelledFrames, normalised, patch_labels, train_tower

SIDE = 12


def labels_of(event) -> np.ndarray:
    """Colour, form and digit of each patch of the event's first frame, each [SIDE, SIDE]; row by row from the top."""
    return patch_labels(Scene((event,), (0,)), event.start, SIDE).reshape(3, SIDE, SIDE)


def square(reach: float) -> Shape:
    """In the middle, reaching `reach` patches to each side."""
    return Shape(3, 9, "blue", "square", (0.5, 0.5), (0.0, 0.0), reach / SIDE / 0.86)


@pytest.mark.parametrize("part, told", [(0.0, 0), (0.01, 0), (0.1, UNCLEAR), (0.25, UNCLEAR), (0.4, 3), (0.9, 3)])
def test_patches_covered_in_part_are_clear_or_left_out(part, told):
    color, form, digit = labels_of(square(2 + part))
    blue, shape = 1 + list(COLORS).index("blue"), 1 + SHAPES.index("square")
    assert blue == 3
    assert (color[4:8, 4:8] == blue).all() and (form[4:8, 4:8] == shape).all()
    edge = [*color[4:8, 3], *color[4:8, 8], *color[3, 4:8], *color[8, 4:8]]
    assert set(edge) == {told}
    assert set(form[4:8, 3]) == {shape if told == blue else told}
    assert not color[:3].any() and not color[:, 9:].any()
    assert not digit.any()


def test_form_tells_shapes_and_dots():
    for number, name in enumerate(SHAPES, 1):
        event = Shape(0, 5, "red", name, (0.5, 0.5), (0.0, 0.0), 0.24)
        assert set(labels_of(event)[1].flat) - {UNCLEAR} == {0, number}
    # Dots in the middles of patches 1 and 7 of row 4.
    color, form, digit = labels_of(Dots(0, 5, "white", ((1.5 / 12, 4.5 / 12), (7.5 / 12, 4.5 / 12))))
    assert form[4, 1] == form[4, 7] == 1 + len(SHAPES) == ATTRIBUTES["form"] - 1
    assert color[4, 1] == color[4, 7] == len(COLORS) == ATTRIBUTES["color"] - 1
    assert not form[:, 4].any() and not digit.any()


def test_digits_are_told_where_they_stand():
    color, form, digit = labels_of(Number(0, 5, "green", "90", (0.25, 0.75)))
    assert not form.any()
    left, right = digit[:, :3], digit[:, 3:]
    assert set(left.flat) - {UNCLEAR} == {0, 1 + 9} and set(right.flat) - {UNCLEAR} == {0, 1 + 0}
    assert ATTRIBUTES["digit"] == 1 + 10
    assert ((color == 2) == (digit > 0)).all()
    assert not digit[:6].any() and not digit[:, 6:].any()


def test_what_moves_is_told_where_it_is():
    shape = Shape(10, 20, "red", "circle", (0.3, 0.5), (0.04, 0.0), 0.2)
    scene = Scene((shape,), (0,))
    for frame in range(10, 20):
        shown = patch_labels(scene, frame, SIDE)[0].reshape(SIDE, SIDE) == 1
        assert (np.argwhere(shown)[:, 1].mean() + 0.5) / SIDE == pytest.approx(0.3 + 0.04 * (frame - 10), abs=0.03)
    assert not patch_labels(scene, 9, SIDE).any() and not patch_labels(scene, 20, SIDE).any()


def test_every_class_occurs():
    seen = [Counter(), Counter(), Counter()]
    for index in range(40):
        scene = random_scene("test", 0, index)
        for event in scene.events:
            for counter, row in zip(seen, patch_labels(scene, event.start, SIDE), strict=True):
                counter.update(row.tolist())
    assert [set(counter) for counter in seen] == [{UNCLEAR, *range(classes)} for classes in ATTRIBUTES.values()]


@pytest.fixture(scope="module")
def frames() -> LabelledFrames:
    """The first frame of each event of five scenes."""
    scenes = [random_scene("train", 0, index) for index in range(5)]
    shown = [(scene, event.start) for scene in scenes for event in scene.events]
    videos = {id(scene): render(scene) for scene in scenes}
    return LabelledFrames(
        np.stack([videos[id(scene)][frame] for scene, frame in shown]),
        np.stack([patch_labels(scene, frame, SIDE) for scene, frame in shown]),
    )


def trained(frames, steps):
    model, processor = build(seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    return model, before, train_tower(model, frames, processor.video_processor, steps, seed=3)


def test_the_tower_learns_and_is_frozen(frames):
    model, before, losses = trained(frames, 24)
    assert len(losses) == 24
    assert np.mean(losses[-4:]) < 0.85 * np.mean(losses[:4])
    assert not any(parameter.requires_grad for parameter in model.vision_tower.parameters())
    assert all(parameter.requires_grad for parameter in model.connector.parameters())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.partition(".")[0] for name in changed} == {"vision_tower"}
    assert "vision_tower.embeddings.patch_embedding.weight" in changed


def test_the_same_seed_trains_the_same_tower(frames):
    (first, _, losses), (second, _, again) = trained(frames, 2), trained(frames, 2)
    assert losses == pytest.approx(again, rel=1e-5)
    for one, other in zip(first.vision_tower.parameters(), second.vision_tower.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_frames_are_normalised_as_the_processor_does(frames):
    processor = build(seed=0)[1]
    pixels = normalised(frames.pixels[:3], processor.video_processor)
    assert pixels.shape == (3, 3, 96, 96)
    expected = torch.from_numpy(frames.pixels[:3]).permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-5)
