"""Synthetic videos with known events: what the demo model is trained on, asked about, and tested with.

A scene is a textured, noisy background on which two or three coloured shapes appear one after another, each moving
for a while. Everything follows from a seed, so the answer to any question is known without looking at the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
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

NUM_FRAMES = 48
FRAME_SIZE = 96
FPS = 8


@dataclass(frozen=True)
class Event:
    """One shape, seen in frames ``start`` to ``end`` (exclusive), moving in a straight line; lengths in widths."""

    color: str
    shape: str
    start: int
    end: int
    center: tuple[float, float]
    velocity: tuple[float, float]
    radius: float

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """Events in time order; no two share a frame, a colour or a shape."""

    events: tuple[Event, ...]
    background_seed: tuple[int, ...]
    num_frames: int = NUM_FRAMES
    size: int = FRAME_SIZE
    fps: int = FPS

    def event_at(self, frame: int) -> Event | None:
        return next((event for event in self.events if event.start <= frame < event.end), None)


def random_scene(split: str, seed: int, index: int, num_frames: int = NUM_FRAMES, size: int = FRAME_SIZE) -> Scene:
    """Scene number ``index`` of a split: the same for the same arguments, independent of all others.

    Raises ValueError for an unknown split and for fewer than 24 frames (three events and the gaps between them).
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if num_frames < 24:
        raise ValueError(f"num_frames must be at least 24, got {num_frames}")
    key = (SPLITS[split], seed, index)
    rng = np.random.default_rng(key)
    count = int(rng.integers(2, 4))
    colors = rng.permutation(list(COLORS))[:count]
    shapes = rng.permutation(SHAPES)[:count]
    durations = rng.integers(num_frames // 10, num_frames // 5 + 1, count)
    # Empty frames are dealt at random to the stretches before, between (at least one each) and after the events.
    idle = int(num_frames - durations.sum()) - (count - 1)
    cuts = np.sort(rng.integers(0, idle + 1, count))
    starts = cuts + np.arange(count) + np.concatenate([[0], durations[:-1]]).cumsum()
    events = []
    for color, shape, start, duration in zip(colors, shapes, starts, durations, strict=True):
        radius = rng.uniform(0.17, 0.24)
        begin, finish = rng.uniform(radius, 1 - radius, (2, 2))
        # The path is at most a third of the frame long, and stays inside it.
        path = finish - begin
        velocity = path * min(1.0, 0.33 / max(float(np.linalg.norm(path)), 1e-6)) / duration
        end = int(start + duration)
        events.append(Event(str(color), str(shape), int(start), end, tuple(begin), tuple(velocity), float(radius)))
    return Scene(tuple(events), key, num_frames, size)


def render(scene: Scene) -> np.ndarray:
    """Frames of the scene, uint8 [T, H, W, 3], RGB."""
    rng = np.random.default_rng((*scene.background_seed, 1))
    frames = np.repeat(_background(rng, scene.size)[None], scene.num_frames, axis=0)
    for event in scene.events:
        tint = np.asarray(COLORS[event.color]) * rng.uniform(0.9, 1.05)
        for frame in range(event.start, event.end):
            step = frame - event.start
            center = [c + v * step for c, v in zip(event.center, event.velocity, strict=True)]
            opacity = _coverage(event.shape, center, event.radius, scene.size)[..., None]
            frames[frame] += opacity * (tint - frames[frame])
    frames += rng.integers(-4, 5, frames.shape, dtype=np.int8)
    return np.clip(frames, 0, 255).astype(np.uint8)


def encode(frames: np.ndarray, path: str | Path, fps: int = FPS) -> None:
    """Write uint8 frames [T, H, W, 3] as an H.264 file, the same for the same frames.

    x264's threads and its look-ahead make the file depend on more than its input: neither is used.
    """
    height, width = frames.shape[1:3]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = Fraction(1, fps)
        stream.codec_context.thread_count = 1
        stream.options = {"crf": "20", "preset": "veryfast", "x264-params": "mbtree=0:rc-lookahead=0"}
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode())


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A smooth grey-brown texture, float32 [size, size, 3]: bilinear interpolation of a 5 x 5 grid of random shades."""
    shade = rng.uniform(60, 125, 3) * 0.4 + rng.uniform(60, 125) * 0.6
    grid = shade + rng.uniform(-18, 18, (5, 5, 1))
    position = np.linspace(0, 4, size)
    weight = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(5)))  # [size, 5]
    return np.einsum("yi,xj,ijc->yxc", weight, weight, grid).astype(np.float32)


def _coverage(shape: str, center: list[float], radius: float, size: int) -> np.ndarray:
    """How much of each pixel the shape covers, [size, size] in [0, 1]; from its signed distance: edges are smooth."""
    y, x = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / size
    dx, dy = x - center[0], y - center[1]
    if shape == "circle":
        distance = np.hypot(dx, dy) - radius
    elif shape == "square":
        distance = np.maximum(abs(dx), abs(dy)) - 0.86 * radius
    elif shape == "triangle":
        distance = np.maximum(dy - 0.75 * radius, 0.894 * abs(dx) - 0.447 * (dy + radius))
    elif shape == "cross":
        arm = 0.3 * radius
        distance = np.minimum(np.maximum(abs(dx) - radius, abs(dy) - arm), np.maximum(abs(dx) - arm, abs(dy) - radius))
    else:
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {shape!r}")
    return np.clip(0.5 - distance * size, 0, 1)
