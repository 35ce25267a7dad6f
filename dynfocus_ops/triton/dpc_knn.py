"""Density-peaks clustering of a batch."""

import torch
from torch import Tensor

from dynfocus_ops.triton.clustering import Centers, by_samples, cluster
from dynfocus_ops.triton.frame_clustering import cluster_frames, takes
from dynfocus_ops.triton.samples import Samples, flat


def dpc_knn(
    x: Tensor, num_clusters: int, k: int, mask: Tensor | None, distance_scale: float, noise: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(assignment, centers, log_density, delta) of x [B, N, C]."""
    if takes(x):
        return cluster_frames(x, num_clusters, k, mask, distance_scale, noise)

    def part(x: Tensor, mask: Tensor | None, noise: Tensor | None) -> tuple[Tensor, ...]:
        B, N = x.shape[:2]
        centers = Centers(x.new_empty(B, num_clusters, dtype=torch.int64), num_clusters)
        samples = Samples(x, flat(mask))
        assignment, log_density, delta = cluster(samples, centers, k, None, distance_scale, flat(noise))
        return assignment.view(B, N), centers.points, log_density.view(B, N), delta.view(B, N)

    assignment, centers, log_density, delta = by_samples(part, x, mask, noise)
    return assignment, centers, log_density, delta
