"""The copies' weighted mean, differentiable in x and w: y_c = sum_i x_i w_i / W_c with W_c = epsilon + sum_i w_i."""

import operator
from typing import Any

from torch import Tensor

from dynfocus_ops.checks import check_finite, score_dtype
from dynfocus_ops.ops.cluster_mean import cluster_mean

EPSILON = 1e-6


def merge(x: Tensor, labels: Tensor, num_clusters: int, weight: Tensor | None, epsilon: float = EPSILON) -> Tensor:
    """y [B, num_clusters, C] of x [B, N, C], labels [B, N], weight [B, N, 1]."""
    num_clusters = operator.index(num_clusters)
    if weight is not None:
        check_finite("token_weight", weight, None)
    return cluster_mean(x, labels, num_clusters, None if weight is None else weight.squeeze(-1), epsilon=epsilon)


def merge_dict(
    token_dict: dict[str, Any], labels: Tensor, num_clusters: int, weight: Tensor | None, extra: dict[str, Any]
) -> dict[str, Any]:
    """The dictionary form: maps the original tokens (idx_token [B, N0], agg_weight [B, N0, 1]) to the merged ones."""
    x = token_dict["x"]
    merged = merge(x, labels, num_clusters, weight)
    weights = x.new_ones(*labels.shape, 1) if weight is None else weight
    weights = weights.to(score_dtype(weights))
    total = weights.new_full((*merged.shape[:2], 1), EPSILON).scatter_add(1, labels.unsqueeze(-1), weights)
    share = weights / total.gather(1, labels.unsqueeze(-1))  # w_i / W_c
    share = share.to(x.dtype if weight is None else weight.dtype)
    original = token_dict["idx_token"].to(labels.device).expand(len(labels), -1)  # Chat-UniVi keeps it on the CPU
    return {
        "x": merged,
        "token_num": num_clusters,
        **extra,
        "idx_token": labels.gather(1, original),
        "agg_weight": token_dict["agg_weight"] * share.gather(1, original.unsqueeze(-1)),
    }
