"""FlashVID's function: labels and centres; an empty token joins its nearest centre."""

import torch
from torch import Tensor

from dynfocus_ops.dropin.clustering import at_most_float32, cluster, draw_noise


@torch.no_grad()
def dpc_knn(
    features: Tensor, num_clusters: int, k: int = 7, valid_token_mask: Tensor | None = None, *, noise: bool = True
) -> tuple[Tensor, Tensor]:
    """Density-peaks clustering of features [B, N, C] in float32.

    Args:
        valid_token_mask: bool [B, N], False for empty tokens.
        noise: whether to draw from torch's generator, as the original always does; without, ties go to the lower index.

    Returns:
        int64 labels [B, N], centres [B, num_clusters], in descending order of the centres' scores.
    """
    draw = draw_noise(features, torch.float32, noise)
    labels, centers = cluster(at_most_float32(features), num_clusters, k, draw, valid_token_mask, empty_to_nearest=True)
    return labels, centers
