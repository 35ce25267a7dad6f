"""Weighted mean of each cluster's members, and its gradient.

A program owns a slice of the channels of one cluster and walks its member list: each point is read once, in 16-byte
accesses, and summed in order of index, so that neither the tiling nor batch mates change a bit.
"""

import triton
import triton.language as tl
from torch import Tensor

from dynfocus_ops.triton.launch import launch
from dynfocus_ops.triton.member_lists import member_lists
from dynfocus_ops.triton.rounding import rounded
from dynfocus_ops.triton.sum_of_parts import sum_of_parts

ROWS = 4  # of a list, loaded before the first is used


def cluster_mean(
    x: Tensor,
    assignment: Tensor,
    num_clusters: int,
    weight: Tensor | None,
    epsilon: float = 0.0,
    out: Tensor | None = None,
) -> Tensor:
    """[B, num_clusters, C]; `out` may be given for it, of any strides but with its channels side by side."""
    B, N, C = x.shape
    M = num_clusters
    lists = member_lists(assignment, M, weight, epsilon)
    mean = x.new_empty((B, M, C)) if out is None else out
    block, num_warps = slice_of_channels(x)
    launch(
        cluster_mean_kernel,
        (triton.cdiv(C, block) * M * B,),
        *(x, weight, *lists, mean, N, C, M, *x.stride(), *weight_strides(weight), *mean.stride()[:2]),
        BLOCK_C=block,
        ROWS=ROWS,
        num_warps=num_warps,
    )
    return mean


def cluster_mean_backward(
    grad: Tensor, x: Tensor | None, assignment: Tensor, weight: Tensor | None, epsilon: float = 0.0
) -> tuple[Tensor, Tensor]:
    (B, M, C), N = grad.shape, assignment.shape[1]
    lists = member_lists(assignment, M, weight, epsilon)
    grad_x = grad.new_empty((B, N, C))
    block, num_warps = slice_of_channels(grad)
    slices = triton.cdiv(C, block)
    points = None if weight is None else x
    products = None if points is None else lists[2].new_empty((B, slices, N))  # of each slice of the channels
    launch(
        cluster_mean_backward_kernel,
        (slices * (M + 1) * B,),
        *(grad, points, weight, *lists, grad_x, products, N, C, M, *grad.stride()),
        *((0, 0, 0) if points is None else points.stride()),
        *weight_strides(weight),
        BLOCK_C=block,
        ROWS=ROWS,
        num_warps=num_warps,
    )
    if weight is None or products is None:
        return grad_x, grad.new_empty(0)
    return grad_x, sum_of_parts(products, weight.new_empty((B, N)))


def slice_of_channels(x: Tensor) -> tuple[int, int]:
    """Channels and warps of a program: 16 bytes for each thread of two warps. Small, so that long lists spread."""
    return 1024 // x.element_size(), 2


def weight_strides(weight: Tensor | None) -> tuple[int, ...]:
    return (0, 0) if weight is None else weight.stride()


@triton.jit
def cluster_mean_kernel(
    x_ptr,
    weight_ptr,
    members_ptr,
    bounds_ptr,
    total_ptr,
    mean_ptr,
    N,
    C,
    M,
    stride_xb,
    stride_xn,
    stride_xc,
    stride_wb,
    stride_wn,
    stride_mb,
    stride_mm,
    BLOCK_C: tl.constexpr,
    ROWS: tl.constexpr,
):
    """y_m = sum_i w_i x_i / W_m over the members i of m; 0 where W_m is 0."""
    slices = tl.cdiv(C, BLOCK_C)
    c = tl.program_id(0) % slices * BLOCK_C + tl.arange(0, BLOCK_C)
    m = tl.program_id(0) // slices % M
    b = (tl.program_id(0) // slices // M).to(tl.int64)
    weight_of_sample = weight_ptr if weight_ptr is None else weight_ptr + b * stride_wb
    mean = mean_of_members(
        x_ptr + b * stride_xb + c.to(tl.int64) * stride_xc,
        weight_of_sample,
        members_ptr + b * N,
        bounds_ptr + b * (M + 2) + m,
        tl.load(total_ptr + b * (M + 1) + m),
        c,
        C,
        stride_xn,
        stride_wn,
        BLOCK_C,
        ROWS,
    )
    out = mean_ptr + b * stride_mb + m.to(tl.int64) * stride_mm + c
    tl.store(out, rounded(mean, mean_ptr.dtype.element_ty), mask=c < C)


@triton.jit
def mean_of_members(
    column_ptr,
    weight_ptr,
    members_ptr,
    bound_ptr,
    total,
    c,
    C,
    stride_xn,
    stride_wn,
    BLOCK_C: tl.constexpr,
    ROWS: tl.constexpr,
):
    """[BLOCK_C], the columns at column_ptr: one sum after the other, ROWS loads at a time in flight."""
    first = tl.load(bound_ptr)
    last = tl.load(bound_ptr + 1)
    sums = tl.zeros((BLOCK_C,), tl.float32)
    for at in range(first, last, ROWS):
        for row in tl.static_range(ROWS):
            there = at + row < last
            i = tl.load(members_ptr + at + row, mask=there, other=0).to(tl.int64)
            x = tl.load(column_ptr + i * stride_xn, mask=c < tl.where(there, C, 0), other=0).to(tl.float32)
            if weight_ptr is not None:
                x *= tl.load(weight_ptr + i * stride_wn, mask=there, other=0).to(tl.float32)
            sums += x
    return tl.where(total == 0, 0.0, tl.div_rn(sums, tl.zeros_like(sums) + total))


@triton.jit
def cluster_mean_backward_kernel(
    grad_ptr,
    x_ptr,
    weight_ptr,
    members_ptr,
    bounds_ptr,
    total_ptr,
    grad_x_ptr,
    product_ptr,
    N,
    C,
    M,
    stride_gb,
    stride_gm,
    stride_gc,
    stride_xb,
    stride_xn,
    stride_xc,
    stride_wb,
    stride_wn,
    BLOCK_C: tl.constexpr,
    ROWS: tl.constexpr,
):
    """dx_i = w_i / W_m g_m; with x, this slice's part of dw_i = g_m . (x_i - y_m) / W_m. List M, of no cluster, gets 0.

    Differences before products: points that share a large part would cancel in the difference of their products.
    """
    slices = tl.cdiv(C, BLOCK_C)
    s = tl.program_id(0) % slices
    c = s * BLOCK_C + tl.arange(0, BLOCK_C)
    m = tl.program_id(0) // slices % (M + 1)
    b = (tl.program_id(0) // slices // (M + 1)).to(tl.int64)
    members_ptr += b * N
    bound_ptr = bounds_ptr + b * (M + 2) + m
    total = tl.load(total_ptr + b * (M + 1) + m)
    in_a_mean = (m < M) & (total != 0)
    grad_at = grad_ptr + b * stride_gb + m.to(tl.int64) * stride_gm + c.to(tl.int64) * stride_gc
    channels_read = tl.where(in_a_mean, C, 0)
    grad = tl.load(grad_at, mask=c < channels_read, other=0).to(tl.float32)
    total = tl.where(in_a_mean, total, 1.0)
    grad = tl.div_rn(grad, tl.zeros_like(grad) + total)
    if weight_ptr is not None:
        weight_ptr += b * stride_wb
    if x_ptr is not None:
        column_ptr = x_ptr + b * stride_xb + c.to(tl.int64) * stride_xc
        mean = mean_of_members(
            column_ptr, weight_ptr, members_ptr, bound_ptr, total, c, channels_read, stride_xn, stride_wn, BLOCK_C, ROWS
        )
    first = tl.load(bound_ptr)
    last = tl.load(bound_ptr + 1)
    for at in range(first, last, ROWS):
        for row in tl.static_range(ROWS):
            there = at + row < last
            i = tl.load(members_ptr + at + row, mask=there, other=0).to(tl.int64)
            grad_x = grad
            if weight_ptr is not None:
                grad_x *= tl.load(weight_ptr + i * stride_wn, mask=there & in_a_mean, other=0).to(tl.float32)
            out = grad_x_ptr + (b * N + i) * C + c
            tl.store(out, rounded(grad_x, grad_x_ptr.dtype.element_ty), mask=c < tl.where(there, C, 0))
            if x_ptr is not None:
                x = tl.load(column_ptr + i * stride_xn, mask=c < tl.where(there, channels_read, 0), other=0).to(
                    tl.float32
                )
                product = tl.sum(grad * (x - mean))
                tl.store(product_ptr + (b * slices + s) * N + i, tl.where(in_a_mean, product, 0.0), mask=there)
