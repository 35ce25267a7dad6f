"""Chat-UniVi's functions: TCFormer's, with distances and noise in float32, and with `mask` in place of the sizes."""

from typing import Any

import torch
from torch import Tensor

from dynfocus_ops.dropin.clustering import at_most_float32, cluster, draw_noise
from dynfocus_ops.dropin.merging import merge_dict


@torch.no_grad()
def cluster_dpc_knn(
    token_dict: dict[str, Any], cluster_num: int, k: int = 5, token_mask: Tensor | None = None, *, noise: bool = True
) -> tuple[Tensor, int]:
    """As `tcformer.cluster_dpc_knn`, in float32."""
    x = at_most_float32(token_dict["x"])
    mask = None if token_mask is None else token_mask > 0
    return cluster(x, cluster_num, k, draw_noise(x, torch.float32, noise), mask).labels, cluster_num


def merge_tokens(
    token_dict: dict[str, Any], idx_cluster: Tensor, cluster_num: int, token_weight: Tensor | None = None
) -> dict[str, Any]:
    """As `tcformer.merge_tokens`, but for the keys; idx_token may be on the CPU, where Chat-UniVi makes it."""
    merged = merge_dict(token_dict, idx_cluster, cluster_num, token_weight, {})
    return {**merged, "mask": None}
