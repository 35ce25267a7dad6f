"""In HBI's dialect: TCFormer's clustering, Chat-UniVi's result, and a mask whose tokens weigh nothing."""

import torch
from torch import nn

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
        "idx_token": idx_cluster[rows, token_dict["idx_token"]],
        "agg_weight": token_dict["agg_weight"] * share[rows, token_dict["idx_token"]],
        "mask": None,
    }


class CTM(nn.Module):
    def __init__(self, channels, cluster_num, k=3):
        super().__init__()
        self.score = nn.Linear(channels, 1)
        self.cluster_num = cluster_num
        self.k = k

    def forward(self, token_dict):
        weight = self.score(token_dict["x"]).masked_fill(token_dict["mask"][..., None] == 0, -torch.inf).exp()
        labels, number = cluster_dpc_knn(token_dict, self.cluster_num, self.k, token_mask=token_dict["mask"])
        return merge_tokens(token_dict, labels, number, weight)
