"""In TCFormer's dialect: a dictionary of tokens, distances in its dtype; the layers import the functions by name."""

import torch

from .formula import centers_and_labels, scaled_distance, weighted_sums


def cluster_dpc_knn(token_dict, cluster_num, k=5, token_mask=None):
    with torch.no_grad():
        valid = None if token_mask is None else token_mask > 0
        _, labels = centers_and_labels(scaled_distance(token_dict["x"]), cluster_num, k, valid)
    return labels, cluster_num


def merge_tokens(token_dict, idx_cluster, cluster_num, token_weight=None):
    x = token_dict["x"]
    weight = x.new_ones(*x.shape[:2], 1) if token_weight is None else token_weight
    merged, share = weighted_sums(x, idx_cluster, cluster_num, weight)
    rows = torch.arange(len(x))[:, None]
    return {
        "x": merged,
        "token_num": cluster_num,
        "map_size": token_dict["map_size"],
        "init_grid_size": token_dict["init_grid_size"],
        "idx_token": idx_cluster[rows, token_dict["idx_token"]],
        "agg_weight": token_dict["agg_weight"] * share[rows, token_dict["idx_token"]],
    }
