"""The members of each cluster in order of index: a counting sort of the assignment, in one launch.

With it a kernel reads each point once, in a fixed order, by whichever program owns its cluster.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dynfocus_ops.triton.launch import launch

NOWHERE = tl.constexpr(1 << 30)  # the list of what is not there: beyond all


def member_lists(
    assignment: Tensor, num_clusters: int, weight: Tensor | None, epsilon: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Lists 0 to num_clusters - 1 of each sample are its clusters, list num_clusters the points of none.

    Args:
        assignment: int64 [B, N]; what is outside [0, num_clusters) is of no cluster.
        num_clusters: M.
        weight: float [B, N], or None for 1.
        epsilon: added to the weight of each list.

    Returns:
        members: int32 [B, N]; list m has members bounds[m] to bounds[m + 1], ascending.
        bounds: int32 [B, M + 2].
        total: float32 [B, M + 1], the weight of each list.
    """
    B, N = assignment.shape
    M = num_clusters
    members = assignment.new_empty((B, N), dtype=torch.int32)
    bounds = assignment.new_empty((B, M + 2), dtype=torch.int32)
    total = assignment.new_empty((B, M + 1), dtype=torch.float32)
    strides = (0, 0) if weight is None else weight.stride()
    block_points = min(max(triton.next_power_of_2(N), 16), 1024)
    block_lists = 4096 // block_points
    launch(
        member_lists_kernel,
        (B * triton.cdiv(M + 2, block_lists),),
        *(assignment, weight, members, bounds, total, N, M, *assignment.stride(), *strides),
        BLOCK_M=block_lists,
        BLOCK_N=block_points,
        num_warps=4,
    )
    return members, bounds, total if epsilon == 0 else total.add_(epsilon)


@triton.jit
def member_lists_kernel(
    assignment_ptr,
    weight_ptr,
    members_ptr,
    bounds_ptr,
    total_ptr,
    N,
    M,
    stride_ab,
    stride_an,
    stride_wb,
    stride_wn,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """A program owns BLOCK_M lists of a sample: one sweep finds where they start, the other fills them."""
    tiles = tl.cdiv(M + 2, BLOCK_M)
    b = (tl.program_id(0) // tiles).to(tl.int64)
    m = tl.program_id(0) % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    assignment_ptr += b * stride_ab

    bound = tl.zeros((BLOCK_M,), tl.int32)
    for first in range(0, N, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        bound += tl.sum((list_of(assignment_ptr, n, N, M, stride_an)[None, :] < m[:, None]).to(tl.int32), 1)
    tl.store(bounds_ptr + b * (M + 2) + m, bound, mask=m < M + 2)

    total = tl.zeros((BLOCK_M,), tl.float32)
    for first in range(0, N, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        mine = list_of(assignment_ptr, n, N, M, stride_an)[None, :] == m[:, None]
        rank = tl.cumsum(mine.to(tl.int32), 1)
        index = tl.broadcast_to(n[None, :], (BLOCK_M, BLOCK_N))
        tl.store(members_ptr + b * N + (bound[:, None] + rank - 1), index, mask=mine)
        count = tl.sum(mine.to(tl.int32), 1)
        bound += count
        if weight_ptr is None:
            total += count.to(tl.float32)
        else:
            weight = tl.load(weight_ptr + b * stride_wb + n.to(tl.int64) * stride_wn, mask=n < N, other=0)
            total += tl.sum(tl.where(mine, weight.to(tl.float32)[None, :], 0), 1)
    tl.store(total_ptr + b * (M + 1) + m, total, mask=m < M + 1)


@triton.jit
def list_of(assignment_ptr, n, N, M, stride_n):
    cluster = tl.load(assignment_ptr + n.to(tl.int64) * stride_n, mask=n < N, other=-1)
    cluster = tl.where((cluster >= 0) & (cluster < M), cluster, M).to(tl.int32)
    return tl.where(n < N, cluster, NOWHERE)
