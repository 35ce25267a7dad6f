import torch
from torch import Tensor

from dynfocus_ops.backends import select_kernel
from dynfocus_ops.checks import (
    check_enough_points,
    check_int,
    check_noise,
    check_points,
    check_scores,
    promote,
    score_dtype,
)
from dynfocus_ops.ops.dpc_knn import mark_outputs_non_differentiable, no_gradients


def knn_log_density(
    x: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    distance_scale: float | None = None,
    noise: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Logarithm of the k-nearest-neighbour density: the first part of `dpc_knn`, whose arguments it shares.

    log rho_i = -mean of the k smallest |x_i - x_j|^2 / distance_scale, point i itself among them;
    with noise, log(rho_i + noise_i).

    Returns:
        float32 (float64 if x or noise is) [B, N]; -inf where masked out; not differentiable.

    Raises:
        TypeError, ValueError: as `dpc_knn`, but that on the reference only distances to a point's k nearest may not
            overflow.
    """
    check_points(x, "[B, N, C]", mask, noise, distance_scale)
    check_int("k", k, 1, x.shape[1], "the number of points")
    if noise is not None:
        x, noise = promote(x, noise)
    return _knn_log_density(x, k, mask, distance_scale, noise, backend)


@torch.library.custom_op("dynfocus::knn_log_density", mutates_args=())
def _knn_log_density(
    x: Tensor, k: int, mask: Tensor | None, distance_scale: float | None, noise: Tensor | None, backend: str
) -> Tensor:
    check_enough_points("k", k, mask)
    check_noise(noise, mask)
    kernel = select_kernel("knn_log_density", backend, x, k=k)
    log_density = kernel(x, k, mask, float(distance_scale or x.shape[-1]), noise)
    check_scores(log_density, x, mask)
    return log_density


@_knn_log_density.register_fake
def _(
    x: Tensor, k: int, mask: Tensor | None, distance_scale: float | None, noise: Tensor | None, backend: str
) -> Tensor:
    return x.new_empty(x.shape[:2], dtype=score_dtype(x))


_knn_log_density.register_autograd(no_gradients, setup_context=mark_outputs_non_differentiable)
