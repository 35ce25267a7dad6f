"""In Chat-UniVi's dialect: distances in float32; the result has a mask; the module of merges has no parameters."""

import math

import torch
from torch import nn

from . import tcformer
from .formula import centers_and_labels, scaled_distance


def cluster_dpc_knn(token_dict, cluster_num, k=5, token_mask=None):
    with torch.no_grad():
        valid = None if token_mask is None else token_mask > 0
        _, labels = centers_and_labels(scaled_distance(token_dict["x"].float()), cluster_num, k, valid)
    return labels, cluster_num


def merge_tokens(token_dict, idx_cluster, cluster_num, token_weight=None):
    sizes = dict.fromkeys(("map_size", "init_grid_size"))
    merged = tcformer.merge_tokens({**token_dict, **sizes}, idx_cluster, cluster_num, token_weight)
    return {key: merged[key] for key in ("x", "token_num", "idx_token", "agg_weight")} | {"mask": None}


class CTM(nn.Module):
    def __init__(self, sample_ratio, k=5):
        super().__init__()
        self.sample_ratio = sample_ratio
        self.k = k

    def forward(self, token_dict):
        wanted = self.sample_ratio if self.sample_ratio > 1 else token_dict["x"].shape[1] * self.sample_ratio
        number = max(math.ceil(wanted), 1)
        k = min(3, max(number // 2, 1)) if self.k > number else self.k
        labels, number = cluster_dpc_knn(token_dict, number, k, token_mask=token_dict["mask"])
        return merge_tokens(token_dict, labels, number, torch.ones_like(token_dict["x"][..., :1]))
