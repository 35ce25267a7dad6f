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
from torch.nn.functional import pad

from dynfocus_ops.backends import select_backend
from dynfocus_ops.checks import check_int, check_points, checks_values
from dynfocus_ops.ops.density_peak_distance import density_peak_distance
from dynfocus_ops.ops.dpc_knn import dpc_knn_eagerly
from dynfocus_ops.ops.nearest_center import nearest_center

NOISE = 1e-6
DIRECT = 25  # up to so many points cdist takes differences


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
) -> Clusters:
    """Clusters of x [B, N, C].

    Args:
        noise: added to the density [B, N].
        mask: bool [B, N], False for empty tokens: no one's neighbour, and with density 0.
        empty_to_nearest: whether empty tokens join their nearest centre, else cluster 0.
    """
    num_clusters, k = operator.index(num_clusters), operator.index(k)
    backend = backend_of(x, num_clusters, k)
    if backend == "reference":
        return cluster_matrix(distances(x), num_clusters, k, noise, mask, empty_to_nearest=empty_to_nearest)
    if mask is None:
        labels, centers, _, _ = dpc_knn_eagerly(x, num_clusters, k, noise=noise, backend=backend)
        return Clusters(labels, centers)
    few = mask.sum(-1) < max(num_clusters, k)
    if bool(few.any()):
        return cluster_with_few(x, num_clusters, k, noise, mask, few, empty_to_nearest)
    labels, centers, _, _ = dpc_knn_eagerly(x, num_clusters, k, mask=mask, noise=noise, backend=backend)
    return Clusters(nearest_center(x, centers) if empty_to_nearest else labels.clamp_(min=0), centers)


def cluster_with_few(
    x: Tensor, num_clusters: int, k: int, noise: Tensor | None, mask: Tensor, few: Tensor, empty_to_nearest: bool
) -> Clusters:
    """`cluster` where the samples that `few` [B] marks have fewer valid points than clusters or neighbours."""
    fill = None
    if bool((mask.sum(-1) < k).any()):  # then empty tokens are among the neighbours, at a distance of the whole batch
        fill = density_peak_distance(x, torch.zeros(mask.shape, device=x.device))[0].max() + 1
    rows = few.nonzero().flatten()
    by_matrix = cluster_matrix(
        distances(x[rows]),
        num_clusters,
        k,
        None if noise is None else noise[rows],
        mask[rows],
        fill=fill,
        empty_to_nearest=empty_to_nearest,
    )
    if len(rows) == len(x):
        return by_matrix
    labels, centers = cluster(x, num_clusters, k, noise, mask | few.unsqueeze(1), empty_to_nearest=empty_to_nearest)
    labels[rows], centers[rows] = by_matrix
    return Clusters(labels, centers)


def cluster_without(x: Tensor, num_clusters: int, k: int, noise: Tensor | None, excluded: Any) -> Clusters:
    """`cluster` where the points x[:, excluded] cannot be centres."""
    num_clusters, k = operator.index(num_clusters), operator.index(k)
    backend = backend_of(x, num_clusters, k)
    if backend == "reference":
        return cluster_matrix(distances(x), num_clusters, k, noise, excluded=excluded)
    check_int("num_clusters", num_clusters, 1, x.shape[1], "the number of points")
    _, _, log_density, delta = dpc_knn_eagerly(x, 1, k, noise=noise, backend=backend)
    centers = highest(log_density.exp() * delta, num_clusters, excluded)
    return Clusters(nearest_center(x, centers), centers)


def cluster_strictly(x: Tensor, num_clusters: int, k: int) -> Clusters:
    """`cluster` of one sample without noise, where exact ties of density count: neither point is the other's denser."""
    num_clusters, k = operator.index(num_clusters), operator.index(k)
    backend = backend_of(x, num_clusters, k)
    if backend == "reference":
        return cluster_matrix(distances(x), num_clusters, k, None)
    check_int("num_clusters", num_clusters, 1, x.shape[1], "the number of points")
    labels, centers, log_density, delta = dpc_knn_eagerly(x, num_clusters, k, backend=backend)
    density = log_density[0].exp()
    order = density.argsort(descending=True)
    repeats = density[order].diff() == 0
    tied = order[pad(repeats, (1, 0)) | pad(repeats, (0, 1))]
    tied = tied[density[tied] > 0]  # a vanishing density makes a vanishing score, whatever its delta
    if len(tied) > 0:
        denser = density > density[tied].unsqueeze(1)
        points = x[0].float()
        distance = torch.cdist(points[tied], points).div_(x.shape[2] ** 0.5)
        nearest = torch.where(denser, distance, delta.max()).amin(-1)
        delta = delta.index_copy(1, tied, nearest.unsqueeze(0))
    if len(tied) > 0 or bool(density[order[-1]] == 0):
        centers = highest(density * delta, num_clusters)
        labels = nearest_center(x, centers)
    return Clusters(labels, centers)


def cluster_matrix(
    distance: Tensor,
    num_clusters: int,
    k: int,
    noise: Tensor | None,
    mask: Tensor | None = None,
    *,
    fill: Tensor | None = None,
    excluded: Any = None,
    empty_to_nearest: bool = False,
) -> Clusters:
    """`cluster` from distances [B, N, N], in their dtype; `fill` is the distance to an empty token, by default the
    largest of all plus 1."""
    if mask is not None:  # columns only
        distance = torch.where(mask.unsqueeze(1), distance, distance.max() + 1 if fill is None else fill)
    centers = matrix_centers(distance, num_clusters, k, noise, mask, excluded)
    if empty_to_nearest:
        to_centers = distance.gather(2, centers.unsqueeze(1).expand(-1, distance.shape[1], -1)).mT
    else:  # the columns of empty tokens tie, and go to cluster 0
        to_centers = distance.gather(1, centers.unsqueeze(2).expand(-1, -1, distance.shape[2]))
    number = torch.arange(centers.shape[1], device=centers.device).expand_as(centers)
    return Clusters(to_centers.argmin(1).scatter_(1, centers, number), centers)


def matrix_centers(
    distance: Tensor, num_clusters: int, k: int, noise: Tensor | None, mask: Tensor | None = None, excluded: Any = None
) -> Tensor:
    num_clusters, k = operator.index(num_clusters), operator.index(k)
    check_int("num_clusters", num_clusters, 1, distance.shape[1], "the number of points")
    check_int("k", k, 1, distance.shape[1], "the number of points")
    farthest = distance.amax((1, 2), keepdim=True)
    if checks_values(farthest) and not float(farthest.max()) < torch.inf:
        raise ValueError("x has NaN or infinity, or values too large for finite distances, it must be finite")
    density = distance.topk(k, largest=False).values.square_().mean(-1).neg_().exp_()
    if noise is not None:
        density += noise
    if mask is not None:
        density *= mask
    denser = density.unsqueeze(1) > density.unsqueeze(2)
    return highest(torch.where(denser, distance, farthest).amin(-1).mul_(density), num_clusters, excluded)


def distances(x: Tensor) -> Tensor:
    """|x_i - x_j| / sqrt(C) [B, N, N], at least in float32, bit for bit by cdist's way, on whose rounding some choices
    rest: of few points by differences, of more as [-2 x, |x|^2, 1] [x, 1, |x|^2]^T, made here with fewer copies."""
    check_points(x, "[B, N, C]")
    scale = x.shape[-1] ** 0.5
    dtype = torch.promote_types(x.dtype, torch.float32)
    if x.shape[1] <= DIRECT:
        points = x.to(dtype)
        return torch.cdist(points, points).div_(scale)
    left, right = x.new_empty(2, *x.shape[:2], x.shape[2] + 2, dtype=dtype)
    points = right[..., :-2].copy_(x)
    torch.mul(points, -2, out=left[..., :-2])
    right[..., -1] = left[..., -2] = points.square().sum(-1)
    right[..., -2] = left[..., -1] = 1
    with torch.autocast(x.device.type, enabled=False):  # which spares cdist, but not a product
        return torch.bmm(left, right.mT).clamp_min_(0).sqrt_().div_(scale)


def highest(score: Tensor, num_clusters: int, excluded: Any = None) -> Tensor:
    """Indices [B, num_clusters] of the highest scores: torch.topk's choice among equals, which is the copies' own."""
    if excluded is not None:
        score[:, excluded] = -torch.inf
    return score.topk(num_clusters).indices


def backend_of(x: Tensor, num_clusters: int, k: int) -> str:
    """What runs `dpc_knn` of x; "reference" where nothing is faster than the copies' own formula."""
    return select_backend("dpc_knn", "auto", x, num_clusters=num_clusters, k=k)
