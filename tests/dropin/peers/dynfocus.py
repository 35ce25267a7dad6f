"""In the dialect of DynFocus' released code: methods of a module."""

import torch
from torch import nn

from .formula import centers_and_labels, scaled_distance, weighted_sums


class Merger(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.project = nn.Linear(channels, channels)

    def distance(self, x):
        return scaled_distance(x)

    def cluster_dpc_knn(self, vis_embed, cluster_num, k, token_mask=None):
        with torch.no_grad():
            valid = None if token_mask is None else token_mask > 0
            _, labels = centers_and_labels(self.distance(vis_embed), cluster_num, k, valid)
        return labels, cluster_num

    def merge_tokens(self, vis_embed, idx_cluster, cluster_num, token_weight=None):
        weight = vis_embed.new_ones(*vis_embed.shape[:2], 1) if token_weight is None else token_weight
        return weighted_sums(vis_embed, idx_cluster, cluster_num, weight)[0]

    def forward(self, x):
        for number, k in ((16, 8), (6, 3)):
            x = self.project(x)
            labels, number = self.cluster_dpc_knn(x, number, k)
            x = self.merge_tokens(x, labels, number)
        return x
