from typing import NamedTuple

import torch
from torch import Tensor

from dynfocus_ops.checks import check_int, check_not_empty, check_shape, check_tensor, score_dtype
from dynfocus_ops.ops.cluster_mean import cluster_mean
from dynfocus_ops.ops.dpc_knn import dpc_knn

TEMPORAL_NEIGHBORS = 8
SPATIAL_NEIGHBORS = 8


class CompressedVideo(NamedTuple):
    tokens: Tensor  # [M, C]
    frames: Tensor  # int64 [M], the frame of each token, ascending
    positions: Tensor  # int64 [M], its place within its frame; of a mean, that of its cluster's centre
    timestamps: Tensor | None  # [M]
    key_frames: Tensor  # int64 [K], ascending
    events: Tensor  # int64 [T], the key frame, as a place in key_frames, whose event each frame belongs to


def compress_video_tokens(
    features: Tensor, budget: int, *, tokens_per_frame: int = 2, timestamps: Tensor | None = None
) -> CompressedVideo:
    """A video's tokens within a budget, without training: key frames in full, every other frame in a few means.

    Frames are clustered into events by density peaks over their mean tokens; the centre of an event is its key frame.
    The tokens of every other frame are clustered likewise, and each cluster is averaged. The number of tokens depends
    on shapes alone: K N + (T - K) tokens_per_frame with K = (budget - T tokens_per_frame) // (N - tokens_per_frame),
    at most T.

    Args:
        features: [T, N, C], float: the visual tokens of T frames as they would enter a language model; differentiable.
        budget: the most tokens to return, at least T tokens_per_frame.
        tokens_per_frame: means per frame that is no key frame, at most N.
        timestamps: [T], the time of each frame.

    Returns:
        CompressedVideo: tokens [M, C] in the dtype of features, in order of time and of place within a frame, with
        their frames, positions and timestamps; the key frames and the events.

    Raises:
        TypeError, ValueError: wrong types, shapes or dtypes, or a budget too small for the frames.

    Source: after the events, cones and rods of DynFocus (CVPR 2025, arXiv 2411.12355), without what it learns.
    """
    check_tensor("features", features, "[T, N, C]")
    check_not_empty("features", features)
    num_frames, num_patches, _ = features.shape
    check_int("tokens_per_frame", tokens_per_frame, 1, num_patches, "the tokens of a frame")
    check_int("budget", budget, 1)
    if timestamps is not None:
        check_shape("timestamps", timestamps, (num_frames,), "[T] of features")
    if budget < num_frames * tokens_per_frame:
        raise ValueError(
            f"budget is {budget}, it must be at least {num_frames * tokens_per_frame}: tokens_per_frame = "
            f"{tokens_per_frame} for each of {num_frames} frames; sample fewer frames"
        )
    spare = budget - num_frames * tokens_per_frame
    num_keys = num_frames if num_patches == tokens_per_frame else spare // (num_patches - tokens_per_frame)
    key_frames, events = choose_key_frames(features.detach(), min(num_keys, num_frames))
    is_key = torch.zeros(num_frames, dtype=torch.uint8, device=features.device).index_fill_(0, key_frames, 1)
    others = is_key.argsort(stable=True)[: num_frames - len(key_frames)]

    if 2 * len(others) > num_frames:  # cheaper than to copy them
        means, places = (part[others] for part in frame_means(features, tokens_per_frame))
    else:
        means, places = frame_means(features[others], tokens_per_frame)
    every_place = torch.arange(num_patches, device=features.device).repeat(len(key_frames))
    frames = torch.cat([key_frames.repeat_interleave(num_patches), others.repeat_interleave(tokens_per_frame)])
    order = frames.argsort(stable=True)
    frames, positions = frames[order], torch.cat([every_place, places.flatten()])[order]
    tokens = features.flatten(0, 1)[frames * num_patches + positions]
    tokens.index_copy_(0, order.argsort()[len(every_place) :], means.flatten(0, 1))
    times = None if timestamps is None else timestamps[frames]
    return CompressedVideo(tokens, frames, positions, times, key_frames, events)


def choose_key_frames(features: Tensor, num_keys: int) -> tuple[Tensor, Tensor]:
    """(key frames in order of time, the event of each frame); without any key frame the video is one event."""
    num_frames = len(features)
    summaries = features.mean(1, dtype=score_dtype(features)).unsqueeze(0)
    clusters = dpc_knn(summaries, max(num_keys, 1), min(TEMPORAL_NEIGHBORS, num_frames))
    if num_keys == 0:
        return clusters.centers[0, :0], clusters.assignment[0]
    key_frames, order = clusters.centers[0].sort()
    return key_frames, order.argsort()[clusters.assignment[0]]


def frame_means(features: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
    """(means [F, num_tokens, C] of each frame's clusters, in order of their centres' places [F, num_tokens])."""
    if len(features) == 0:
        means = features[:, :num_tokens]
        return means, torch.empty(means.shape[:2], dtype=torch.int64, device=features.device)
    clusters = dpc_knn(features.detach(), num_tokens, min(SPATIAL_NEIGHBORS, features.shape[1]))
    places, order = clusters.centers.sort(-1)
    assignment = order.argsort(-1).gather(1, clusters.assignment)
    return cluster_mean(features, assignment, num_tokens), places
