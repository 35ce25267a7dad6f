"""What the copies share: cluster labels and centres, chosen as they choose them.

The copies rank points by density rho = exp(-mean of the k smallest d^2) + 1e-6 u, u uniform, with
d(i, j) = |x_i - x_j| / sqrt(C); a point is denser only if rho is strictly larger; centres have the highest
rho_i delta_i, delta_i the distance to the nearest denser point. `dpc_knn` ranks log(rho) and takes 1e-6 u as its
noise: without exact ties the same, in one op and without the N x N matrix. `cluster_matrix` is the copies' own
formula, for what the op refuses (fewer valid points than neighbours or clusters), what it has no fast kernel for, and
exact ties.
"""

import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynfocus_ops.backends import select_backend
from dynfocus_ops.checks import check_finite, check_int, check_points, checks_values
from dynfocus_ops.ops.dpc_knn import dpc_knn
from dynfocus_ops.ops.nearest_center import nearest_center

NOISE = 1e-6


class Clusters(NamedTuple):
    labels: Tensor  # int64 [B, N], in the order of the centres
    centers: Tensor  # int64 [B, num_clusters], in descending score


def own_dtype(x: Tensor) -> torch.dtype:
    """What cdist(x, x) returns, and so the density's dtype, where a copy does not ask for float32."""
    return torch.promote_types(x.dtype, torch.float32) if torch.is_autocast_enabled(x.device.type) else x.dtype


def at_most_float32(x: Tensor) -> Tensor:
    """x for the copies that compute in float32; half precision may stay, since its products are exact there."""
    return x.float() if x.dtype == torch.float64 else x


def draw_noise(x: Tensor, dtype: torch.dtype, wanted: bool) -> Tensor | None:
    """One draw of [B, N], as each copy takes from torch's generator per call; at least in float32 from then on."""
    if not wanted:
        return None
    noise = torch.rand(x.shape[:2], dtype=dtype, device=x.device)
    return (noise if noise.dtype == torch.float64 else noise.float()).mul_(NOISE)


def cluster(
    x: Tensor,
    num_clusters: int,
    k: int,
    noise: Tensor | None,
    mask: Tensor | None = None,
    *,
    empty_to_nearest: bool = False,
    strict: bool = False,
) -> Clusters:
    """Clusters of x [B, N, C].

    Args:
        noise: added to the density [B, N].
        mask: bool [B, N], False for empty tokens: no one's neighbour, and with density 0.
        empty_to_nearest: whether empty tokens join their nearest centre, else cluster 0.
        strict: whether exact ties of density count, as they do without noise.
    """
    num_clusters, k = operator.index(num_clusters), operator.index(k)
    if not runs_natively(x) or too_few(mask, max(num_clusters, k)):
        return cluster_matrix(distances(x), num_clusters, k, noise, mask, empty_to_nearest=empty_to_nearest)
    labels, centers, log_density, _ = dpc_knn(x, num_clusters, k, mask=mask, noise=noise)
    if strict and bool((log_density.exp().sort(-1).values.diff() == 0).any()):
        return cluster_matrix(distances(x), num_clusters, k, noise, mask, empty_to_nearest=empty_to_nearest)
    if mask is not None:
        labels = nearest_center(x, centers) if empty_to_nearest else labels.clamp_(min=0)
    return Clusters(labels, centers)


def cluster_without(x: Tensor, num_clusters: int, k: int, noise: Tensor | None, excluded: Any) -> Clusters:
    """`cluster` where the points x[:, excluded] cannot be centres."""
    num_clusters, k = operator.index(num_clusters), operator.index(k)
    if not runs_natively(x):
        return cluster_matrix(distances(x), num_clusters, k, noise, excluded=excluded)
    check_int("num_clusters", num_clusters, 1, x.shape[1], "the number of points")
    _, _, log_density, delta = dpc_knn(x, 1, k, noise=noise)
    centers = highest(log_density.exp() * delta, num_clusters, excluded)
    return Clusters(nearest_center(x, centers), centers)


def cluster_matrix(
    distance: Tensor,
    num_clusters: int,
    k: int,
    noise: Tensor | None,
    mask: Tensor | None = None,
    *,
    excluded: Any = None,
    empty_to_nearest: bool = False,
) -> Clusters:
    """`cluster` from distances [B, N, N], in their dtype."""
    num_clusters, k = operator.index(num_clusters), operator.index(k)
    check_int("num_clusters", num_clusters, 1, distance.shape[1], "the number of points")
    check_int("k", k, 1, distance.shape[1], "the number of points")
    if mask is not None:  # columns only; the maximum is the whole batch's
        distance = torch.where(mask.unsqueeze(1), distance, distance.max() + 1)
    density = distance.topk(k, largest=False).values.square_().mean(-1).neg_().exp_()
    if noise is not None:
        density += noise
    if mask is not None:
        density *= mask
    denser = density.unsqueeze(1) > density.unsqueeze(2)
    farthest = distance.flatten(1).amax(-1)[:, None, None]
    centers = highest(torch.where(denser, distance, farthest).amin(-1).mul_(density), num_clusters, excluded)
    if empty_to_nearest:
        to_centers = distance.gather(2, centers.unsqueeze(1).expand(-1, distance.shape[1], -1)).mT
    else:  # the columns of empty tokens tie, and go to cluster 0
        to_centers = distance.gather(1, centers.unsqueeze(2).expand(-1, -1, distance.shape[2]))
    number = torch.arange(num_clusters, device=centers.device).expand_as(centers)
    return Clusters(to_centers.argmin(1).scatter_(1, centers, number), centers)


def distances(x: Tensor) -> Tensor:
    """|x_i - x_j| / sqrt(C) [B, N, N], at least in float32."""
    check_points(x, "[B, N, C]")
    check_finite("x", x, None)
    points = x if x.dtype == torch.float64 else x.float()
    return torch.cdist(points, points).div_(x.shape[-1] ** 0.5)


def highest(score: Tensor, num_clusters: int, excluded: Any = None) -> Tensor:
    """Indices [B, num_clusters] of the highest scores: torch.topk's choice among equals, which is the copies' own."""
    if excluded is not None:
        score[:, excluded] = -torch.inf
    return score.topk(num_clusters).indices


def runs_natively(x: Tensor) -> bool:
    return select_backend("dpc_knn", "auto", x) != "reference"


def too_few(mask: Tensor | None, wanted: int) -> bool:
    """Whether a sample has fewer valid points than wanted; on a device, where to look would wait for it, always."""
    return mask is not None and (not checks_values(mask) or int(mask.sum(-1).min()) < wanted)
