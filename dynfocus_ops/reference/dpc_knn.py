"""Density-peaks clustering with k nearest neighbours, sample by sample: batch mates cannot touch each other."""

from collections.abc import Iterator

import torch
from torch import Tensor

from dynfocus_ops.reference.precision import upcast

BLOCK = 1 << 19  # numbers in a block of differences x_i - x_j: a few rows at a time, never N x N
BLOCK_ON_DEVICE = 1 << 26  # not on the CPU, where each block costs a few launches: 256 MiB of float32


def dpc_knn(
    x: Tensor, num_clusters: int, k: int, mask: Tensor | None, distance_scale: float, noise: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(assignment, centers, log_density, delta) of x [B, N, C]."""
    log_density = knn_log_density(x, k, mask, distance_scale, noise)
    delta, _ = density_peak_distance(x, log_density, mask, distance_scale)
    centers = highest_scores(log_density, delta, num_clusters, mask)
    return nearest_center(x, centers, mask), centers, log_density, delta


def knn_log_density(x: Tensor, k: int, mask: Tensor | None, distance_scale: float, noise: Tensor | None) -> Tensor:
    """log rho_i = -mean of the k smallest d2(i, j), j = i among them."""
    samples = []
    for points, valid in zip(upcast(x), valid_points(x, mask), strict=True):
        nearest = [
            squared.masked_fill(~valid, torch.inf).topk(k, largest=False).values
            for squared in squared_distances(points, points)
        ]
        samples.append(-torch.cat(nearest).mean(-1) / distance_scale)
    log_density = torch.stack(samples)
    if noise is not None:
        log_density = torch.logaddexp(log_density, noise.to(log_density.dtype).log())
    return log_density if mask is None else log_density.masked_fill(~mask, -torch.inf)


def density_peak_distance(
    x: Tensor, log_density: Tensor, mask: Tensor | None, distance_scale: float
) -> tuple[Tensor, Tensor]:
    """(delta, parent): the nearest denser point and its distance; for the densest, itself and the largest distance."""
    deltas, parents = [], []
    index = torch.arange(x.shape[1], device=x.device)
    for points, density, valid in zip(upcast(x), log_density, valid_points(x, mask), strict=True):
        rank = torch.empty_like(index)
        rank[density.argsort(descending=True, stable=True)] = index  # the lower index is the denser of equals
        nearest, nearest_index, farthest = [], [], []
        for rows, squared in zip(rank.split(rows_per_block(points)), squared_distances(points, points), strict=True):
            denser = (rank < rows.unsqueeze(1)) & valid
            smallest = squared.masked_fill(~denser, torch.inf).min(-1)
            nearest.append(smallest.values)
            nearest_index.append(torch.where(denser.any(-1), smallest.indices, -1))
            farthest.append(squared.masked_fill(~valid, 0).amax(-1))
        parent = torch.cat(nearest_index)
        largest = torch.cat(farthest).masked_fill(~valid, 0).amax()
        squared_delta = torch.where(parent < 0, largest, torch.cat(nearest))
        deltas.append((squared_delta / distance_scale).sqrt().masked_fill(~valid, 0))
        parents.append(torch.where(parent < 0, index, parent).masked_fill(~valid, -1))
    return torch.stack(deltas), torch.stack(parents)


def highest_scores(log_density: Tensor, delta: Tensor, num_clusters: int, mask: Tensor | None) -> Tensor:
    """The num_clusters highest log rho + log delta, the lower index first among equals, masked-out points last."""
    order = (log_density + delta.log()).argsort(dim=-1, descending=True, stable=True)
    if mask is not None:  # a duplicate has delta 0, so score -inf: the score alone would not put it before the masked
        masked_last = (~mask).gather(1, order).to(torch.uint8).argsort(dim=-1, stable=True)
        order = order.gather(1, masked_last)
    return order[:, :num_clusters].contiguous()


def nearest_center(x: Tensor, centers: Tensor, mask: Tensor | None) -> Tensor:
    """Every point joins its nearest centre (of equals: the earlier); a centre itself, also where it has a duplicate."""
    samples = []
    for points, chosen in zip(upcast(x), centers, strict=True):
        nearest = torch.cat([squared.argmin(-1) for squared in squared_distances(points, points[chosen])])
        samples.append(nearest.scatter(0, chosen, torch.arange(len(chosen), device=x.device)))
    assignment = torch.stack(samples)
    return assignment if mask is None else assignment.masked_fill(~mask, -1)


def valid_points(x: Tensor, mask: Tensor | None) -> Tensor:
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask


def squared_distances(points: Tensor, others: Tensor) -> Iterator[Tensor]:
    """Blocks of rows of |points_i - others_j|^2, by differences: no cancellation, exactly 0 from a point to itself."""
    for rows in points.split(rows_per_block(others)):
        yield (rows.unsqueeze(1) - others).square_().sum(-1)


def rows_per_block(others: Tensor) -> int:
    block = BLOCK if others.device.type == "cpu" else BLOCK_ON_DEVICE
    return max(1, block // max(1, others.numel()))
