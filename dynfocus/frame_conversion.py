"""From decoded frames to upright RGB arrays of one size."""

from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type as SideDataType
from numpy.typing import NDArray

_MOST_SIDE_DATA_TYPES = 48  # FFmpeg 8 has 32.


class FrameConverter:
    """Decoded frame to an upright RGB array; all are sized and turned as the first, even where the stream changes."""

    def __init__(self, size: int | None) -> None:
        self.size = size
        self.width = self.height = 0

    def __call__(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        if not self.width:
            shorter_side = min(frame.width, frame.height)
            scale = min(1.0, (self.size or shorter_side) / shorter_side)
            self.width, self.height = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
            # Not of every frame: PyAV then keeps each, in full size, until Python looks for cyclic garbage.
            self.matrix = _display_matrix(frame)
        rgb = frame.reformat(self.width, self.height, format="rgb24", interpolation="BICUBIC")
        return _upright(rgb.to_ndarray().astype(np.uint8, copy=False), self.matrix)


def _display_matrix(frame: av.VideoFrame) -> list[int]:
    """a, b, u, c, d, v, x, y, w: pixel (p, q) is shown at (a p + c q, b p + d q)."""
    try:
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        matrix = _without_unknown_side_data(frame).side_data.get("DISPLAYMATRIX")
    return [1, 0, 0, 0, 1, 0, 0, 0, 1] if matrix is None else np.frombuffer(matrix, dtype=np.int32).tolist()


def _without_unknown_side_data(frame: av.VideoFrame) -> av.VideoFrame:
    """PyAV shows none of a frame's side data where it does not know the type of one, such as a photograph's Exif."""
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1)
    )
    unknown = set(range(_MOST_SIDE_DATA_TYPES)) - {known.value for known in SideDataType}
    deleters = [graph.add("sidedata", f"mode=delete:type={number}") for number in unknown]
    graph.link_nodes(source, *deleters, graph.add("buffersink")).configure()
    graph.push(frame)
    return cast(av.VideoFrame, graph.pull())


def _upright(picture: NDArray[np.uint8], matrix: list[int]) -> NDArray[np.uint8]:
    """Apply a display matrix: quarter turns and mirrorings exactly, other angles as the nearest of them."""
    a, b, _, c, d = matrix[:5]
    if abs(b) > abs(a):
        picture, flip_rows, flip_columns = picture.transpose(1, 0, 2), b < 0, c < 0
    else:
        flip_rows, flip_columns = d < 0, a < 0
    return picture[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
