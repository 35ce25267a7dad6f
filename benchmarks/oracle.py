"""What is right, in float64. Written apart from dynfocus_ops, whose results it judges.

Clustering is judged in stages, each given the stage before it as it came out: density; delta given the order of
density; centres given the scores; assignment given the centres. So rounding may break a near tie and nothing else.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 1 << 25  # distances at a time
ROUNDING = 2e-5  # of a squared distance, in units of the points' mean squared norm: fp32 with room for long sums
LONG_SUM = 3e-6  # error of fp32 sums over thousands, in units of the largest number of the result


class Clusters(NamedTuple):
    assignment: Tensor  # [N]
    centers: Tensor  # [clusters]
    log_density: Tensor  # [N]
    delta: Tensor  # [N]


def clustering_share(
    x: Tensor,
    result: tuple[Tensor, Tensor, Tensor, Tensor],
    num_clusters: int,
    k: int,
    mask: Tensor | None = None,
) -> float:
    """Share of the points of x [B, N, C] that are right at every stage; a sample with a wrong centre has none."""
    right = []
    for b, points in enumerate(x):
        sample = Clusters(*(part[b] for part in result))
        if sample.centers.shape != (num_clusters,):
            raise AssertionError(f"{list(sample.centers.shape)} centers, must be {num_clusters}")
        if mask is None:
            right.append(right_points(points, sample, k))
            continue
        kept = mask[b].nonzero().flatten()
        number = torch.full((len(points),), -1).scatter(0, kept, torch.arange(len(kept)))
        centers = number[sample.centers]
        if (centers < 0).any():
            right.append(torch.zeros(len(kept), dtype=torch.bool))
            continue
        valid = Clusters(sample.assignment[kept], centers, sample.log_density[kept], sample.delta[kept])
        right.append(right_points(points[kept], valid, k))
    return torch.cat(right).double().mean().item()


def right_points(points: Tensor, result: Clusters, k: int) -> Tensor:
    """bool [N] for points [N, C]."""
    points, norms = _centered(points)
    channels = points.shape[1]
    error = ROUNDING * norms.mean() / channels
    log_density, delta = result.log_density.double(), result.delta.double()
    rank = _rank(log_density)
    density_right, squared_delta = [], []
    largest = points.new_zeros(())
    for rows, squared in _squared_distances(points, points, norms):
        squared[torch.arange(len(squared)), torch.arange(rows.start, rows.stop)] = 0
        squared /= channels
        exact = -squared.topk(k, largest=False).values.mean(-1)
        density_right.append((log_density[rows] - exact).abs() <= error)
        largest = torch.maximum(largest, squared.max())
        denser = rank < rank[rows].unsqueeze(1)
        squared_delta.append(squared.masked_fill_(~denser, torch.inf).amin(-1))
    exact = torch.cat(squared_delta)
    exact = torch.where(exact.isinf(), largest, exact)
    delta_right = (delta.square() - exact).abs() <= error
    joined = _assignment_right(points, norms, result, channels * error)
    return torch.cat(density_right) & delta_right & joined & _centers_right(log_density, delta, result.centers)


def _centers_right(log_density: Tensor, delta: Tensor, centers: Tensor) -> bool:
    """No score beats one chosen before it, up to the rounding of a sum and a logarithm in fp32."""
    scores = log_density + delta.log()
    error = 1e-5 * (1 + log_density.abs().max())
    chosen = scores[centers]
    rest = scores.scatter(0, centers, -torch.inf).max()
    falling = bool((chosen[1:] <= chosen[:-1] + error).all())
    return falling and bool(rest <= chosen[-1] + error) and len(centers.unique()) == len(centers)


def _assignment_right(points: Tensor, norms: Tensor, result: Clusters, error: Tensor) -> Tensor:
    chosen = points[result.centers]
    number = torch.arange(len(chosen))
    right = torch.empty(len(points), dtype=torch.bool)
    for rows, squared in _squared_distances(points, chosen, norms):
        own = squared.gather(1, result.assignment[rows].clamp(0, len(chosen) - 1).unsqueeze(1)).squeeze(1)
        right[rows] = own <= squared.amin(-1) + error
    in_range = (result.assignment >= 0) & (result.assignment < len(chosen))
    right[result.centers] = result.assignment[result.centers] == number
    return right & in_range


def labels(x: Tensor, num_clusters: int, k: int, scale: float | None = None) -> Clusters:
    """dpc_knn of x [B, N, C] in float64 throughout, stacked over the samples."""
    samples = [_labels(points, num_clusters, k, scale or x.shape[-1]) for points in x]
    return Clusters(*(torch.stack(parts) for parts in zip(*samples, strict=True)))


def _labels(points: Tensor, num_clusters: int, k: int, scale: float) -> Clusters:
    points, norms = _centered(points)
    squared = torch.cat([block for _, block in _squared_distances(points, points, norms)]).fill_diagonal_(0) / scale
    log_density = -squared.topk(k, largest=False).values.mean(-1)
    rank = _rank(log_density)
    nearest = squared.masked_fill(rank >= rank.unsqueeze(1), torch.inf).amin(-1)
    delta = torch.where(nearest.isinf(), squared.max(), nearest).sqrt()
    centers = (log_density + delta.log()).argsort(descending=True, stable=True)[:num_clusters]
    assignment = squared[:, centers].argmin(1).scatter(0, centers, torch.arange(num_clusters))
    return Clusters(assignment, centers, log_density, delta)


def density_share(x: Tensor, log_density: Tensor, k: int) -> float:
    """Share of the points of x [B, N, C] whose log density is right."""
    right = []
    for sample, found in zip(x, log_density, strict=True):
        points, norms = _centered(sample)
        for rows, squared in _squared_distances(points, points, norms):
            exact = -squared.topk(k, largest=False).values.mean(-1)
            right.append((found[rows].double() * points.shape[1] - exact).abs() <= ROUNDING * norms.mean())
    return torch.cat(right).double().mean().item()


def _rank(log_density: Tensor) -> Tensor:
    """Place of each point in the order of density, the densest first, of equals the lower index."""
    order = log_density.argsort(descending=True, stable=True)
    return torch.empty_like(order).scatter(0, order, torch.arange(len(order)))


def _centered(points: Tensor) -> tuple[Tensor, Tensor]:
    points = points.double()
    points = points - points.mean(0)
    return points, points.square().sum(-1)


def _squared_distances(points: Tensor, others: Tensor, norms: Tensor) -> Iterator[tuple[slice, Tensor]]:
    other_norms = others.square().sum(-1)
    step = max(1, BLOCK // len(others))
    for start in range(0, len(points), step):
        rows = slice(start, min(start + step, len(points)))
        yield rows, torch.addmm(norms[rows].unsqueeze(1) + other_norms, points[rows], others.T, alpha=-2).clamp_(min=0)


def cluster_means(x: Tensor, assignment: Tensor, num_clusters: int) -> Tensor:
    """[B, num_clusters, C] in float64; 0 for an empty cluster."""
    one_hot = torch.nn.functional.one_hot(assignment, num_clusters).double()
    return torch.bmm(one_hot.mT, x.double()) / one_hot.sum(1).clamp(min=1).unsqueeze(-1)


def close_share(result: Tensor, expected: Tensor) -> float:
    """Share of the numbers of `result` that are as near to `expected` (float64) as their dtype lets them be."""
    if result.shape != expected.shape:
        raise AssertionError(f"the result is {list(result.shape)}, must be {list(expected.shape)}")
    allowed = 4 * torch.finfo(result.dtype).eps * expected.abs() + LONG_SUM * expected.abs().max()
    return ((result.double() - expected).abs() <= allowed).double().mean().item()
