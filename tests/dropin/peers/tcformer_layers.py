import torch
from torch import nn

from .tcformer import cluster_dpc_knn, merge_tokens


class Block(nn.Module):
    """Tokens to fewer tokens, weighted by a learned score."""

    def __init__(self, channels, cluster_num, k=5):
        super().__init__()
        self.conv = nn.Linear(channels, channels)
        self.score = nn.Linear(channels, 1)
        self.cluster_num = cluster_num
        self.k = k

    def forward(self, tokens):
        tokens = {**tokens, "x": self.conv(tokens["x"])}
        weight = self.score(tokens["x"]).exp()
        labels, number = cluster_dpc_knn(tokens, self.cluster_num, self.k)
        return merge_tokens(tokens, labels, number, weight)


def first_tokens(x):
    n = x.shape[1]
    return {
        "x": x,
        "token_num": n,
        "map_size": [n, 1],
        "init_grid_size": [n, 1],
        "idx_token": torch.arange(n).expand(len(x), -1),
        "agg_weight": x.new_ones(len(x), n, 1),
    }
