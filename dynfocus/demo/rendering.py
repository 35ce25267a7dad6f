"""Scenes become pixels, H.264 files, and labels of what each patch shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from dynfocus.demo.scenes import COLORS, FPS, Dots, Event, Number, Scene, Shape

DOT_RADIUS = 0.055
PLATE = np.array([18, 18, 22])  # what digits are drawn on, so that each colour stands out from it
DIGIT_HEIGHT = 14 / 96
# Five columns and seven rows a digit, a bit for each pixel, from the top.
_GLYPHS = {
    "0": "01110 10001 10001 10001 10001 10001 01110",
    "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111",
    "3": "11110 00001 00001 01110 00001 00001 11110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "01110 10000 10000 11110 10001 10001 01110",
    "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110",
    "9": "01110 10001 10001 01111 00001 00001 01110",
}
GLYPHS = {
    digit: np.array([[bit == "1" for bit in row] for row in rows.split()], np.float32)
    for digit, rows in _GLYPHS.items()
}


def render(scene: Scene) -> np.ndarray:
    """Frames of the scene, uint8 [T, H, W, 3], RGB."""
    rng = np.random.default_rng((*scene.background_seed, 1))
    frames = np.repeat(_background(rng, scene.size)[None], scene.num_frames, axis=0)
    for event in scene.events:
        tint = np.asarray(COLORS[event.color]) * rng.uniform(0.9, 1.05)
        for frame in range(event.start, event.end):
            for opacity, color in _layers(event, frame, scene.size, tint):
                frames[frame] += opacity[..., None] * (color - frames[frame])
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


def covered_patches(event: Event, frame: int, side: int, pixels: int = 8) -> Iterator[tuple[str | None, np.ndarray]]:
    """What of the event each of side² patches shows in a frame: (a number's digit or None, share [side²]) pairs."""
    size = side * pixels
    masks: list[tuple[str | None, np.ndarray]]
    if isinstance(event, Number):
        masks = [(digit, _box(*box, size)) for digit, box in zip(event.digits, _digit_boxes(event), strict=True)]
    else:
        masks = [(None, opacity) for opacity, _ in _layers(event, frame, size, np.zeros(3))]
    for digit, mask in masks:
        yield digit, mask.reshape(side, pixels, side, pixels).mean((1, 3)).ravel()


def _layers(event: Event, frame: int, size: int, tint: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Opacity [size, size] and colour [3] of what is painted over each other for an event."""
    if isinstance(event, Shape):
        step = frame - event.start
        center = [c + v * step for c, v in zip(event.center, event.velocity, strict=True)]
        yield _coverage(event.shape, center, event.radius, size), tint
    elif isinstance(event, Dots):
        for place in event.centers:
            yield _coverage("circle", place, DOT_RADIUS, size), tint
    else:
        boxes = _digit_boxes(event)
        margin = 0.25 * DIGIT_HEIGHT
        left, top, right, bottom = *boxes[0][:2], *boxes[1][2:]
        yield _box(left - margin, top - margin, right + margin, bottom + margin, size), PLATE
        for digit, (left, top, right, bottom) in zip(event.digits, boxes, strict=True):
            rows = _share_of_cells(top, bottom, 7, size)
            columns = _share_of_cells(left, right, 5, size)
            yield rows.T @ GLYPHS[digit] @ columns, tint


def _digit_boxes(number: Number) -> list[tuple[float, float, float, float]]:
    """Left, top, right, bottom of both digits, in widths."""
    width, space = 5 / 7 * DIGIT_HEIGHT, 1 / 7 * DIGIT_HEIGHT
    x, y = number.center
    top, bottom = y - DIGIT_HEIGHT / 2, y + DIGIT_HEIGHT / 2
    return [(x - space - width, top, x - space, bottom), (x + space, top, x + space + width, bottom)]


def _share_of_cells(start: float, end: float, cells: int, size: int) -> np.ndarray:
    """How much of each of `size` pixels lies in each of the cells that divide [start, end]: [cells, size]."""
    edges = np.linspace(start, end, cells + 1) * size
    pixel = np.arange(size)
    low, high = np.maximum(edges[:-1, None], pixel), np.minimum(edges[1:, None], pixel + 1)
    return np.clip(high - low, 0, 1).astype(np.float32)


def _box(left: float, top: float, right: float, bottom: float, size: int) -> np.ndarray:
    rows, columns = _share_of_cells(top, bottom, 1, size), _share_of_cells(left, right, 1, size)
    return rows.T @ columns


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A smooth grey-brown texture, float32 [size, size, 3]: bilinear interpolation of a 5 x 5 grid of random shades."""
    shade = rng.uniform(60, 125, 3) * 0.4 + rng.uniform(60, 125) * 0.6
    grid = shade + rng.uniform(-18, 18, (5, 5, 1))
    position = np.linspace(0, 4, size)
    weight = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(5)))  # [size, 5]
    return np.einsum("yi,xj,ijc->yxc", weight, weight, grid).astype(np.float32)


def _coverage(shape: str, center: Sequence[float], radius: float, size: int) -> np.ndarray:
    """How much of each pixel the shape covers, [size, size] in [0, 1]; from its signed distance: edges are smooth."""
    y, x = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / size
    dx, dy = x - center[0], y - center[1]
    if shape == "circle":
        distance = np.hypot(dx, dy) - radius
    elif shape == "square":
        distance = np.maximum(abs(dx), abs(dy)) - 0.86 * radius
    elif shape == "triangle":
        distance = np.maximum(dy - 0.75 * radius, 0.894 * abs(dx) - 0.447 * (dy + radius))
    else:
        arm = 0.3 * radius
        distance = np.minimum(np.maximum(abs(dx) - radius, abs(dy) - arm), np.maximum(abs(dx) - arm, abs(dy) - radius))
    return np.clip(0.5 - distance * size, 0, 1)
