"""SparseVLM's function, which MustDrop shares: clusters with as many neighbours as clusters, and their means.

In half precision the original rounds every step, from x_i - x_j on, to the dtype of x: many densities tie, and the
noise is lost. So that the same ties decide, the same is done here, but each pair is met once, N x N x C never stored.
"""

import torch
from torch import Tensor

from dynfocus_ops.checks import check_points
from dynfocus_ops.dropin.clustering import NOISE, Clusters, cluster, cluster_matrix, draw_noise
from dynfocus_ops.dropin.merging import merge


def cluster_and_merge(x: Tensor, cluster_num: int, *, noise: bool = True) -> Tensor:
    """Means [B, cluster_num, C] of x [B, N, C], in descending order of the centres' scores; differentiable in x."""
    return merge(x, clusters(x, cluster_num, noise).labels, cluster_num, None)


@torch.no_grad()
def clusters(x: Tensor, cluster_num: int, noise: bool) -> Clusters:
    if x.dtype in (torch.float32, torch.float64):
        return cluster(x, cluster_num, cluster_num, draw_noise(x, x.dtype, noise))
    draw = torch.rand(x.shape[:2], dtype=x.dtype, device=x.device).mul_(NOISE) if noise else None
    return cluster_matrix(rounded_distances(x), cluster_num, cluster_num, draw)


def rounded_distances(x: Tensor) -> Tensor:
    """|x_i - x_j| / sqrt(C) [B, N, N], with each difference, norm and quotient rounded to the dtype of x."""
    check_points(x, "[B, N, C]")
    distance = x.new_zeros(len(x), x.shape[1], x.shape[1])
    for i in range(x.shape[1] - 1):
        later = (x[:, i : i + 1] - x[:, i + 1 :]).norm(dim=-1).div_(x.shape[-1] ** 0.5)
        distance[:, i, i + 1 :] = later
        distance[:, i + 1 :, i] = later
    return distance
