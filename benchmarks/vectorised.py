"""The best batched torch we know for each op, eager and through torch.compile: what one would write with care.

Neither gathers what it can broadcast, nor makes a one-hot where a scatter will do, and distances come of one product.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from dynfocus_ops.ops.dpc_knn import DPCKNN


def compiled(function: Callable[..., Any], depth: str) -> Callable[..., Any]:
    """As torch.compile makes it for these very shapes; the smoke run only traces it."""
    backend = "eager" if depth == "smoke" else "inductor"
    result: Callable[..., Any] = torch.compile(function, dynamic=False, fullgraph=True, backend=backend)
    return result


def smallest_by_topk(values: Tensor, k: int) -> Tensor:
    """Sum of the k smallest of each row."""
    return values.topk(k, largest=False, sorted=False).values.sum(-1)


def smallest_by_minima(values: Tensor, k: int) -> Tensor:
    """The same where no two are equal, by k minima, which a compiler vectorises; a top-k it does not."""
    last = values.amin(-1, keepdim=True)
    total = last
    for _ in range(k - 1):
        last = values.masked_fill(values <= last, torch.inf).amin(-1, keepdim=True)
        total = total + last
    return total.squeeze(-1)


SMALLEST = {"top-k": smallest_by_topk, "minima": smallest_by_minima}


def with_either_smallest(function: Callable[..., Any], depth: str) -> dict[str, Callable[..., Any]]:
    """A function of `smallest`, eager and compiled; compiled, either way of finding the smallest may be the faster."""
    ways = {f"compiled, {name}": compiled(partial(function, smallest=way), depth) for name, way in SMALLEST.items()}
    return {"vectorised": function, **ways}


def knn_log_density(x: Tensor, k: int, smallest: Callable[[Tensor, int], Tensor] = smallest_by_topk) -> Tensor:
    points, norms, offsets = _products(x, None)
    return -(smallest(offsets, k) / k + norms) / points.shape[-1]


def dpc_knn(
    x: Tensor,
    num_clusters: int,
    k: int,
    mask: Tensor | None = None,
    smallest: Callable[[Tensor, int], Tensor] = smallest_by_topk,
    clusters_of: Tensor | None = None,
) -> DPCKNN:
    """With o_ij = |x_j|^2 - 2 x_i.x_j, d^2 = |x_i|^2 + o: rows are ranked by o, one pass over the matrix each.

    clusters_of: [B], how many of its num_clusters a sample uses; all unless given.
    """
    points, norms, offsets = _products(x, mask)
    channels = points.shape[-1]
    log_density = -(smallest(offsets, k) / k + norms) / channels
    if mask is not None:
        log_density = log_density.masked_fill(~mask, -torch.inf)
    denser = log_density[:, None, :] > log_density[:, :, None]
    nearest = torch.where(denser, offsets, torch.inf).amin(-1) + norms
    seen = offsets if mask is None else offsets.masked_fill(~(mask[:, None, :] & mask[:, :, None]), -torch.inf)
    farthest = (seen.amax(-1) + norms).amax(-1, keepdim=True)
    delta = (torch.where(nearest.isinf(), farthest, nearest).clamp(min=0) / channels).sqrt()
    centers = (log_density + delta.log()).topk(num_clusters).indices
    chosen = points.gather(1, centers.unsqueeze(-1).expand(-1, -1, channels))
    to_centers = torch.baddbmm(chosen.square().sum(-1).unsqueeze(1), points, chosen.mT, alpha=-2)
    number = torch.arange(num_clusters, device=x.device).expand_as(centers)
    if clusters_of is None:
        return DPCKNN(to_centers.argmin(-1).scatter(1, centers, number), centers, log_density, delta)
    used = number < clusters_of.unsqueeze(1)
    joined = pad(to_centers.masked_fill(~used.unsqueeze(1), torch.inf).argmin(-1), (0, 1))
    assignment = joined.scatter(1, torch.where(used, centers, x.shape[1]), number)[:, :-1]
    return DPCKNN(assignment, centers, log_density, delta)


def _products(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Centred points [B, N, C], their squared norms [B, N] and o [B, N, N], infinite from what is masked out."""
    points = x.float()
    points = points - points.mean(1, keepdim=True)
    norms = points.square().sum(-1)
    offsets = norms.unsqueeze(1) - 2 * torch.bmm(points, points.mT)
    return points, norms, offsets if mask is None else offsets.masked_fill(~mask[:, None, :], torch.inf)


def cluster_mean(x: Tensor, assignment: Tensor, num_clusters: int) -> Tensor:
    """A one-hot matrix product; bf16 is summed in fp32 inside it."""
    one_hot = (assignment.unsqueeze(1) == torch.arange(num_clusters, device=x.device).unsqueeze(1)).to(x.dtype)
    members = one_hot.sum(-1, dtype=torch.float32).clamp(min=1).unsqueeze(-1)
    return (torch.bmm(one_hot, x) / members).to(x.dtype)


def spatial_prototypes(
    x: Tensor, levels: tuple[tuple[int, int], ...], smallest: Callable[[Tensor, int], Tensor] = smallest_by_topk
) -> tuple[Tensor, list[Tensor]]:
    prototypes, assignments = [], []
    for num_clusters, k in levels:
        assignment = dpc_knn(x, num_clusters, k, smallest=smallest).assignment
        x = cluster_mean(x, assignment, num_clusters)
        prototypes.append(x)
        assignments.append(assignment)
    return torch.cat(prototypes, 1), assignments


def rods_pool(tokens: Tensor, queries: Tensor) -> Tensor:
    """With the keys' projection folded into the queries, and the mean over queries taken before the values."""
    logits = torch.matmul(tokens, queries.mT) * tokens.shape[-1] ** -0.5
    weights = logits.float().softmax(1).mean(-1)
    weights = torch.stack((weights, torch.full_like(weights, 1 / tokens.shape[1])), 1)
    return torch.bmm(weights.to(tokens.dtype), tokens)


def perturbed_topk(scores: Tensor, grad: Tensor, noise: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """(indicators [B, k, L], gradient of scores [B, L]) from grad [B, k, L], with the whole vector-Jacobian product."""
    batch, num_samples, length = noise.shape
    k = grad.shape[1]
    chosen = (scores.unsqueeze(1) + sigma * noise).topk(k, sorted=False).indices.sort(-1).values
    slots = (chosen + torch.arange(k, device=scores.device) * length).flatten(1)
    counts = noise.new_zeros(batch, k * length).scatter_add(1, slots, torch.ones_like(slots, dtype=torch.float32))
    weights = grad.flatten(1).gather(1, slots).view(batch, num_samples, k).sum(-1)
    weights = (weights - weights.mean(1, keepdim=True)) / ((num_samples - 1) * sigma)
    return counts.view(batch, k, length) / num_samples, torch.bmm(weights.unsqueeze(1), noise).squeeze(1)


def pack_frame_tokens(fine: Tensor, coarse: Tensor, key_index: Tensor) -> Tensor:
    """Rows are written where they belong, each once."""
    num_frames, num_coarse, width = coarse.shape
    num_fine = fine.shape[1]
    extra = key_index.new_zeros(num_frames).scatter(0, key_index, num_fine)
    ends = (extra + num_coarse).cumsum(0)
    starts = ends - extra - num_coarse
    tokens = fine.new_empty(fine.shape[0] * num_fine + num_frames * num_coarse, width)
    tokens[starts[key_index].unsqueeze(1) + torch.arange(num_fine, device=fine.device)] = fine
    tokens[(starts + extra).unsqueeze(1) + torch.arange(num_coarse, device=fine.device)] = coarse
    return tokens
