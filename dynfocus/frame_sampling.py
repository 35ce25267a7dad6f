"""Which frames of a video to look at."""

import numpy as np
from numpy.typing import NDArray


def sample_indices(
    times: NDArray[np.float64],
    duration: float,
    *,
    fps: float | None = None,
    num_frames: int | None = None,
    min_frames: int = 1,
    max_frames: int | None = None,
    clock_tick: float = 0.0,
) -> NDArray[np.int64]:
    """Indices of the frames to take, ascending.

    Args:
        times: [N] seconds, ascending: when each frame comes on screen.
        duration: seconds, when the last one goes.
        fps: take the frame on screen at every multiple of 1 / fps; None takes every frame.
        num_frames: take this many (all, if there are fewer) evenly over the frames, whatever `fps` says.
        min_frames, max_frames: where the rate gives fewer or more, take this many evenly.
        clock_tick: seconds by which the clock of `times` rounds.
    """
    total = len(times)
    if num_frames is None:
        indices = np.arange(total)
        if fps is not None:
            # Frame i is on screen at some g / fps, g an integer, if the first g / fps from times[i] on comes before
            # the next frame.
            start = times - 0.5 * clock_tick
            end = np.append(start[1:], duration)
            indices = np.flatnonzero(np.ceil(start * fps - _ROUNDING) < end * fps - _ROUNDING)
        num_frames = max(len(indices), min_frames)
        if max_frames is not None:
            num_frames = min(num_frames, max_frames)
        if len(indices) == num_frames:
            return indices
    count = min(num_frames, total)
    # The middle frames of `count` equal parts: floor((i + 1/2) total / count).
    return (2 * np.arange(count) + 1) * total // (2 * count)


_ROUNDING = 1e-6
