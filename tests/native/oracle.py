"""Clustering, cluster means and attention pooling in float64, written out: independent of dynfocus_ops."""

import torch
from torch import Tensor


def dpc_knn(
    x: Tensor, num_clusters: int, k: int, scale: float, noise: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(assignment, centers, log_density, delta) of x [N, C], with neither mask nor batch."""
    x = x.double()
    n = len(x)
    squared = (x[:, None] - x[None]).square().sum(-1) / scale
    log_density = -squared.sort(1).values[:, :k].mean(1)
    if noise is not None:
        log_density = (log_density.exp() + noise.double()).log()
    delta = torch.empty(n, dtype=torch.float64)
    for i in range(n):
        denser = [
            j for j in range(n) if log_density[j] > log_density[i] or (log_density[j] == log_density[i] and j < i)
        ]
        delta[i] = squared[i, denser].min().sqrt() if denser else squared.max().sqrt()
    score = log_density + delta.log()
    centers = torch.tensor(sorted(range(n), key=lambda i: (-score[i].item(), i))[:num_clusters])
    assignment = squared[:, centers].argmin(1)
    assignment[centers] = torch.arange(num_clusters)
    return assignment, centers, log_density, delta


def cluster_mean(x: Tensor, assignment: Tensor, num_clusters: int, weight: Tensor | None = None) -> Tensor:
    """Weighted means [num_clusters, C] of x [N, C]; autograd through it gives the oracle of the gradient."""
    weight = torch.ones(len(x), dtype=x.dtype) if weight is None else weight
    means = []
    for m in range(num_clusters):
        own = assignment == m
        total = weight[own].sum()
        means.append((weight[own, None] * x[own]).sum(0) / total if total != 0 else torch.zeros_like(x[0]))
    return torch.stack(means)


def rods_pool(tokens: Tensor, queries: Tensor, frame_query: Tensor, mask: Tensor, scale: float) -> Tensor:
    """[T, 2, C] frame by frame; autograd through it gives the oracle of the gradient."""
    results = []
    for frame, row in zip(tokens, frame_query.tolist(), strict=True):
        attention = (scale * queries[row][mask[row]] @ frame.T).softmax(-1)
        results.append(torch.stack(((attention @ frame).mean(0), frame.mean(0))))
    return torch.stack(results)
