"""In MISSRec's dialect: points [N, D], no noise, a larger epsilon."""

import torch

from .formula import centers_and_labels, scaled_distance, weighted_sums


def cluster_dpc_knn(all_tokens, cluster_num, local_size=5, token_weight=None, device=None):
    home = all_tokens.device
    points = all_tokens[None].to(device or home)
    with torch.no_grad():
        _, labels = centers_and_labels(scaled_distance(points), cluster_num, local_size, draw=None)
        weight = points.new_ones(1, points.shape[1], 1) if token_weight is None else token_weight.view(1, -1, 1)
        centroids, _ = weighted_sums(points, labels, cluster_num, weight, epsilon=1e-4)
    return labels[0].to(home), centroids[0].to(home)
