"""What is right, in float64. Written apart from dynfocus_ops, whose results it judges.

Clustering is judged in stages, each given the stage before it as it came out: density; delta given the order of
density; centres given the scores; assignment given the centres. So rounding may break a near tie and nothing else.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 1 << 25  # distances at a time
KEPT = 1 << 27  # distances of a case that are kept from one answer to the next
ROUNDING = 2e-5  # of a squared distance, in units of the points' mean squared norm: fp32 with room for long sums
LONG_SUM = 3e-6  # error of fp32 sums over thousands, in units of the largest number of the result


class Clusters(NamedTuple):
    assignment: Tensor  # [N]
    centers: Tensor  # [clusters]
    log_density: Tensor  # [N]
    delta: Tensor  # [N]


class Clustering:
    """Judges answers to dpc_knn(x [B, N, C], num_clusters, k, mask), each (assignment, centers, log_density, delta)."""

    def __init__(self, x: Tensor, num_clusters: int, k: int, mask: Tensor | None = None):
        self.num_clusters = num_clusters
        valid = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        self.kept = [row.nonzero().flatten() for row in valid]
        keep = x.shape[0] * x.shape[1] ** 2 <= KEPT
        self.samples = [Sample(points[kept], k, keep) for points, kept in zip(x, self.kept, strict=True)]

    def share(self, result: tuple[Tensor, Tensor, Tensor, Tensor]) -> float:
        """Share of the valid points that are right at every stage; a sample with a wrong centre has none."""
        right = []
        for b, (sample, kept) in enumerate(zip(self.samples, self.kept, strict=True)):
            assignment, centers, log_density, delta = (part[b] for part in result)
            if centers.shape != (self.num_clusters,):
                raise AssertionError(f"centers of a sample are {list(centers.shape)}, must be [{self.num_clusters}]")
            number = torch.full(assignment.shape, -1).scatter(0, kept, torch.arange(len(kept)))  # among the valid
            if (number[centers] < 0).any():
                right.append(torch.zeros(len(kept), dtype=torch.bool))
            else:
                found = Clusters(assignment[kept], number[centers], log_density[kept], delta[kept])
                right.append(sample.right_points(found))
        return torch.cat(right).double().mean().item()

    def density_share(self, log_density: Tensor) -> float:
        """Share of the points whose log density [B, N] is right."""
        parts = zip(self.samples, self.kept, log_density.double(), strict=True)
        right = [(found[kept] - sample.log_density).abs() <= sample.error for sample, kept, found in parts]
        return torch.cat(right).double().mean().item()


class Sample:
    """Points [N, C], their exact log density, and their squared distances over C, by blocks of rows."""

    def __init__(self, points: Tensor, k: int, keep: bool):
        self.points, self.norms = _centered(points)
        self.channels = points.shape[1]
        self.error = ROUNDING * self.norms.mean() / self.channels
        density = []
        self.blocks = list(self._squared()) if keep else None
        for _, squared in self.blocks or self._squared():
            density.append(-squared.topk(k, largest=False).values.mean(-1))
        self.log_density = torch.cat(density)

    def _squared(self) -> Iterator[tuple[slice, Tensor]]:
        for rows, squared in _squared_distances(self.points, self.points, self.norms):
            squared[torch.arange(len(squared)), torch.arange(rows.start, rows.stop)] = 0
            yield rows, squared.div_(self.channels)

    def right_points(self, result: Clusters) -> Tensor:
        """bool [N]."""
        log_density, delta = result.log_density.double(), result.delta.double()
        rank = _rank(log_density)
        squared_delta = []
        largest = self.norms.new_zeros(())
        for rows, squared in self.blocks or self._squared():
            largest = torch.maximum(largest, squared.max())
            squared_delta.append(torch.where(rank < rank[rows].unsqueeze(1), squared, torch.inf).amin(-1))
        exact = torch.cat(squared_delta)
        exact = torch.where(exact.isinf(), largest, exact)
        right = (log_density - self.log_density).abs() <= self.error
        right &= (delta.square() - exact).abs() <= self.error
        right &= _assignment_right(self.points, self.norms, result, self.channels * self.error)
        return right & _centers_right(log_density, delta, result.centers)


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
