"""The methods of the `Merger` in DynFocus' released code: the tensor form, in the dtype of the tokens."""

from typing import Any

import torch
from torch import Tensor

from dynfocus_ops.dropin.clustering import cluster, draw_noise, own_dtype
from dynfocus_ops.dropin.merging import merge


@torch.no_grad()
def cluster_dpc_knn(
    self: Any, vis_embed: Tensor, cluster_num: int, k: int, token_mask: Tensor | None = None, *, noise: bool = True
) -> tuple[Tensor, int]:
    """Density-peaks clustering of vis_embed [B, N, C]; arguments and results as `tcformer.cluster_dpc_knn`."""
    mask = None if token_mask is None else token_mask > 0
    return cluster(
        vis_embed, cluster_num, k, draw_noise(vis_embed, own_dtype(vis_embed), noise), mask
    ).labels, cluster_num


def merge_tokens(
    self: Any, vis_embed: Tensor, idx_cluster: Tensor, cluster_num: int, token_weight: Tensor | None = None
) -> Tensor:
    """Weighted mean of each cluster [B, cluster_num, C], differentiable."""
    return merge(vis_embed, idx_cluster, cluster_num, token_weight)
