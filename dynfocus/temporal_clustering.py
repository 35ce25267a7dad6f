"""The events of a video: clusters of its frames, in the order of time. Imports torch and dynfocus_ops only."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

import dynfocus_ops
from dynfocus_ops.transfer import to_device


class TemporalEvents(NamedTuple):
    """Events of a batch of videos packed along dim 0, numbered through the batch in the order of their centres."""

    assignment: Tensor  # [ΣT] int64, the event of every frame
    centers: Tensor  # [ΣL] int64, ascending: the frame (row of the packed batch) that stands for each event
    prototypes: Tensor  # [ΣL, D], the mean of the event's frames


def dpc_knn_events(
    frames: Tensor, num_frames: Sequence[int], num_events: Sequence[int], neighbors: int, distance_scale: float | None
) -> TemporalEvents:
    """Temporal DPC-KNN (the paper's temporal redundancy elimination), all videos in one call.

    Args:
        frames: [ΣT, D], the pooled patches of each frame, flattened.
        num_frames: T of each video.
        num_events: L of each video, at most its T.
        neighbors: k of the density, clamped to each video's T.
        distance_scale: divisor of the squared distances; None divides by D.
    """
    clusters = dynfocus_ops.dpc_knn_varlen(
        frames,
        to_device(list(accumulate(num_frames, initial=0)), frames.device),
        _one_or_all(num_events),
        _one_or_all([min(neighbors, length) for length in num_frames]),
        max_seqlen=max(num_frames),
        distance_scale=distance_scale,
    )
    # Rows of later videos are larger, so one sort puts the centres in time order within every video.
    centers, density_order = clusters.centers.sort()
    time = torch.arange(len(centers), device=frames.device)
    time_rank = torch.empty_like(time).scatter(0, density_order, time)
    first_event = torch.cat(
        [
            torch.full((length,), first, device=frames.device)
            for length, first in zip(num_frames, accumulate(num_events, initial=0), strict=False)
        ]
    )
    assignment = time_rank[clusters.assignment + first_event]
    return TemporalEvents(assignment, centers, _event_means(frames, assignment, centers.numel()))


def _one_or_all(numbers: Sequence[int]) -> int | list[int]:
    """One number where all are the same: it goes to a kernel as it is, a list would have to be copied."""
    return numbers[0] if len(set(numbers)) == 1 else list(numbers)


def kmeans_events(
    frames: Tensor, num_frames: Sequence[int], num_events: Sequence[int], iterations: int = 10
) -> TemporalEvents:
    """Lloyd's k-means from evenly spaced frames, an alternative to DPC-KNN (the released code's choice).

    Unlike the released code the start is fixed, and an event's frame is the member nearest to its centroid, so
    that feature and frame index agree. Arguments as in `dpc_knn_events`.
    """
    assignments, centers = [], []
    first_row = first_event = 0
    for video, events in zip(frames.split(list(num_frames)), num_events, strict=True):
        assignment, members = _kmeans(video.detach().float(), events, iterations)
        assignments.append(assignment + first_event)
        centers.append(members + first_row)
        first_row, first_event = first_row + video.shape[0], first_event + events
    assignment = torch.cat(assignments)
    return TemporalEvents(assignment, torch.cat(centers), _event_means(frames, assignment, first_event))


def _kmeans(video: Tensor, num_events: int, iterations: int) -> tuple[Tensor, Tensor]:
    """Assignment [T] and representative frames [L], events in the order of their representatives."""
    length = video.shape[0]
    seeds = torch.arange(num_events, device=video.device) * length // num_events
    centroids = video[seeds]
    for _ in range(iterations):
        assignment = _distances(video, centroids).argmin(1)
        # An event left without members takes back the frame it started from; nobody else ever takes that frame.
        while (empty := (assignment.bincount(minlength=num_events) == 0)).any():
            assignment[seeds[empty]] = empty.nonzero().squeeze(1)
        centroids = dynfocus_ops.cluster_mean(video[None], assignment[None], num_events)[0]
    distance = _distances(video, centroids)
    outside = assignment[:, None] != torch.arange(num_events, device=video.device)
    members, order = distance.masked_fill(outside, torch.inf).argmin(0).sort()
    return order.argsort()[assignment], members


def _distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x[None], y[None], compute_mode="donot_use_mm_for_euclid_dist")[0]


def _event_means(frames: Tensor, assignment: Tensor, num_events: int) -> Tensor:
    return dynfocus_ops.cluster_mean(frames[None], assignment[None], num_events)[0]
