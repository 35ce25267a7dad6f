"""HoliTom's methods, which LightCompress shares: centres and distances, and the merge that follows."""

import os
from typing import Any

import torch
from torch import Tensor

from dynfocus_ops.checks import check_points
from dynfocus_ops.dropin.clustering import at_most_float32, backend_of, cluster, distances, draw_noise, matrix_centers
from dynfocus_ops.ops.cluster_mean import cluster_mean


@torch.no_grad()
def cluster_dpc_knn(self: Any, x: Tensor, cluster_num: int, k: int = 7, *, noise: bool = True) -> tuple[Tensor, Tensor]:
    """(centres [B, cluster_num] in descending score, distances |x_i - x_j| / sqrt(C) [B, N, N]) in float32."""
    x = at_most_float32(x)
    check_points(x, "[B, N, C]")
    on_cpu = backend_of(x, cluster_num, k) == "cpu"
    distance = torch.ops.dynfocus_native.pairwise_distances(x) if on_cpu else distances(x)
    return matrix_centers(distance, cluster_num, k, draw_noise(x, torch.float32, noise)), distance


def merge_tokens_by_clustering(
    self: Any, feat: Tensor, target_indices: Tensor, dist_matrix: Tensor, cluster_num: int, Beta: float
) -> Tensor:
    """Centres feat[target_indices] [B, cluster_num], each mixed with the mean of the tokens nearest to it."""
    nearest = dist_matrix.gather(2, target_indices.unsqueeze(1).expand(-1, feat.shape[1], -1)).argmin(-1)
    return mix(feat, target_indices, nearest, cluster_num, Beta)


def merge_tokens_by_density(
    self: Any, feat: Tensor, pos: Tensor, retain_ratio: float, Beta: float, K: int, *, noise: bool = True
) -> tuple[Tensor, Tensor]:
    """Both of the above in one, for a share `retain_ratio` of the tokens: no distance matrix.

    Returns:
        tokens [B, round(N retain_ratio), C] in the order of their positions; pos [B, N] of their centres.
    """
    cluster_num = round(feat.shape[1] * retain_ratio)
    if cluster_num == 0:
        nothing = torch.empty(
            len(feat), 0, feat.shape[2], device=feat.device
        )  # in the default dtype, as the original's
        return nothing, nothing[..., 0]
    with torch.no_grad():
        draw = draw_noise(feat, torch.float32, noise)
        by_score = cluster(at_most_float32(feat), cluster_num, min(K, cluster_num), draw)
        centers, order = by_score.centers.sort(-1)
        nearest = order.argsort(-1).gather(1, by_score.labels)
    return mix(feat, centers, nearest, cluster_num, Beta), pos.gather(1, centers)


def mix(feat: Tensor, centers: Tensor, nearest: Tensor, cluster_num: int, beta: float) -> Tensor:
    """beta centre + (1 - beta) mean of the others of its cluster; with NO_BETA set, the mean of all; alone, itself."""
    center = feat[torch.arange(len(feat), device=feat.device).unsqueeze(1), centers]
    if os.environ.get("NO_BETA", "0") != "0":
        number = torch.arange(cluster_num, device=feat.device).expand_as(centers)
        return cluster_mean(feat, nearest.scatter(1, centers, number), cluster_num)
    others = nearest.scatter(1, centers, -1)
    alone = (others.unsqueeze(1) != torch.arange(cluster_num, device=feat.device).unsqueeze(1)).all(-1, keepdim=True)
    return torch.where(alone, center, beta * center + (1 - beta) * cluster_mean(feat, others, cluster_num))
