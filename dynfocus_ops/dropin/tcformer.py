"""TCFormer's functions: a dictionary of tokens in and out, distances and noise in the dtype of its tokens."""

from typing import Any

import torch
from torch import Tensor

from dynfocus_ops.dropin.clustering import cluster, draw_noise, own_dtype
from dynfocus_ops.dropin.merging import merge_dict


@torch.no_grad()
def cluster_dpc_knn(
    token_dict: dict[str, Any], cluster_num: int, k: int = 5, token_mask: Tensor | None = None, *, noise: bool = True
) -> tuple[Tensor, int]:
    """Density-peaks clustering of token_dict["x"] [B, N, C].

    Args:
        token_mask: [B, N], not above 0 for empty tokens, which join cluster 0 and are centres only where tokens lack.
        noise: whether to draw from torch's generator, as the original always does; without, ties go to the lower index.

    Returns:
        int64 [B, N] clusters in descending order of their centres' scores; cluster_num.
    """
    x = token_dict["x"]
    mask = None if token_mask is None else token_mask > 0
    return cluster(x, cluster_num, k, draw_noise(x, own_dtype(x), noise), mask).labels, cluster_num


def merge_tokens(
    token_dict: dict[str, Any], idx_cluster: Tensor, cluster_num: int, token_weight: Tensor | None = None
) -> dict[str, Any]:
    """Weighted mean of each cluster, differentiable in x and token_weight [B, N, 1]; keys as the original's."""
    extra = {name: token_dict[name] for name in ("map_size", "init_grid_size")}
    return merge_dict(token_dict, idx_cluster, cluster_num, token_weight, extra)
