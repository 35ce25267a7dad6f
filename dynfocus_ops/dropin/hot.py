"""HoT's functions (hourglass tokens for pose): centres first; TPC's keeps one frame from being a centre."""

from typing import Any

import torch
from torch import Tensor

from dynfocus_ops.dropin.clustering import (
    Clusters,
    cluster,
    cluster_matrix,
    cluster_without,
    distances,
    draw_noise,
    own_dtype,
)


@torch.no_grad()
def cluster_dpc_knn(
    x: Tensor, cluster_num: int, k: int, token_mask: Tensor | None = None, *, noise: bool = True
) -> tuple[Tensor, Tensor]:
    """Density-peaks clustering of x [B, N, C]: (centres [B, cluster_num], labels [B, N]); else as `tcformer`'s."""
    mask = None if token_mask is None else token_mask > 0
    return reversed_pair(cluster(x, cluster_num, k, draw_noise(x, own_dtype(x), noise), mask))


@torch.no_grad()
def cluster_dpc_knn_center(
    x: Tensor, cluster_num: int, k: int, center: Any, token_mask: Tensor | None = None, *, noise: bool = True
) -> tuple[Tensor, Tensor]:
    """`cluster_dpc_knn` where the points x[:, center] are no centres, unless there are too few others."""
    draw = draw_noise(x, own_dtype(x), noise)
    if token_mask is None:
        return reversed_pair(cluster_without(x, cluster_num, k, draw, center))
    return reversed_pair(cluster_matrix(distances(x), cluster_num, k, draw, token_mask > 0, excluded=center))


def reversed_pair(clusters: Clusters) -> tuple[Tensor, Tensor]:
    return clusters.centers, clusters.labels
