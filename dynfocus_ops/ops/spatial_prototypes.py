from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dynfocus_ops import reference
from dynfocus_ops.backends import select_backend, select_kernel
from dynfocus_ops.checks import check_int, check_points, check_scores, checks_values
from dynfocus_ops.ops.cluster_mean import cluster_mean_backward


def spatial_prototypes(
    x: Tensor, levels: Sequence[Sequence[int]] = ((16, 8), (6, 3)), *, backend: str = "auto"
) -> tuple[Tensor, list[Tensor]]:
    """Prototypes of several levels: cluster a frame's tokens and average, cluster the averages, and so on.

    Identical to composing `dpc_knn` and `cluster_mean`: a level starts from the last one's averages as returned, in the
    dtype of x.

    Args:
        x: tokens [T, N, C], float; differentiable.
        levels: (num_clusters, k) of each level.
        backend: "auto" or a backend's name.

    Returns:
        prototypes: [T, sum of num_clusters, C] in the dtype of x, level after level.
        assignments: for each level int64 [T, points of the level]: the prototype of the level that each point joins.

    Memory: that of `dpc_knn`; natively a frame at a time for each thread. The CUDA kernel takes nothing besides: it
    reads x once for the distances and once, in part from cache, for the averages.

    Raises:
        TypeError, ValueError: wrong types, shapes or dtypes, a level with more clusters or neighbours than it has
            points; on the CPU also NaN or infinity in x.

    Source: multi-granularity spatial object prototypes G_t of DynFocus (CVPR 2025, arXiv 2411.12355).
    """
    check_points(x, "[T, N, C]")
    if len(levels) == 0:
        raise ValueError("levels is empty, it must have at least one (num_clusters, k)")
    sizes = [x.shape[1]]  # of the points of each level
    for num_clusters, k in levels:
        check_int("num_clusters of levels", num_clusters, 1, sizes[-1], "the number of points of the level")
        check_int("k of levels", k, 1, sizes[-1], "the number of points of the level")
        sizes.append(num_clusters)
    prototypes, assignments = _spatial_prototypes(x, sizes[1:], [k for _, k in levels], backend)
    return prototypes, list(assignments.split(sizes[:-1], dim=1))


@torch.library.custom_op("dynfocus::spatial_prototypes", mutates_args=())
def _spatial_prototypes(x: Tensor, num_clusters: list[int], k: list[int], backend: str) -> tuple[Tensor, Tensor]:
    """The assignments of all levels are one tensor [T, N + M_1 + ...]."""
    backend = select_backend("spatial_prototypes", backend, x, num_clusters=max(num_clusters), k=max(k))
    if backend == "reference":
        return reference.spatial_prototypes(
            x,
            num_clusters,
            k,
            dpc_knn=lambda *inputs: torch.ops.dynfocus.dpc_knn(*inputs, backend),
            cluster_mean=lambda *inputs: torch.ops.dynfocus.cluster_mean(*inputs, 0.0, backend),
        )
    kernel = select_kernel("spatial_prototypes", backend, x, num_clusters=max(num_clusters), k=max(k))
    prototypes, assignments = kernel(x, num_clusters, k)
    if checks_values(x):  # a frame that cannot be clustered has no assignment
        check_scores(torch.where(assignments < 0, torch.nan, 0.0), x, None)
    return prototypes, assignments


@_spatial_prototypes.register_fake
def _(x: Tensor, num_clusters: list[int], k: list[int], backend: str) -> tuple[Tensor, Tensor]:
    points = x.shape[1] + sum(num_clusters[:-1])
    return (
        x.new_empty((x.shape[0], sum(num_clusters), x.shape[2])),
        x.new_empty((x.shape[0], points), dtype=torch.int64),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, ctx.num_clusters, _, ctx.backend = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, *output)


def _backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, None, None, None]:
    """From the last level to the first: a prototype has its own gradient and, as the next level's point, that one's."""
    x, prototypes, assignments = ctx.saved_tensors
    points = [x, *prototypes.split(ctx.num_clusters, dim=1)[:-1]]
    joined = assignments.split([level.shape[1] for level in points], dim=1)
    backend = "auto" if ctx.backend == "cuda" else ctx.backend  # which has no kernel for means on their own
    flow = None
    for own, level, assignment in zip(
        reversed(grad.split(ctx.num_clusters, dim=1)), reversed(points), reversed(joined), strict=True
    ):
        total = own if flow is None else own + flow
        flow, _ = cluster_mean_backward(total, level, assignment, None, 0.0, backend)
    return flow, None, None, None


_spatial_prototypes.register_autograd(_backward, setup_context=_setup_context)
