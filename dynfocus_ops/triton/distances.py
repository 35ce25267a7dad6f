"""Squared distances between points: fast from matrix products, exact from differences.

|x|^2 + |y|^2 - 2 x.y costs one product a channel, and cancels where x and y are close for their length: its error is a
fraction (`product_error`) of |x|^2 + |y|^2. So candidates are ranked by it, and a value that is kept is computed anew
from differences where it has cancelled (`cancelled`). That is never so on ordinary data, which then pays nothing.

Points are given by pointers to their channel 0, all readable: callers clamp what is out of range, and mask the results.
"""

import math

import triton
import triton.language as tl

from dynfocus_ops.triton.dot import dot

# A value is trusted from 1 / TRUST of |x|^2 + |y|^2: three bits are lost to cancellation there.
TRUST = tl.constexpr(8.0)


def product_error(C: int) -> float:
    """How far a fast squared distance may be off, as a fraction of |x|^2 + |y|^2.

    The roundings of a sum of C products, as of a random walk; those that all go one way (tensor cores truncate) are the
    same in the squares, which are summed in the same way, and cancel with them.
    """
    return 2.0**-23 * (4 + math.sqrt(C) / 4)


@triton.jit
def inner_products(rows, columns, stride, C, BLOCK_C: tl.constexpr):
    """x_i . y_j as float32 [R, S] for points rows [R] and columns [S], their channels `stride` apart."""
    c = tl.arange(0, BLOCK_C)
    offsets = c.to(tl.int64) * stride
    row_channels = rows[:, None] + offsets[None, :]
    column_channels = columns[None, :] + offsets[:, None]
    sums = tl.zeros((rows.shape[0], columns.shape[0]), tl.float32)
    for first in range(0, C, BLOCK_C):
        inside = first + c < C
        skipped = tl.cast(first, tl.int64) * stride
        x = tl.load(row_channels + skipped, mask=inside[None, :], other=0.0)
        y = tl.load(column_channels + skipped, mask=inside[:, None], other=0.0)
        sums = dot(x, y, sums)
    return sums


@triton.jit
def squared_norms(rows, stride, C, BLOCK_C: tl.constexpr):
    """|x_i|^2 as float32 [R], summed as `inner_products` sums: equal points cancel in the same way everywhere."""
    i = tl.arange(0, rows.shape[0])
    products = inner_products(rows, rows, stride, C, BLOCK_C)
    return tl.sum(tl.where(i[:, None] == i[None, :], products, 0.0), 1)


@triton.jit
def squared_distances(products, row_norms, column_norms, same):
    """|x_i - y_j|^2 from products x_i . y_j [R, S] and squares [R], [S]; 0 where the two are the `same` point [R, S].

    NaN stays NaN, and a point that is not finite is at NaN from itself.
    """
    squares = row_norms[:, None] + column_norms[None, :]
    squared = squares - 2.0 * products
    squared = tl.where(squared < 0.0, 0.0, squared)
    return tl.where(same, squares - squares, squared)


@triton.jit
def cancelled(squared, squares):
    """Whether a fast squared distance is too small for |x|^2 + |y|^2 = `squares` to be trusted."""
    return squares > TRUST * squared


@triton.jit
def squared_differences(rows, columns, stride, C, BLOCK_C: tl.constexpr):
    """sum_c (x_ic - y_ic)^2 as float32 [R] for pairs of points rows [R] and columns [R], or of one shape to broadcast.

    No cancellation: exactly 0 for equal points, the same bits for (x, y) and (y, x).
    """
    c = tl.arange(0, BLOCK_C)
    offsets = c.to(tl.int64) * stride
    row_channels = rows[:, None] + offsets[None, :]
    column_channels = columns[:, None] + offsets[None, :]
    sums = tl.zeros(column_channels.shape, tl.float32)
    for first in range(0, C, BLOCK_C):
        inside = (first + c < C)[None, :]
        skipped = tl.cast(first, tl.int64) * stride
        x = tl.load(row_channels + skipped, mask=inside, other=0.0).to(tl.float32)
        y = tl.load(column_channels + skipped, mask=inside, other=0.0).to(tl.float32)
        sums += (x - y) * (x - y)
    return tl.sum(sums, 1)


@triton.jit
def mended(squared, needed, rows, columns, stride, C, BLOCK_C: tl.constexpr):
    """`squared` [R], where `needed` computed anew from the differences of rows [R] and columns [R]."""
    if tl.max(needed.to(tl.int32), 0) > 0:
        squared = tl.where(needed, squared_differences(rows, columns, stride, C, BLOCK_C), squared)
    return squared
