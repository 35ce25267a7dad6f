import torch
from torch import Tensor

from dynfocus_ops.backends import select_kernel
from dynfocus_ops.checks import (
    check_finite,
    check_points,
    check_same_device,
    check_scores,
    check_shape,
    check_tensor,
    score_dtype,
)
from dynfocus_ops.ops.dpc_knn import mark_outputs_non_differentiable, no_gradients


def density_peak_distance(
    x: Tensor,
    log_density: Tensor,
    *,
    mask: Tensor | None = None,
    distance_scale: float | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Distance to the nearest denser point: the second part of `dpc_knn`, whose arguments it shares.

    Args:
        log_density: float [B, N]; only its order counts, the lower index is the denser of equals.

    Returns:
        delta: float32 (float64 for float64) [B, N]; the sample's largest distance for its densest point; 0 where
            masked out.
        parent: int64 [B, N], the nearest denser point (of equals: the lower index), the densest its own; -1 where
            masked out.
        Neither is differentiable.

    Raises:
        TypeError, ValueError: wrong types, shapes or dtypes. On the CPU also, at a valid point: NaN or infinity in x or
            log_density, or squared distances that overflow.
    """
    check_points(x, "[B, N, C]", mask, None, distance_scale)
    check_tensor("log_density", log_density, "[B, N]")
    check_shape("log_density", log_density, tuple(x.shape[:2]), "[B, N] of x")
    check_same_device("log_density", log_density, "x", x)
    return _density_peak_distance(x, log_density, mask, distance_scale, backend)


@torch.library.custom_op("dynfocus::density_peak_distance", mutates_args=())
def _density_peak_distance(
    x: Tensor, log_density: Tensor, mask: Tensor | None, distance_scale: float | None, backend: str
) -> tuple[Tensor, Tensor]:
    check_finite("log_density", log_density.unsqueeze(-1), mask)
    if log_density.dtype == torch.float64:  # only its order matters, which float32 may lose
        log_density = -log_density.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    kernel = select_kernel("density_peak_distance", backend, x)
    delta, parent = kernel(x, log_density.float(), mask, float(distance_scale or x.shape[-1]))
    check_scores(delta, x, mask)
    return delta, parent


@_density_peak_distance.register_fake
def _(
    x: Tensor, log_density: Tensor, mask: Tensor | None, distance_scale: float | None, backend: str
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[:2], dtype=score_dtype(x)), x.new_empty(x.shape[:2], dtype=torch.int64)


_density_peak_distance.register_autograd(no_gradients, setup_context=mark_outputs_non_differentiable)
