"""In HoT's dialect: centres first, then labels; and with one frame that may not be a centre."""

import torch

from .formula import centers_and_labels, scaled_distance


def cluster_dpc_knn(x, cluster_num, k, token_mask=None):
    with torch.no_grad():
        valid = None if token_mask is None else token_mask > 0
        index_down, idx_cluster = centers_and_labels(scaled_distance(x), cluster_num, k, valid)
    return index_down, idx_cluster


def cluster_dpc_knn_center(x, cluster_num, k, center, token_mask=None):
    with torch.no_grad():
        valid = None if token_mask is None else token_mask > 0
        return centers_and_labels(scaled_distance(x), cluster_num, k, valid, without=center)


def prune(x, number, k):
    index, _ = cluster_dpc_knn(x, number, k)
    index = index.sort(-1).values
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def prune_but_center(x, number, k, center):
    index, _ = cluster_dpc_knn_center(x, number, k, center)
    index = torch.cat([torch.full_like(index[:, :1], center), index], 1).sort(-1).values
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
