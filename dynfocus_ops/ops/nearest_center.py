import torch
from torch import Tensor

from dynfocus_ops.backends import select_kernel
from dynfocus_ops.checks import (
    check_finite,
    check_index,
    check_not_empty,
    check_points,
    check_same_device,
    check_shape,
    check_tensor,
    checks_values,
)
from dynfocus_ops.ops.dpc_knn import mark_outputs_non_differentiable, no_gradients


def nearest_center(x: Tensor, centers: Tensor, *, mask: Tensor | None = None, backend: str = "auto") -> Tensor:
    """Which centre each point joins: the last part of `dpc_knn`.

    Args:
        x: points [B, N, C], float.
        centers: int64 [B, M], distinct indices into N of points that are not masked out.
        mask: bool [B, N], False for points to leave out.

    Returns:
        int64 [B, N] into M: the nearest centre (of equals: the earlier one), for a centre itself; -1 where masked out.
        Squared distances that overflow are equals.

    Raises:
        TypeError, ValueError: wrong types, shapes or dtypes. On the CPU also: NaN or infinity in a valid point, centres
            outside [0, N), repeated or masked out.
    """
    check_points(x, "[B, N, C]", mask)
    check_tensor("centers", centers, "[B, M]", (torch.int64,))
    check_not_empty("centers", centers)
    check_shape("centers", centers, (x.shape[0], centers.shape[1]), "[B, M] with B of x")
    check_same_device("centers", centers, "x", x)
    return _nearest_center(x, centers, mask, backend)


@torch.library.custom_op("dynfocus::nearest_center", mutates_args=())
def _nearest_center(x: Tensor, centers: Tensor, mask: Tensor | None, backend: str) -> Tensor:
    check_index("centers", centers, 0, x.shape[1], "the points of x")
    _check_centers(centers, mask)
    check_finite("x", x, mask)
    return select_kernel("nearest_center", backend, x)(x, centers, mask)


def _check_centers(centers: Tensor, mask: Tensor | None) -> None:
    if not checks_values(centers):
        return
    faults = {"repeat a point": centers.sort(-1).values.diff() == 0}
    if mask is not None:
        faults["name points that mask leaves out"] = ~mask.gather(1, centers)
    for fault, found in faults.items():
        if bool(found.any()):
            row = int(found.any(-1).nonzero()[0])
            raise ValueError(f"centers is {centers[row].tolist()} in row {row}, it must not {fault}")


@_nearest_center.register_fake
def _(x: Tensor, centers: Tensor, mask: Tensor | None, backend: str) -> Tensor:
    return x.new_empty(x.shape[:2], dtype=torch.int64)


_nearest_center.register_autograd(no_gradients, setup_context=mark_outputs_non_differentiable)
