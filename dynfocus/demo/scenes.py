"""Synthetic videos with known events: what the demo model is trained on, asked about, and tested with.

A scene is a textured, noisy background that is empty half of the time. Now and then a large coloured shape moves
through it for a while; for little more than half a second a two-digit number is shown, or a few dots. Shapes can be
told in few tokens a frame and ask for an eye on all of time; numbers and dots are short and small, and ask for detail
at the right moment.
Everything follows from a seed, so the answer to any question is known without looking at the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 35),
    "green": (35, 170, 50),
    "blue": (45, 75, 225),
    "yellow": (235, 220, 45),
    "white": (240, 240, 240),
}
SHAPES = ("circle", "square", "triangle", "cross")
# One stream of random numbers per purpose: what is trained on is never what is evaluated on, whatever the seeds.
SPLITS = {"train": 0, "evaluation": 1, "showcase": 2, "test": 3}

NUM_FRAMES = 128
FRAME_SIZE = 96
FPS = 8

SHAPE_DURATIONS = (6, 10, 16, 26)  # frames of the default length; no two shapes of a scene stay equally long
CLIP_FRAMES = 32
CLIP_SHAPE_DURATIONS = (4, 6, 9)
DETAIL_DURATIONS = (4, 5, 6)
MAX_DOTS = 5
DOT_CELLS = 4  # dots lie in different cells of a DOT_CELLS² grid
GAP = 2  # least number of empty frames between two events


@dataclass(frozen=True)
class Shape:
    """A large shape, seen in frames ``start`` to ``end`` (exclusive), moving in a straight line; lengths in widths."""

    start: int
    end: int
    color: str
    shape: str
    center: tuple[float, float]
    velocity: tuple[float, float]
    radius: float

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"


@dataclass(frozen=True)
class Number:
    """A two-digit number, seen at rest in frames ``start`` to ``end`` (exclusive)."""

    start: int
    end: int
    color: str
    digits: str
    center: tuple[float, float]

    @property
    def place(self) -> str:
        return f"{'top' if self.center[1] < 0.5 else 'bottom'} {'left' if self.center[0] < 0.5 else 'right'}"


@dataclass(frozen=True)
class Dots:
    """Small dots of one colour, seen at rest in frames ``start`` to ``end`` (exclusive)."""

    start: int
    end: int
    color: str
    centers: tuple[tuple[float, float], ...]


Event = Shape | Number | Dots


@dataclass(frozen=True)
class Scene:
    """Events in time order. No two share a frame, no two shapes a colour or a shape, no two numbers a colour."""

    events: tuple[Event, ...]
    background_seed: tuple[int, ...]
    num_frames: int = NUM_FRAMES
    size: int = FRAME_SIZE
    fps: int = FPS

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return tuple(event for event in self.events if isinstance(event, Shape))

    @property
    def numbers(self) -> tuple[Number, ...]:
        return tuple(event for event in self.events if isinstance(event, Number))

    @property
    def dots(self) -> Dots | None:
        return next((event for event in self.events if isinstance(event, Dots)), None)

    def event_at(self, frame: int) -> Event | None:
        return next((event for event in self.events if event.start <= frame < event.end), None)


def random_clip(split: str, seed: int, index: int) -> Scene:
    """A few seconds with three events, of the kinds that a scene has; never one of `random_scene`'s."""
    key = (_split(split), seed, index, 2)  # numpy takes no notice of a 0 at the end, and `render` draws from 1
    rng = np.random.default_rng(key)
    kinds = rng.permutation(["shape", "shape", "shape", "number", "number", "dots"])[:3].tolist()
    return _with_events(rng, key, kinds, CLIP_SHAPE_DURATIONS, CLIP_FRAMES)


def random_scene(split: str, seed: int, index: int, num_frames: int = NUM_FRAMES) -> Scene:
    """Scene number ``index`` of a split: three or four shapes, two numbers and a group of dots in any order.

    The same for the same arguments, independent of all others. Events are as long in longer videos: these are emptier.

    Raises ValueError for an unknown split and for fewer than 96 frames (88 hold the longest events and the gaps).
    """
    key = (_split(split), seed, index)
    if num_frames < 96:
        raise ValueError(f"num_frames must be at least 96, got {num_frames}")
    rng = np.random.default_rng(key)
    num_shapes = int(rng.integers(3, 5))
    kinds = rng.permutation(["shape"] * num_shapes + ["number", "number", "dots"]).tolist()
    return _with_events(rng, key, kinds, SHAPE_DURATIONS, num_frames)


def _split(name: str) -> int:
    if name not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {name!r}")
    return SPLITS[name]


def _with_events(
    rng: np.random.Generator,
    key: tuple[int, ...],
    kinds: Sequence[str],
    durations_of_shapes: Sequence[int],
    num_frames: int,
) -> Scene:
    """A scene of events of these kinds in this order."""
    shape_durations = iter(rng.permutation(durations_of_shapes))
    durations = [int(next(shape_durations) if kind == "shape" else rng.choice(DETAIL_DURATIONS)) for kind in kinds]
    # Empty frames are dealt at random to the stretches before, between (at least GAP each) and after the events.
    idle = num_frames - sum(durations) - GAP * (len(kinds) - 1)
    cuts = np.sort(rng.integers(0, idle + 1, len(kinds)))
    starts = cuts + GAP * np.arange(len(kinds)) + np.cumsum([0, *durations[:-1]])
    shapes = zip(rng.permutation(list(COLORS)), rng.permutation(SHAPES), strict=False)
    number_colors = iter(rng.permutation(list(COLORS)))
    events: list[Event] = []
    for kind, start, duration in zip(kinds, starts.tolist(), durations, strict=True):
        if kind == "shape":
            color, shape = next(shapes)
            events.append(_random_shape(rng, start, duration, str(color), str(shape)))
        elif kind == "number":
            events.append(_random_number(rng, start, duration, str(next(number_colors))))
        else:
            events.append(_random_dots(rng, start, duration))
    return Scene(tuple(events), key, num_frames)


def _random_shape(rng: np.random.Generator, start: int, duration: int, color: str, shape: str) -> Shape:
    radius = rng.uniform(0.17, 0.24)
    begin, finish = rng.uniform(radius, 1 - radius, (2, 2))
    # The path is at most a third of the frame long, and stays inside it.
    path = finish - begin
    velocity = path * min(1.0, 0.33 / max(float(np.linalg.norm(path)), 1e-6)) / duration
    return Shape(start, start + duration, color, shape, tuple(begin), tuple(velocity), float(radius))


def _random_number(rng: np.random.Generator, start: int, duration: int, color: str) -> Number:
    # In one of the four quarters, clear of the lines between them.
    center = (rng.integers(0, 2, 2) * 0.5 + 0.25 + rng.uniform(-0.08, 0.08, 2)).tolist()
    return Number(start, start + duration, color, str(rng.integers(10, 100)), tuple(center))


def _random_dots(rng: np.random.Generator, start: int, duration: int) -> Dots:
    cells = rng.choice(DOT_CELLS**2, int(rng.integers(1, MAX_DOTS + 1)), replace=False)
    corners = np.stack([cells % DOT_CELLS, cells // DOT_CELLS], 1)
    centers = (corners + 0.5 + rng.uniform(-0.1, 0.1, corners.shape)) / DOT_CELLS
    return Dots(start, start + duration, str(rng.choice(list(COLORS))), tuple(map(tuple, centers.tolist())))
