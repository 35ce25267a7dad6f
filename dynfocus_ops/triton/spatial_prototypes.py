"""Prototypes of several levels: cluster, average, cluster the averages as returned."""

from itertools import accumulate

import torch
from torch import Tensor

from dynfocus_ops.triton.cluster_mean import cluster_mean
from dynfocus_ops.triton.dpc_knn import dpc_knn


def spatial_prototypes(x: Tensor, num_clusters: list[int], k: list[int]) -> tuple[Tensor, Tensor]:
    """Prototypes [T, sum M, C], each level written where the next one reads it, and assignments [T, N + M_1 + ...].

    The sums are those of cluster_mean: in float32, in order of index.
    """
    T, _, C = x.shape
    prototypes = x.new_empty((T, sum(num_clusters), C))
    points, assignments = x, []
    for M, neighbors, end in zip(num_clusters, k, accumulate(num_clusters), strict=True):
        assignments.append(dpc_knn(points, M, neighbors, None, float(C), None)[0])
        points = cluster_mean(points, assignments[-1], M, None, out=prototypes[:, end - M : end])
    return prototypes, torch.cat(assignments, 1)
