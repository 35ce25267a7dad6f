import math

import torch
from torch import Tensor

from dynfocus_ops.checks import check_finite, check_int, check_not_empty, check_tensor, checks_values, score_dtype
from dynfocus_ops.transfer import to_device


def segment_boundaries(
    frames: Tensor, threshold: float = 0.9, *, min_segments: int = 1, num_smallest: int = 0
) -> Tensor:
    """Where a video falls into segments: between frames that are less similar than `threshold`.

    A cut lies between frames t and t + 1 where cos(frame_t, frame_t+1) < threshold; also where the cosine is among the
    `num_smallest` (FastVID: 7), and where it is among the smallest of the rest, until there are `min_segments`
    (FlashVID: 8). Of equal cosines the earlier is the smaller. No more segments than frames.

    Args:
        frames: [T, C], float: one vector per frame, such as the mean of its tokens.

    Returns:
        int64 [S + 1], from 0 to T: the bounds of the segments, `cu_seqlens` of `dpc_knn_varlen`; S depends on the
        values, so a GPU is waited for.

    Raises:
        TypeError, ValueError: wrong types, shapes or dtypes; on the CPU also NaN, infinity or vectors whose squared
            lengths overflow.

    Source: dynamic segmentation of FastVID (NeurIPS 2025) and FlashVID.
    """
    check_tensor("frames", frames, "[T, C]")
    check_not_empty("frames", frames)
    check_int("min_segments", min_segments, 1)
    check_int("num_smallest", num_smallest, 0)
    points = frames.detach().to(score_dtype(frames))
    length = torch.linalg.vector_norm(points, dim=-1).clamp_(min=1e-12)
    similarity = (points[:-1] * points[1:]).sum(-1).div_(length[:-1]).div_(length[1:])
    values = similarity.tolist()
    if checks_values(frames) and not math.isfinite(sum(values)):
        check_finite("frames", frames, None)
        raise ValueError("frames has vectors too long to be compared, their squared lengths must be finite")
    values = [math.inf if math.isnan(value) else value for value in values]
    threshold = torch.tensor(threshold, dtype=similarity.dtype).item()  # as rounded as they are
    ascending = sorted(range(len(values)), key=values.__getitem__)
    cuts = {t for t, value in enumerate(values) if value < threshold}.union(ascending[:num_smallest])
    for t in ascending:
        if len(cuts) + 1 >= min_segments:
            break
        cuts.add(t)
    return to_device([0, *(t + 1 for t in sorted(cuts)), len(frames)], frames.device)
