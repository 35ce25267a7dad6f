import torch
from torch import Tensor

from dynfocus_ops import reference
from dynfocus_ops.backends import select_backend
from dynfocus_ops.checks import check_index, check_not_empty, check_points, check_same_device, check_shape, check_tensor
from dynfocus_ops.ops.dpc_knn import mark_outputs_non_differentiable, no_gradients


def nearest_center(x: Tensor, centers: Tensor, *, mask: Tensor | None = None, backend: str = "auto") -> Tensor:
    """Which centre each point joins: the last part of `dpc_knn`, whose arguments and errors it shares.

    Args:
        x: points [B, N, C], float.
        centers: int64 [B, M], distinct indices into N.
        mask: bool [B, N], False for points to leave out.

    Returns:
        int64 [B, N] into M: the nearest centre (of equals: the earlier one), for a centre itself; -1 where masked out.
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
    select_backend("nearest_center", backend, x)
    return reference.nearest_center(x, centers, mask)


@_nearest_center.register_fake
def _(x: Tensor, centers: Tensor, mask: Tensor | None, backend: str) -> Tensor:
    return x.new_empty(x.shape[:2], dtype=torch.int64)


_nearest_center.register_autograd(no_gradients, setup_context=mark_outputs_non_differentiable)
