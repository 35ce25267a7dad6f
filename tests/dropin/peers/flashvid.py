"""In FlashVID's dialect: labels and centres, rand_like's noise, empty tokens to their nearest centre."""

import torch
from torch.nn.functional import one_hot

from .formula import centers_and_labels, scaled_distance


@torch.no_grad()
def dpc_knn(features, num_clusters, k=7, valid_token_mask=None):
    centers, labels = centers_and_labels(
        scaled_distance(features.float()),
        num_clusters,
        k,
        valid_token_mask,
        draw=lambda shape, dtype: torch.rand_like(torch.empty(shape, dtype=dtype)),
        by_column=True,
    )
    return labels, centers


def compress(frames, ratio):
    """Frames of ragged lengths, one call each."""
    tokens = []
    for frame in frames:
        number = max(1, round(len(frame) * ratio))
        labels, _ = dpc_knn(frame[None], number, min(number, 7))
        members = one_hot(labels[0], number).to(frame.dtype)
        tokens.append(members.T @ frame / members.sum(0)[:, None])
    return torch.cat(tokens)
