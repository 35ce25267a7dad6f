"""ERMVP's functions: PruneVid's form in the dtype of x, and a merge that returns a pair."""

import torch
from torch import Tensor

from dynfocus_ops.dropin.clustering import cluster, draw_noise, own_dtype
from dynfocus_ops.dropin.merging import merge


@torch.no_grad()
def cluster_dpc_knn(
    x: Tensor, cluster_num: int, k: int = 5, token_mask: Tensor | None = None, *, noise: bool = True
) -> tuple[Tensor, int]:
    """Density-peaks clustering of x [B, N, C]; as `tcformer.cluster_dpc_knn`. ERMVP itself has no mask."""
    mask = None if token_mask is None else token_mask > 0
    return cluster(x, cluster_num, k, draw_noise(x, own_dtype(x), noise), mask).labels, cluster_num


def merge_tokens(
    x: Tensor, idx_cluster: Tensor, cluster_num: int, token_weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weighted mean of each cluster [B, cluster_num, C], differentiable; the cluster of each token [B, N]."""
    return merge(x, idx_cluster, cluster_num, token_weight), idx_cluster.clone()
