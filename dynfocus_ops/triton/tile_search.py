"""The nearest and the farthest in a tile of squared distances, right whatever the rounding of its products.

A squared distance of the tile is off by at most error (|x|^2 + |y|^2). The best of a row is taken out of the tile one
by one. What has cancelled is computed anew from differences, and a row is done when what is left in its tile cannot be
better than what was found: on ordinary data after as many rounds as are wanted.
"""

import triton
import triton.language as tl

from dynfocus_ops.triton.distances import cancelled, squared_differences
from dynfocus_ops.triton.dot import dot

INFINITY = tl.constexpr(float("inf"))
NOWHERE = tl.constexpr(1 << 30)
DIFFERENCES = tl.constexpr(1024)  # numbers subtracted at a time: more would spill


@triton.jit
def products_and_squares(rows, columns, stride, C, BLOCK_C: tl.constexpr):
    """x_i . y_j [R, S] and |y_j|^2 [S] of points given by pointers, each read once."""
    c = tl.arange(0, BLOCK_C)
    offsets = (c.to(tl.int64) * stride)[None, :]
    products = tl.zeros((rows.shape[0], columns.shape[0]), tl.float32)
    squares = tl.zeros((columns.shape[0],), tl.float32)
    for first in range(0, C, BLOCK_C):
        inside = (first + c < C)[None, :]
        skipped = tl.cast(first, tl.int64) * stride
        x = tl.load(rows[:, None] + offsets + skipped, mask=inside, other=0.0)
        y = tl.load(columns[:, None] + offsets + skipped, mask=inside, other=0.0)
        products = dot(x, tl.trans(y), products)
        squares += tl.sum(y.to(tl.float32) * y.to(tl.float32), 1)
    return products, squares


@triton.jit
def off_by(squared, square, error):
    """How far a fast squared distance from x may be off, given |x|^2: |y|^2 <= (|x| + d)^2 <= 2 |x|^2 + 2 d^2."""
    return error * (3 * square + 2 * squared)


@triton.jit
def needed_differences(needed, rows, x_ptr, point, point_stride, stride, C):
    """|x - y|^2 [R] from rows (pointers) to points. Where not needed, of one row for all, which is in cache."""
    others = tl.where(needed, x_ptr + point.to(tl.int64) * point_stride, x_ptr)
    return squared_differences(tl.where(needed, rows, x_ptr), others, stride, C, DIFFERENCES // rows.shape[0])


@triton.jit
def nearest_exactly(
    squared, square, own, wanted, index, rows, x_ptr, point_stride, stride, C, error, LISTED: tl.constexpr
):
    """The `wanted` nearest columns of each row by fast squared distances [R, S], of equals the lower; infinite is none.

    Args:
        square: |x|^2 of the rows [R].
        own: the column of a row itself, or -1 [R].
        index: the points that are the columns [S]; None for 0 to S - 1.
        rows: pointers [R].

    Returns:
        near, place: squared distances and columns [R, LISTED], in no order; -infinity beyond `wanted`, infinity where
            there are none.
    """
    column, slot = tl.arange(0, squared.shape[1]), tl.arange(0, LISTED)
    near = tl.zeros((squared.shape[0], LISTED), tl.float32) + tl.where(slot < wanted, INFINITY, -INFINITY)[None, :]
    place = tl.zeros((squared.shape[0], LISTED), tl.int32) + (slot + NOWHERE)[None, :]
    farthest = tl.max(near, 1)
    incomplete = 1
    while incomplete > 0:
        least, at = tl.min(squared, 1, return_indices=True, return_indices_tie_break_left=True)
        squared = tl.where(column[None, :] == at[:, None], INFINITY, squared)
        has_cancelled = cancelled(least, 2 * square) & (least < INFINITY)
        at_least = tl.where(has_cancelled, least - off_by(least, square, error), least)
        needed = has_cancelled & (at_least < farthest) & (at != own)
        if tl.max(needed.to(tl.int32), 0) > 0:
            point = at
            if index is not None:
                point = tl.sum(tl.where(column[None, :] == at[:, None], index[None, :], 0), 1)
            differences = needed_differences(needed, rows, x_ptr, point, point_stride, stride, C)
            least = tl.where(needed, differences, least)
        is_farthest = near == farthest[:, None]
        last = tl.max(tl.where(is_farthest, place, -1), 1)
        nearer = (at_least < farthest) & ((least < farthest) | ((least == farthest) & (at < last)))
        replaced = nearer[:, None] & is_farthest & (place == last[:, None])
        near = tl.where(replaced, least[:, None], near)
        place = tl.where(replaced, at[:, None], place)
        farthest = tl.max(near, 1)
        incomplete = tl.max((at_least < farthest).to(tl.int32), 0)
    return near, place


@triton.jit
def farthest_exactly(squared, square, largest, rows, x_ptr, point_stride, stride, C, error):
    """The largest of `largest` and of rows of squared distances [R, S] that have cancelled; negative is none."""
    column = tl.arange(0, squared.shape[1])
    in_question = 1
    while in_question > 0:
        most, at = tl.max(squared, 1, return_indices=True, return_indices_tie_break_left=True)
        squared = tl.where(column[None, :] == at[:, None], -1.0, squared)
        needed = (most >= 0) & (most + off_by(most, square, error) > largest)
        in_question = tl.max(needed.to(tl.int32), 0)
        if in_question > 0:
            differences = needed_differences(needed, rows, x_ptr, at, point_stride, stride, C)
            largest = tl.maximum(largest, tl.max(tl.where(needed, differences, 0.0), 0))
    return largest
