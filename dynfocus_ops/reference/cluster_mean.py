"""Weighted mean of each cluster's members, and its gradient."""

import torch
from torch import Tensor

from dynfocus_ops.reference.precision import upcast


def cluster_mean(
    x: Tensor, assignment: Tensor, num_clusters: int, weight: Tensor | None, epsilon: float = 0.0
) -> Tensor:
    """y_c = sum_i w_i x_i / W_c with W_c = epsilon + sum_i w_i over cluster c; 0 where W_c is 0."""
    points = upcast(x)
    weights = member_weights(points, assignment, weight)
    sums = segment_sum(points * weights.unsqueeze(-1), assignment, num_clusters)
    return divide(sums, segment_sum(weights.unsqueeze(-1), assignment, num_clusters) + epsilon).to(x.dtype)


def cluster_mean_backward(
    grad: Tensor, x: Tensor | None, assignment: Tensor, weight: Tensor | None, epsilon: float = 0.0
) -> tuple[Tensor, Tensor]:
    """dx_i = g_c w_i / W_c and dw_i = g_c . (x_i - y_c) / W_c, c the cluster of i; without weight or x, dw is empty."""
    num_clusters = grad.shape[1]
    grads = upcast(grad)
    weights = member_weights(grads, assignment, weight)
    total = segment_sum(weights.unsqueeze(-1), assignment, num_clusters) + epsilon
    own = assignment.clamp(min=0).unsqueeze(-1)
    in_no_mean = (assignment.unsqueeze(-1) < 0) | (total.gather(1, own) == 0)
    own_grad = divide(grads, total).gather(1, own.expand(-1, -1, grad.shape[-1])).masked_fill(in_no_mean, 0)
    grad_x = (own_grad * weights.unsqueeze(-1)).to(grad.dtype)
    if weight is None or x is None:
        return grad_x, grads.new_empty(0)
    points = upcast(x)
    mean = divide(segment_sum(points * weights.unsqueeze(-1), assignment, num_clusters), total)
    offset = (points - mean.gather(1, own.expand_as(points))).masked_fill(in_no_mean, 0)  # it may hold NaN
    return grad_x, (own_grad * offset).sum(-1).to(weight.dtype)


def member_weights(like: Tensor, assignment: Tensor, weight: Tensor | None) -> Tensor:
    weights = like.new_ones(assignment.shape) if weight is None else weight.to(like.dtype)
    return weights.masked_fill(assignment < 0, 0)


def segment_sum(values: Tensor, assignment: Tensor, num_clusters: int) -> Tensor:
    """Sums of values [B, N, C] over each cluster: [B, num_clusters, C]; those of -1 go to a slot that is dropped."""
    batch = torch.arange(len(values), device=values.device).unsqueeze(1)
    slot = torch.where(assignment < 0, num_clusters, assignment) + batch * (num_clusters + 1)
    sums = values.new_zeros(len(values) * (num_clusters + 1), values.shape[-1])
    if values.is_cuda:  # each is the one that adds in a fixed order on its device
        sums.index_put_((slot.flatten(),), values.flatten(0, 1), accumulate=True)
    else:
        sums.index_add_(0, slot.flatten(), values.flatten(0, 1))
    return sums.unflatten(0, (len(values), num_clusters + 1))[:, :num_clusters]


def divide(sums: Tensor, total: Tensor) -> Tensor:
    return torch.where(total == 0, 0, sums / total)
