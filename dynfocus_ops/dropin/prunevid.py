"""PruneVid's function, which LightCompress shares: a tensor in place of the dictionary, float32 inside."""

import torch
from torch import Tensor

from dynfocus_ops.dropin.clustering import at_most_float32, cluster, draw_noise


@torch.no_grad()
def cluster_dpc_knn(
    x: Tensor, cluster_num: int, k: int = 5, token_mask: Tensor | None = None, *, noise: bool = True
) -> tuple[Tensor, int]:
    """Density-peaks clustering of x [B, N, C]; arguments and results as `tcformer.cluster_dpc_knn`."""
    mask = None if token_mask is None else token_mask > 0
    return cluster(at_most_float32(x), cluster_num, k, draw_noise(x, torch.float32, noise), mask).labels, cluster_num
