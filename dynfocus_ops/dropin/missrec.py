"""MISSRec's function: one set of points [N, D], no noise, the clusters and their centroids."""

import torch
from torch import Tensor

from dynfocus_ops.dropin.clustering import cluster_strictly
from dynfocus_ops.dropin.merging import merge

EPSILON = 1e-4


@torch.no_grad()
def cluster_dpc_knn(
    all_tokens: Tensor,
    cluster_num: int,
    local_size: int = 5,
    token_weight: Tensor | None = None,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Density-peaks clustering of all_tokens [N, D] with local_size neighbours.

    Args:
        token_weight: [N], 1 unless given.
        device: where to compute; the results come back to the device of all_tokens.

    Returns:
        int64 clusters [N], in descending order of their centres' scores; their weighted means [cluster_num, D].
    """
    points = all_tokens.to(device or all_tokens.device).unsqueeze(0)
    weight = None if token_weight is None else token_weight.to(points.device).view(1, -1, 1)
    # Without noise exact duplicates tie, so that neither is the other's denser point: both can be centres.
    labels, _ = cluster_strictly(points, cluster_num, local_size)
    centroids = merge(points, labels, cluster_num, weight, EPSILON)
    return labels[0].to(all_tokens.device), centroids[0].to(all_tokens.device)
