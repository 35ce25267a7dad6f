"""Prototypes of several levels: cluster, average, cluster the averages."""

from collections.abc import Callable

import torch
from torch import Tensor

from dynfocus_ops.reference.cluster_mean import cluster_mean
from dynfocus_ops.reference.dpc_knn import dpc_knn


def spatial_prototypes(
    x: Tensor,
    num_clusters: list[int],
    k: list[int],
    dpc_knn: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] = dpc_knn,
    cluster_mean: Callable[..., Tensor] = cluster_mean,
) -> tuple[Tensor, Tensor]:
    """Prototypes [T, sum M, C] and assignments [T, N + M_1 + ...], each level after level."""
    prototypes, assignments = [], []
    for clusters, neighbors in zip(num_clusters, k, strict=True):
        assignment = dpc_knn(x, clusters, neighbors, None, float(x.shape[-1]), None)[0]
        x = cluster_mean(x, assignment, clusters, None)
        prototypes.append(x)
        assignments.append(assignment)
    return torch.cat(prototypes, 1), torch.cat(assignments, 1)
