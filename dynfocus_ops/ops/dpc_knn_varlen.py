from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from dynfocus_ops.backends import select_backend, select_kernel
from dynfocus_ops.checks import (
    check_int,
    check_noise,
    check_points,
    check_same_device,
    check_scores,
    check_tensor,
    checks_values,
    promote,
    score_dtype,
)
from dynfocus_ops.ops.dpc_knn import mark_outputs_non_differentiable, no_gradients
from dynfocus_ops.transfer import to_device


class DPCKNNVarlen(NamedTuple):
    assignment: Tensor
    centers: Tensor
    cu_clusters: Tensor
    log_density: Tensor
    delta: Tensor


def dpc_knn_varlen(
    x: Tensor,
    cu_seqlens: Tensor,
    num_clusters: int | Sequence[int],
    k: int | Sequence[int],
    *,
    max_seqlen: int,
    mask: Tensor | None = None,
    distance_scale: float | None = None,
    noise: Tensor | None = None,
    backend: str = "auto",
) -> DPCKNNVarlen:
    """`dpc_knn` of ragged segments in one call: segment s is rows cu_seqlens[s] to cu_seqlens[s + 1] of x.

    Args:
        x: points [total, C], float.
        cu_seqlens: int32 or int64 [S + 1], from 0 to total, strictly increasing.
        num_clusters, k: an int for all segments, or one Python int per segment.
        max_seqlen: at least the longest segment; what fixes the launch without looking at cu_seqlens.
        mask, noise: [total]; as in `dpc_knn`.
        distance_scale: C unless given.
        backend: "auto" or a backend's name. On a GPU the reference copies cu_seqlens to the host; Triton reads it
            where it is, and copies num_clusters and k to the GPU where they are given per segment.

    Returns:
        assignment: int64 [total], numbered within the segment; -1 where masked out.
        centers: int64 [sum of num_clusters], as rows of x, segment after segment.
        cu_clusters: int64 [S + 1], the bounds of each segment's centres.
        log_density, delta: float32 (float64 if x or noise is) [total].

    Raises:
        TypeError, ValueError: as `dpc_knn`; on the CPU also an empty segment, one longer than max_seqlen, or cu_seqlens
            that do not run from 0 to total.

    Source: as `dpc_knn`.
    """
    check_points(x, "[total, C]", mask, noise, distance_scale)
    check_tensor("cu_seqlens", cu_seqlens, "[S + 1]", (torch.int32, torch.int64))
    check_same_device("cu_seqlens", cu_seqlens, "x", x)
    if cu_seqlens.shape[0] < 2:
        raise ValueError(f"cu_seqlens has shape {list(cu_seqlens.shape)}, it must be [S + 1] with at least one segment")
    check_int("max_seqlen", max_seqlen, 1)
    clusters = _per_segment("num_clusters", num_clusters, cu_seqlens.shape[0] - 1, max_seqlen)
    neighbors = _per_segment("k", k, cu_seqlens.shape[0] - 1, max_seqlen)
    if noise is not None:
        x, noise = promote(x, noise)
    return DPCKNNVarlen(
        *_dpc_knn_varlen(x, cu_seqlens, clusters, neighbors, max_seqlen, mask, distance_scale, noise, backend)
    )


def _per_segment(name: str, value: int | Sequence[int], num_segments: int, max_seqlen: int) -> list[int]:
    """The ints of each segment; one int stands for all, so that their number may stay symbolic."""
    values = [value] if isinstance(value, int | torch.SymInt) else list(value)
    if not isinstance(value, int | torch.SymInt) and len(values) != num_segments:
        raise ValueError(f"{name} has {len(values)} numbers, it must be an int or have one per segment, {num_segments}")
    for number in values:
        check_int(name, number, 1, max_seqlen, "max_seqlen")
    return values


@torch.library.custom_op("dynfocus::dpc_knn_varlen", mutates_args=())
def _dpc_knn_varlen(
    x: Tensor,
    cu_seqlens: Tensor,
    num_clusters: list[int],
    k: list[int],
    max_seqlen: int,
    mask: Tensor | None,
    distance_scale: float | None,
    noise: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    num_segments = cu_seqlens.shape[0] - 1
    clusters, neighbors = list(num_clusters), list(k)
    scale = float(distance_scale or x.shape[-1])
    chosen = select_backend("dpc_knn_varlen", backend, x, k=max(k))
    kernel = select_kernel("dpc_knn_varlen", chosen, x, k=max(k))
    if chosen != "triton" or checks_values(cu_seqlens):
        bounds = cu_seqlens.tolist()
        every_clusters, every_k = (
            values * num_segments if len(values) == 1 else values for values in (clusters, neighbors)
        )
        _check_segments(bounds, every_clusters, every_k, max_seqlen, x, mask)
    check_noise(noise, mask)
    if chosen == "triton":
        result = kernel(x, cu_seqlens, clusters, neighbors, mask, scale, noise, max_seqlen=max_seqlen)
    else:
        result = kernel(x, bounds, every_clusters, every_k, mask, scale, noise)
    assignment, centers, log_density, delta = result
    check_scores(log_density, x, mask)
    check_scores(delta, x, mask)
    if len(clusters) == 1:
        cu_clusters = torch.arange(num_segments + 1, device=x.device) * clusters[0]
    else:
        cu_clusters = to_device([0, *clusters], x.device).cumsum(0)
    return assignment, centers, cu_clusters, log_density, delta


def _check_segments(
    bounds: list[int], num_clusters: list[int], k: list[int], max_seqlen: int, x: Tensor, mask: Tensor | None
) -> None:
    if bounds[0] != 0 or bounds[-1] != len(x):
        raise ValueError(
            f"cu_seqlens runs from {bounds[0]} to {bounds[-1]}, it must run from 0 to {len(x)}, the rows of x"
        )
    valid = [stop - start for start, stop in pairwise(bounds)]
    for s, length in enumerate(valid):
        if not 0 < length <= max_seqlen:
            raise ValueError(
                f"segment {s} of cu_seqlens has {length} rows, it must have 1 to max_seqlen = {max_seqlen}"
            )
    if mask is not None and checks_values(mask):
        up_to = pad(mask.cumsum(0), (1, 0))  # the valid points before each row
        valid = up_to[torch.tensor(bounds, device=mask.device)].diff().tolist()
    for name, wanted in (("num_clusters", num_clusters), ("k", k)):
        for s, number in enumerate(wanted):
            if number > valid[s]:
                raise ValueError(
                    f"{name} of segment {s} is {number}, it must be at most its number of valid points, {valid[s]}"
                )


@_dpc_knn_varlen.register_fake
def _(
    x: Tensor,
    cu_seqlens: Tensor,
    num_clusters: list[int],
    k: list[int],
    max_seqlen: int,
    mask: Tensor | None,
    distance_scale: float | None,
    noise: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    num_segments = cu_seqlens.shape[0] - 1
    total = num_segments * num_clusters[0] if len(num_clusters) == 1 else sum(num_clusters)
    log_density = x.new_empty(x.shape[:1], dtype=score_dtype(x))
    return (
        x.new_empty(x.shape[:1], dtype=torch.int64),
        x.new_empty(total, dtype=torch.int64),
        x.new_empty(cu_seqlens.shape, dtype=torch.int64),
        log_density,
        torch.empty_like(log_density),
    )


_dpc_knn_varlen.register_autograd(no_gradients, setup_context=mark_outputs_non_differentiable)
