from typing import Any

import torch
from torch import Tensor

from dynfocus_ops.backends import select_kernel
from dynfocus_ops.checks import (
    check_index,
    check_int,
    check_not_empty,
    check_not_negative,
    check_same_device,
    check_shape,
    check_tensor,
    promote,
)


def cluster_mean(
    x: Tensor,
    assignment: Tensor,
    num_clusters: int,
    weight: Tensor | None = None,
    *,
    epsilon: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    """Weighted mean of each cluster's members: y_c = sum_i w_i x_i / (epsilon + sum_i w_i).

    Args:
        x: [B, N, C], float; differentiable.
        assignment: int64 [B, N] below num_clusters; -1 is nobody's.
        num_clusters: rows of the result.
        weight: float [B, N], 1 unless given; differentiable.
        epsilon: added to each cluster's weight, as the published code does with 1e-6.
        backend: "auto" or a backend's name.

    Returns:
        [B, num_clusters, C] in the dtype of x, summed in float64 if x or weight is, else in float32; 0 for a cluster
        without members, or whose weight and epsilon add up to 0.

    Memory: Triton lists the members, 4 B N bytes and 8 for each cluster; the gradient of weight adds a float32 for each
        point and 512 channels (256 in float32).

    Raises:
        TypeError, ValueError: wrong types, shapes or dtypes; on the CPU also an assignment outside [-1, num_clusters)
            (on a GPU it is nobody's).

    Source: event and object prototypes of DynFocus (CVPR 2025, arXiv 2411.12355): the mean of a cluster.
    """
    check_tensor("x", x, "[B, N, C]")
    check_not_empty("x", x)
    check_tensor("assignment", assignment, "[B, N]", (torch.int64,))
    check_shape("assignment", assignment, tuple(x.shape[:2]), "[B, N] of x")
    check_same_device("assignment", assignment, "x", x)
    check_int("num_clusters", num_clusters, 1)
    check_not_negative("epsilon", epsilon)
    dtype = x.dtype
    if weight is not None:
        check_tensor("weight", weight, "[B, N]")
        check_shape("weight", weight, tuple(x.shape[:2]), "[B, N] of x")
        check_same_device("weight", weight, "x", x)
        x, weight = promote(x, weight)
    return _cluster_mean(x, assignment, num_clusters, weight, epsilon, backend).to(dtype)


@torch.library.custom_op("dynfocus::cluster_mean", mutates_args=())
def _cluster_mean(
    x: Tensor, assignment: Tensor, num_clusters: int, weight: Tensor | None, epsilon: float, backend: str
) -> Tensor:
    check_index("assignment", assignment, -1, num_clusters, "-1 or a cluster")
    return select_kernel("cluster_mean", backend, x)(x, assignment, num_clusters, weight, epsilon)


@_cluster_mean.register_fake
def _(x: Tensor, assignment: Tensor, num_clusters: int, weight: Tensor | None, epsilon: float, backend: str) -> Tensor:
    return x.new_empty((x.shape[0], num_clusters, x.shape[2]))


@torch.library.custom_op("dynfocus::cluster_mean_backward", mutates_args=())
def cluster_mean_backward(
    grad: Tensor, x: Tensor | None, assignment: Tensor, weight: Tensor | None, epsilon: float, backend: str
) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight from grad [B, num_clusters, C]; that of weight is empty [0] without weight or x."""
    return select_kernel("cluster_mean", backend, grad, "cluster_mean_backward")(grad, x, assignment, weight, epsilon)


@cluster_mean_backward.register_fake
def _(
    grad: Tensor, x: Tensor | None, assignment: Tensor, weight: Tensor | None, epsilon: float, backend: str
) -> tuple[Tensor, Tensor]:
    grad_weight = grad.new_empty(0) if x is None or weight is None else weight.new_empty(weight.shape)
    return grad.new_empty((*assignment.shape, grad.shape[2])), grad_weight


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, assignment, _, weight, ctx.epsilon, ctx.backend = inputs
    needs_weight = ctx.needs_input_grad[3]
    ctx.save_for_backward(x if needs_weight else None, assignment, weight)  # x itself only matters to weight


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor | None, None, None]:
    grad_x, grad_weight = cluster_mean_backward(grad, *ctx.saved_tensors, ctx.epsilon, ctx.backend)
    needs_x, _, _, needs_weight, *_ = ctx.needs_input_grad
    return grad_x if needs_x else None, None, None, grad_weight if needs_weight else None, None, None


_cluster_mean.register_autograd(_backward, setup_context=_setup_context)
