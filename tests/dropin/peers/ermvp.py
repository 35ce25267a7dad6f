"""In ERMVP's dialect: no mask, and the merge returns the tokens and where each went."""

import torch

from .formula import centers_and_labels, scaled_distance, weighted_sums


def cluster_dpc_knn(x, cluster_num, k=5):
    with torch.no_grad():
        _, labels = centers_and_labels(scaled_distance(x), cluster_num, k)
    return labels, cluster_num


def merge_tokens(x, idx_cluster, cluster_num, token_weight=None):
    weight = x.new_ones(*x.shape[:2], 1) if token_weight is None else token_weight
    merged, _ = weighted_sums(x, idx_cluster, cluster_num, weight)
    rows, tokens = torch.arange(len(x))[:, None], torch.arange(x.shape[1]).expand(len(x), -1)
    return merged, idx_cluster[rows, tokens]


def compress(x, confidence, number):
    labels, number = cluster_dpc_knn(x, number, 10)
    return merge_tokens(x, labels, number, confidence)
