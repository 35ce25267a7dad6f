"""SparseVLM's function, which MustDrop shares: clusters with as many neighbours as clusters, and their means.

In half precision the original rounds every step to the dtype of x: most densities tie, and the noise is lost. The same
here, but for the distances, which are rounded once.
"""

import torch
from torch import Tensor

from dynfocus_ops.dropin.clustering import NOISE, Clusters, cluster, cluster_matrix, distances, draw_noise
from dynfocus_ops.dropin.merging import merge


def cluster_and_merge(x: Tensor, cluster_num: int, *, noise: bool = True) -> Tensor:
    """Means [B, cluster_num, C] of x [B, N, C], in descending order of the centres' scores; differentiable in x."""
    return merge(x, clusters(x, cluster_num, noise).labels, cluster_num, None)[0]


@torch.no_grad()
def clusters(x: Tensor, cluster_num: int, noise: bool) -> Clusters:
    if x.dtype in (torch.float32, torch.float64):
        return cluster(x, cluster_num, cluster_num, draw_noise(x, x.dtype, noise))
    draw = torch.rand(x.shape[:2], dtype=x.dtype, device=x.device).mul_(NOISE) if noise else None
    scale = x.shape[-1] ** 0.5
    rounded = distances(x).mul_(scale).to(x.dtype).div_(scale)
    return cluster_matrix(rounded, cluster_num, cluster_num, draw)
