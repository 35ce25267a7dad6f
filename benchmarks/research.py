"""What the field runs, from the formulas its projects share: the whole N x N distance matrix, one-hot samples, loops.

Half precision is computed in fp32, as there. Left out is only the noise of 1e-6 that breaks ties of the density.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dynfocus_ops.ops.dpc_knn import DPCKNN


def dpc_knn(x: Tensor, num_clusters: int, k: int, mask: Tensor | None = None, scale: float | None = None) -> DPCKNN:
    """rho = exp(-mean of the k smallest d^2); delta = distance to the nearest denser point; centres by rho x delta."""
    points = x.float()
    distance = torch.cdist(points, points) / (scale or x.shape[-1]) ** 0.5
    if mask is not None:
        distance = torch.where(mask[:, None, :], distance, distance.max() + 1)
    density = distance.topk(k, largest=False).values.square().mean(-1).neg().exp()
    if mask is not None:
        density = density * mask
    denser = density[:, None, :] > density[:, :, None]
    farthest = distance.flatten(1).amax(-1)[:, None, None]
    delta = torch.where(denser, distance, farthest).amin(-1)
    centers = (density * delta).topk(num_clusters).indices
    to_centers = distance.gather(1, centers[:, :, None].expand(-1, -1, x.shape[1]))
    number = torch.arange(num_clusters, device=x.device).expand_as(centers)
    return DPCKNN(to_centers.argmin(1).scatter(1, centers, number), centers, density.log(), delta)


def cluster_mean(x: Tensor, assignment: Tensor, num_clusters: int) -> Tensor:
    """Adds up x_i / (members of i's cluster + 1e-6), in x.dtype."""
    batch, _, channels = x.shape
    slot = (assignment + num_clusters * torch.arange(batch, device=x.device).unsqueeze(1)).flatten()
    ones = x.new_ones(slot.numel(), 1)
    members = x.new_zeros(batch * num_clusters, 1).index_add(0, slot, ones) + 1e-6
    scaled = x.flatten(0, 1) * (ones / members[slot])
    return x.new_zeros(batch * num_clusters, channels).index_add(0, slot, scaled).view(batch, num_clusters, channels)


def spatial_prototypes(x: Tensor, levels: tuple[tuple[int, int], ...]) -> tuple[Tensor, list[Tensor]]:
    prototypes, assignments = [], []
    for num_clusters, k in levels:
        assignment = dpc_knn(x, num_clusters, k).assignment
        x = cluster_mean(x, assignment, num_clusters)
        prototypes.append(x)
        assignments.append(assignment)
    return torch.cat(prototypes, 1), assignments


def rods_pool(tokens: Tensor, queries: Tensor, key_weight: Tensor | None = None) -> Tensor:
    """With a key_weight every token is projected; without, the projection is folded into the queries [Q, C]."""
    keys = tokens if key_weight is None else tokens @ key_weight.T
    attention = (queries @ keys.mT * tokens.shape[-1] ** -0.5).softmax(-1)
    return torch.stack(((attention @ tokens).mean(1), tokens.mean(1)), 1)


class PerturbedTopK(torch.autograd.Function):
    """Every sample's one-hot choice [B, n, k, L] is built and kept; the gradient is the diagonal of the whole one."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: int, sigma: float, draw: Callable[[], Tensor]) -> Tensor:
        noise = draw()
        chosen = (scores.unsqueeze(1) + sigma * noise).topk(k, sorted=False).indices.sort(-1).values
        one_hot = torch.nn.functional.one_hot(chosen, scores.shape[1]).float()
        ctx.save_for_backward(one_hot, noise)
        ctx.sigma = sigma
        return one_hot.mean(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        one_hot, noise = ctx.saved_tensors
        expected = torch.einsum("bnkl,bnl->bkl", one_hot, noise) / (noise.shape[1] * ctx.sigma)
        return torch.einsum("bkl,bkl->bl", grad, expected), None, None, None


def pack_frame_tokens(fine: Tensor, coarse: Tensor, key_index: Tensor) -> Tensor:
    """The sequence grows frame by frame."""
    place = {frame: i for i, frame in enumerate(key_index.tolist())}
    tokens = fine.new_empty(0, fine.shape[-1])
    for frame in range(len(coarse)):
        if frame in place:
            tokens = torch.cat((tokens, fine[place[frame]]))
        tokens = torch.cat((tokens, coarse[frame]))
    return tokens
