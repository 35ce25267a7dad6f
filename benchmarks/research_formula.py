"""What the field runs today, from the papers' formulas: the whole N x N distance matrix, top-k, a masked minimum."""

import torch
from torch import Tensor


def dpc_knn(x: Tensor, num_clusters: int, k: int) -> tuple[Tensor, Tensor]:
    """(assignment [B, N], centers [B, num_clusters]) of x [B, N, C], in x.dtype throughout."""
    distance = torch.cdist(x, x) / x.shape[-1] ** 0.5
    density = distance.topk(k, largest=False).values.square().mean(-1).neg().exp()
    denser = density[:, None, :] > density[:, :, None]
    farthest = distance.flatten(1).amax(-1)[:, None, None]
    delta = torch.where(denser, distance, farthest).amin(-1)
    centers = (density * delta).topk(num_clusters).indices
    to_centers = distance.gather(1, centers[:, :, None].expand(-1, -1, x.shape[1]))
    assignment = to_centers.argmin(1).scatter(1, centers, torch.arange(num_clusters).expand_as(centers))
    return assignment, centers


def cluster_mean(x: Tensor, assignment: Tensor, num_clusters: int) -> Tensor:
    """[B, num_clusters, C], by a one-hot matrix product."""
    one_hot = torch.nn.functional.one_hot(assignment, num_clusters).to(x.dtype)
    return one_hot.mT @ x / one_hot.sum(1).clamp(min=1).unsqueeze(-1)
