"""In PruneVid's dialect: a tensor in, labels and their number out, float32 inside."""

import torch
from torch.nn.functional import one_hot

from .formula import centers_and_labels, scaled_distance


def cluster_dpc_knn(x, cluster_num, k=5, token_mask=None):
    with torch.no_grad():
        valid = None if token_mask is None else token_mask > 0
        _, labels = centers_and_labels(scaled_distance(x.float()), cluster_num, k, valid)
    return labels, cluster_num


def merge_frame(x, ratio=0.5, k=7):
    number = int(x.shape[1] * ratio)
    labels, number = cluster_dpc_knn(x, number, k)
    members = one_hot(labels, number).to(x.dtype)
    return members.mT @ x / members.sum(1).clamp(min=1).unsqueeze(-1)
