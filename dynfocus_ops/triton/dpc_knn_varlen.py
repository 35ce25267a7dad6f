"""Density-peaks clustering of ragged segments."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dynfocus_ops.transfer import to_device
from dynfocus_ops.triton.clustering import Centers, cluster
from dynfocus_ops.triton.samples import Samples, flat


def dpc_knn_varlen(
    x: Tensor,
    cu_seqlens: Tensor,
    num_clusters: Sequence[int],
    k: Sequence[int],
    mask: Tensor | None,
    distance_scale: float,
    noise: Tensor | None,
    *,
    max_seqlen: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(assignment, centers, log_density, delta) of x [total, C].

    cu_seqlens [S + 1] stays where it is. num_clusters and k: one number for all segments, or one for each, which are
    copied to the GPU.
    """
    segments = len(cu_seqlens) - 1
    total = segments * num_clusters[0] if len(num_clusters) == 1 else sum(num_clusters)
    points = torch.empty(total, dtype=torch.int64, device=x.device)
    bounds = None if len(num_clusters) == 1 else to_device([0, *num_clusters], x.device).cumsum(0)
    ks = None if len(k) == 1 else to_device(k, x.device)
    samples = Samples(x, flat(mask), cu_seqlens.contiguous(), max_seqlen)
    centers = Centers(points, max(num_clusters), bounds)
    assignment, log_density, delta = cluster(samples, centers, max(k), ks, distance_scale, flat(noise))
    return assignment, points, log_density, delta
