"""Checks a clustering in stages, each against float64 given the stage before it as it came out.

Density; delta given the density order; centres given the scores; assignment given the centres. Each must be equal to
what float64 says, or as good within a bound on the rounding of the precision it was computed in: a sum of C squares,
added one after the other, is off by at most about C + 2 units of rounding of its value, since all terms are positive.
So a flip passes at a real boundary and nowhere else.
"""

import torch
from torch import Tensor


def check_dpc_knn(
    x: Tensor,
    result: tuple[Tensor, Tensor, Tensor, Tensor],
    num_clusters: int,
    k: int,
    mask: Tensor | None = None,
    distance_scale: float | None = None,
    noise: Tensor | None = None,
) -> None:
    """AssertionError naming the stage unless `result` is a right answer to dpc_knn(x [B, N, C], num_clusters, k)."""
    assignment, centers, log_density, delta = result
    expected = torch.float64 if x.dtype == torch.float64 else torch.float32
    assert log_density.dtype == delta.dtype == expected, "scores have the wrong dtype"
    assert assignment.dtype == centers.dtype == torch.int64, "indices are not int64"
    assert centers.shape == (len(x), num_clusters), "centers has the wrong shape"
    for b in range(len(x)):
        valid = torch.ones(x.shape[1], dtype=torch.bool) if mask is None else mask[b]
        check_masked(valid, assignment[b], centers[b], log_density[b], delta[b])
        rounding = (x.shape[2] + k + 16) * torch.finfo(expected).eps
        kept = valid.nonzero().flatten()
        # from a point's index to its place among the valid ones
        number = torch.full((x.shape[1],), -1).scatter(0, kept, torch.arange(len(kept)))
        points = x[b, kept].double()
        squared = (points.unsqueeze(1) - points).square().sum(-1) / (distance_scale or x.shape[2])
        check_density(squared, log_density[b, kept], k, None if noise is None else noise[b, kept], rounding)
        check_delta(squared, log_density[b, kept], delta[b, kept], rounding)
        check_centers(log_density[b, kept], delta[b, kept], number[centers[b]], rounding)
        check_assignment(points, squared, number[centers[b]], assignment[b, kept], rounding)


def check_masked(valid: Tensor, assignment: Tensor, centers: Tensor, log_density: Tensor, delta: Tensor) -> None:
    assert (assignment[~valid] == -1).all(), "mask: a masked-out point has an assignment"
    assert (log_density[~valid] == -torch.inf).all(), "mask: a masked-out point has a density"
    assert (delta[~valid] == 0).all(), "mask: a masked-out point has a delta"
    assert valid[centers].all(), "mask: a masked-out point is a centre"


def check_density(squared: Tensor, log_density: Tensor, k: int, noise: Tensor | None, rounding: float) -> None:
    exact = -squared.sort(-1).values[:, :k].mean(-1)
    error = rounding * exact.abs()
    if noise is not None:
        log_noise = noise.double().log()
        exact = torch.logaddexp(exact, log_noise)
        error = error + 4 * torch.finfo(log_density.dtype).eps * (log_noise.clamp(min=-1e4).abs() + exact.abs() + 1)
    assert ((log_density - exact).abs() <= error).all(), "density: not the mean of the k smallest squared distances"


def check_delta(squared: Tensor, log_density: Tensor, delta: Tensor, rounding: float) -> None:
    index = torch.arange(len(squared))
    order = sorted(index.tolist(), key=lambda i: (-log_density[i].item(), i))
    rank = torch.empty_like(index).scatter(0, torch.tensor(order), index)
    denser = rank < rank.unsqueeze(1)
    exact = squared.masked_fill(~denser, torch.inf).amin(-1).sqrt()
    exact[order[0]] = squared.max().sqrt()
    assert ((delta - exact).abs() <= rounding * exact).all(), "delta: not the distance to the nearest denser point"


def check_centers(log_density: Tensor, delta: Tensor, centers: Tensor, rounding: float) -> None:
    scores = log_density.double() + delta.double().log()
    error = rounding * (log_density.double().abs() + delta.double().log().nan_to_num(neginf=0).abs())
    chosen = centers.tolist()
    assert len(set(chosen)) == len(chosen), "centers: a centre comes twice"
    exact = sorted(range(len(scores)), key=lambda i: (-scores[i].item(), i))[: len(chosen)]
    for center, best in zip(chosen, exact, strict=True):
        as_good = (scores[best] - scores[center]).abs() <= error[center] + error[best]
        assert scores[center] == scores[best] or as_good, "centers: not the highest scores, in order"
    for place, center in enumerate(chosen):
        same = (log_density == log_density[center]) & (delta == delta[center])
        earlier = same.nonzero().flatten()
        earlier = set(earlier[earlier < center].tolist())
        assert earlier <= set(chosen[:place]), "centers: of equal scores, the higher index came first"


def check_assignment(points: Tensor, squared: Tensor, centers: Tensor, assignment: Tensor, rounding: float) -> None:
    number = torch.arange(len(centers))
    assert (assignment[centers] == number).all(), "assignment: a centre does not join itself"
    assert ((assignment >= 0) & (assignment < len(centers))).all(), "assignment: out of range"
    others = torch.ones(len(points), dtype=torch.bool)
    others[centers] = False
    to_centers = squared[others][:, centers]
    joined = to_centers.gather(1, assignment[others].unsqueeze(1)).squeeze(1)
    assert (joined <= to_centers.amin(1) * (1 + 2 * rounding)).all(), "assignment: not the nearest centre"
    same = (points[centers].unsqueeze(1) == points[centers]).all(-1)  # of centres that are duplicates, only the first
    first = same.int().argmax(1)
    assert (first[assignment[others]] == assignment[others]).all(), "assignment: of equal centres, the later was joined"
