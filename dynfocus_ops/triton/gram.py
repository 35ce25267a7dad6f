"""Products of all pairs of a sample's points, kept: where reading one costs less than computing it again.

G [S, PARTS, N, N]: a part is the sum over a range of channels, in which a few points of many channels fill a GPU.
Readers add the parts in order.
"""

import triton
import triton.language as tl

from dynfocus_ops.triton.distances import inner_products, squared_norms
from dynfocus_ops.triton.samples import sample_pointer, sample_rows


@triton.jit
def gram_kernel(x_ptr, mask_ptr, cu_seqlens_ptr, sample_stride, point_stride, channel_stride, N, total, C,
                gram_ptr, blocks, part_channels,
                PARTS: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """Blocks on and below the diagonal; each is written to both halves."""
    sample, block = tl.program_id(0) // (blocks * blocks), tl.program_id(0) % (blocks * blocks)
    block_i, block_j = block // blocks, block % blocks
    first, length = sample_rows(sample, N, total, cu_seqlens_ptr)
    if (block_j > block_i) | (block_i * ROWS >= length):
        return
    part = tl.program_id(1)
    i, j = block_i * ROWS + tl.arange(0, ROWS), block_j * ROWS + tl.arange(0, ROWS)
    points = sample_pointer(x_ptr, sample, first, sample_stride, point_stride, cu_seqlens_ptr)
    channels = C
    if PARTS > 1:
        points += tl.cast(part, tl.int64) * part_channels * channel_stride
        channels = tl.minimum(part_channels, C - part * part_channels)
    rows = points + tl.minimum(i, length - 1).to(tl.int64) * point_stride
    columns = points + tl.minimum(j, length - 1).to(tl.int64) * point_stride
    products = inner_products(rows, columns, channel_stride, channels, BLOCK_C)
    inside = (i < length)[:, None] & (j < length)[None, :]
    to = gram_ptr + (tl.cast(sample, tl.int64) * PARTS + part) * N * N
    tl.store(to + (i.to(tl.int64) * N)[:, None] + j[None, :], products, mask=inside)
    if block_i != block_j:
        tl.store(to + (j.to(tl.int64) * N)[None, :] + i[:, None], products, mask=inside)


@triton.jit
def stored_products(gram_ptr, sample, rows, columns, inside, N, PARTS: tl.constexpr):
    """x_i . y_j as `inner_products` of points rows [R] and columns [S] of the sample, where `inside` [S]."""
    part_ptr = gram_ptr + tl.cast(sample, tl.int64) * PARTS * N * N
    at = (tl.minimum(tl.maximum(rows, 0), N - 1) * N)[:, None] + columns[None, :]  # of at most 8192^2
    products = tl.load(part_ptr + at, mask=inside[None, :], other=0.0)
    for part in range(1, PARTS):
        next_ptr = part_ptr + tl.cast(part, tl.int64) * N * N
        products += tl.load(next_ptr + at, mask=inside[None, :], other=0.0)
    return products


@triton.jit
def norms_kernel(x_ptr, mask_ptr, cu_seqlens_ptr, sample_stride, point_stride, channel_stride, N, total, C,
                 gram_ptr, norms_ptr, blocks,
                 PARTS: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """|x_i|^2 of every point."""
    sample, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    first, length = sample_rows(sample, N, total, cu_seqlens_ptr)
    if block * ROWS >= length:
        return
    i = block * ROWS + tl.arange(0, ROWS)
    point = tl.minimum(i, length - 1).to(tl.int64)
    if PARTS > 0:
        at = gram_ptr + tl.cast(sample, tl.int64) * PARTS * N * N + point * N + point
        norms = tl.load(at)
        for part in range(1, PARTS):
            norms += tl.load(at + tl.cast(part, tl.int64) * N * N)
    else:
        points = sample_pointer(x_ptr, sample, first, sample_stride, point_stride, cu_seqlens_ptr)
        norms = squared_norms(points + point * point_stride, channel_stride, C, BLOCK_C)
    tl.store(norms_ptr + first + i, norms, mask=i < length)
