"""The nearest columns of each row, of equals the lower column: neighbours, denser points, centres.

A list of SLOTS candidates is kept for each row by the fast squared distance, a few more than wanted (`scan_kernel`). It
is then mended and sorted (`merge_kernel`). A column outside the list is no nearer than the farthest candidate, less the
error of a fast distance: what is certainly nearer than that is right. Where that is not enough, for points very
close together for their length, the row is computed anew from differences (`exact_kernel`).

Rows are points, or those that rows_ptr lists (num_rows_ptr of them); columns are points, or the sample's centres, or,
with density_ptr, the points denser than the row.
"""

import triton
import triton.language as tl

from dynfocus_ops.triton.distances import (
    cancelled,
    inner_products,
    squared_differences,
    squared_distances,
)
from dynfocus_ops.triton.gram import stored_products
from dynfocus_ops.triton.samples import are_valid, sample_pointer, sample_rows

INFINITY = tl.constexpr(float("inf"))
NOWHERE = tl.constexpr(2**31 - 1)


@triton.jit
def column_count(sample, length, centers_ptr, cu_clusters_ptr, num_clusters):
    """(first, count): of the sample's centres; without any, count is the number of points."""
    if centers_ptr is None:
        return tl.cast(0, tl.int64), length
    elif cu_clusters_ptr is None:
        return tl.cast(sample, tl.int64) * num_clusters, num_clusters
    else:
        first = tl.load(cu_clusters_ptr + sample)
        return first, (tl.load(cu_clusters_ptr + sample + 1) - first).to(tl.int32)


@triton.jit
def column_points(columns, count, first, length, centers_ptr, first_center, cu_seqlens_ptr):
    """The points of `columns`, some point for those out of range."""
    if centers_ptr is None:
        points = columns
    else:
        center = tl.load(centers_ptr + first_center + tl.minimum(tl.maximum(columns, 0), count - 1))
        points = (center if cu_seqlens_ptr is None else center - first).to(tl.int32)
    return tl.minimum(tl.maximum(points, 0), length - 1)


@triton.jit
def row_points(rows, count, first, rows_ptr):
    """The points of `rows`, some point for those out of range."""
    rows = tl.minimum(rows, count - 1)
    return rows if rows_ptr is None else tl.load(rows_ptr + first + rows)


@triton.jit
def is_denser(density, point, other_density, other):
    """Whether `other` is denser than `point`; of equals the lower index is."""
    return (other_density > density) | ((other_density == density) & (other < point))


@triton.jit
def empty_list(R: tl.constexpr, SLOTS: tl.constexpr):
    """Slots [R, SLOTS] at infinity, their columns distinct and after all others."""
    column = NOWHERE - tl.arange(0, SLOTS)
    return tl.full((R, SLOTS), INFINITY, tl.float32), tl.zeros((R, SLOTS), tl.int32) + column[None, :]


@triton.jit
def keep_nearest(squared, first_column, listed, listed_columns):
    """Puts what is nearer of squared [R, S], the columns from first_column on, in place of the list's farthest.

    One of each row a round, until no row improves: soon, once the lists have settled.
    """
    column = tl.arange(0, squared.shape[1])
    improved = 1
    while improved > 0:
        least, at = tl.min(squared, 1, return_indices=True, return_indices_tie_break_left=True)
        farthest = tl.max(listed, 1)
        is_farthest = listed == farthest[:, None]
        last = tl.max(tl.where(is_farthest, listed_columns, -1), 1)
        is_nearer = (least < farthest) | ((least == farthest) & (first_column + at < last) & (least < INFINITY))
        replaced = is_nearer[:, None] & is_farthest & (listed_columns == last[:, None])
        listed = tl.where(replaced, least[:, None], listed)
        listed_columns = tl.where(replaced, first_column + at[:, None], listed_columns)
        squared = tl.where(is_nearer[:, None] & (column[None, :] == at[:, None]), INFINITY, squared)
        improved = tl.max(is_nearer.to(tl.int32), 0)
    return listed, listed_columns


@triton.jit
def scan_kernel(x_ptr, mask_ptr, cu_seqlens_ptr, sample_stride, point_stride, channel_stride, N, total, C,
                norms_ptr, gram_ptr, rows_ptr, num_rows_ptr, density_ptr, centers_ptr, cu_clusters_ptr, num_clusters,
                squared_ptr, column_ptr, farthest_ptr, row_blocks,
                OWN: tl.constexpr, SLOTS: tl.constexpr, PARTS: tl.constexpr,
                ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """Candidates [splits, total, SLOTS] of each row, in no order, and the largest distance [splits, total] of a row.

    A split is every so many blocks of columns. OWN is the distance of a point to itself: 0, or -1 to be nearest of all.
    """
    sample, block = tl.program_id(0) // row_blocks, tl.program_id(0) % row_blocks
    split, splits = tl.program_id(1), tl.num_programs(1)
    first, length = sample_rows(sample, N, total, cu_seqlens_ptr)
    num_rows = length if num_rows_ptr is None else tl.load(num_rows_ptr + sample)
    if block * ROWS >= num_rows:
        return
    first_center, num_columns = column_count(sample, length, centers_ptr, cu_clusters_ptr, num_clusters)
    x_ptr = sample_pointer(x_ptr, sample, first, sample_stride, point_stride, cu_seqlens_ptr)

    row = block * ROWS + tl.arange(0, ROWS)
    i = row_points(row, num_rows, first, rows_ptr)
    row_norms = tl.load(norms_ptr + first + i)
    listed, listed_columns = empty_list(ROWS, SLOTS)
    farthest = tl.zeros((ROWS,), tl.float32)
    for first_column in range(split * COLUMNS, num_columns, splits * COLUMNS):
        column = first_column + tl.arange(0, COLUMNS)
        j = column_points(column, num_columns, first, length, centers_ptr, first_center, cu_seqlens_ptr)
        if PARTS > 0:
            stored = column if centers_ptr is None else j  # contiguous, for wide loads
            products = stored_products(gram_ptr, sample, i, stored, column < num_columns, N, PARTS)
        else:
            rows, columns = x_ptr + i.to(tl.int64) * point_stride, x_ptr + j.to(tl.int64) * point_stride
            products = inner_products(rows, columns, channel_stride, C, BLOCK_C)
        column_norms = tl.load(norms_ptr + first + j)
        is_own = i[:, None] == j[None, :]
        squared = squared_distances(products, row_norms, column_norms, is_own)
        squared = tl.where(squared < INFINITY, squared, INFINITY)
        counts = are_valid(mask_ptr, first + j, column < num_columns)[None, :]
        if farthest_ptr is not None:
            farthest = tl.maximum(farthest, tl.max(tl.where(counts, squared, 0.0), 1))
        if density_ptr is not None:
            row_density, column_density = tl.load(density_ptr + first + i), tl.load(density_ptr + first + j)
            counts = counts & is_denser(row_density[:, None], i[:, None], column_density[None, :], j[None, :])
        if OWN != 0:
            squared = tl.where(is_own, OWN + squared, squared)
        squared = tl.where(counts, squared, INFINITY)
        listed, listed_columns = keep_nearest(squared, first_column, listed, listed_columns)

    at = tl.cast(split, tl.int64) * total + first + row
    inside = row < num_rows
    slots = at[:, None] * SLOTS + tl.arange(0, SLOTS)[None, :]
    tl.store(squared_ptr + slots, listed, mask=inside[:, None])
    tl.store(column_ptr + slots, listed_columns, mask=inside[:, None])
    if farthest_ptr is not None:
        tl.store(farthest_ptr + at, farthest, mask=inside)


@triton.jit
def store_sorted(squared, columns, certain, want, squared_ptr, column_ptr, first_slots, inside, TIES: tl.constexpr):
    """Stores lists [R, SLOTS] in order, column -1 where no column is known; whether the first `want` are right.

    Right is what is nearer than `certain` [R], what no other column is nearer than; 0 is too, if ties do not matter.
    """
    earlier = (squared[:, None, :] < squared[:, :, None]) | (
        (squared[:, None, :] == squared[:, :, None]) & (columns[:, None, :] < columns[:, :, None])
    )
    place = tl.sum(earlier.to(tl.int32), 2)
    is_right = (squared < certain[:, None]) | (certain == INFINITY)[:, None]
    if not TIES:
        is_right = is_right | (squared <= 0.0)
    at = first_slots[:, None] + place
    tl.store(squared_ptr + at, squared, mask=inside[:, None])
    tl.store(column_ptr + at, tl.where(is_right & (squared < INFINITY), columns, -1), mask=inside[:, None])
    return tl.sum(((place < want) & ~is_right).to(tl.int32), 1) == 0


@triton.jit
def nearest_in_order(squared, columns, slots, SLOTS: tl.constexpr):
    """The list [R, SLOTS] of the nearest of [R, S], the lower column of equals."""
    listed, listed_columns = empty_list(squared.shape[0], SLOTS)
    for number in range(slots):
        least = tl.min(squared, 1)[:, None]
        column = tl.min(tl.where(squared == least, columns, NOWHERE), 1)[:, None]
        squared = tl.where(columns == column, INFINITY, squared)
        is_slot = (tl.arange(0, SLOTS) == number)[None, :] & (least < INFINITY)
        listed = tl.where(is_slot, least, listed)
        listed_columns = tl.where(is_slot, column, listed_columns)
    return listed, listed_columns


@triton.jit
def merge_kernel(x_ptr, mask_ptr, cu_seqlens_ptr, sample_stride, point_stride, channel_stride, N, total, C,
                 norms_ptr, rows_ptr, num_rows_ptr, centers_ptr, cu_clusters_ptr, num_clusters,
                 split_squared_ptr, split_column_ptr, squared_ptr, column_ptr, is_doubtful_ptr, num_doubtful_ptr,
                 want, want_ptr, slots, error, splits, row_blocks,
                 TIES: tl.constexpr, SLOTS: tl.constexpr, SPLITS: tl.constexpr,
                 ROWS: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """The SLOTS nearest candidates of all splits, mended, in order; which rows are doubtful even so, and how many."""
    sample, block = tl.program_id(0) // row_blocks, tl.program_id(0) % row_blocks
    first, length = sample_rows(sample, N, total, cu_seqlens_ptr)
    num_rows = length if num_rows_ptr is None else tl.load(num_rows_ptr + sample)
    if block * ROWS >= num_rows:
        return
    first_center, num_columns = column_count(sample, length, centers_ptr, cu_clusters_ptr, num_clusters)
    x_ptr = sample_pointer(x_ptr, sample, first, sample_stride, point_stride, cu_seqlens_ptr)

    row = block * ROWS + tl.arange(0, ROWS)
    i = row_points(row, num_rows, first, rows_ptr)
    inside = row < num_rows
    counts = are_valid(mask_ptr, first + i, inside)
    norms = tl.load(norms_ptr + first + i)
    rows = x_ptr + i.to(tl.int64) * point_stride

    slot = tl.arange(0, SPLITS * SLOTS)
    at = (slot // SLOTS)[None, :].to(tl.int64) * total + (first + row)[:, None]
    found = inside[:, None] & (slot // SLOTS < splits)[None, :]
    candidates = tl.load(split_squared_ptr + at * SLOTS + (slot % SLOTS)[None, :], mask=found, other=INFINITY)
    columns = tl.load(split_column_ptr + at * SLOTS + (slot % SLOTS)[None, :], mask=found, other=NOWHERE)
    if SPLITS > 1:
        listed, listed_columns = nearest_in_order(candidates, columns, slots, SLOTS)
    else:
        listed, listed_columns = candidates, columns
    farthest = tl.max(listed, 1)

    slot = tl.arange(0, SLOTS)
    j = column_points(listed_columns, num_columns, first, length, centers_ptr, first_center, cu_seqlens_ptr)
    squares = norms[:, None] + tl.load(norms_ptr + first + j)
    is_known = counts[:, None] & (listed < INFINITY) & (i[:, None] != j)
    needed = (is_known & cancelled(listed, squares)).to(tl.int32)
    if tl.max(tl.max(needed, 1), 0) > 0:
        for number in range(slots):
            is_slot = (slot == number)[None, :]
            others = x_ptr + tl.sum(tl.where(is_slot, j, 0), 1).to(tl.int64) * point_stride
            differences = squared_differences(rows, others, channel_stride, C, BLOCK_C)
            listed = tl.where(is_slot & (needed > 0), differences[:, None], listed)

    # A column not listed, but nearer than `farthest`, has |y|^2 <= (|x| + |x - y|)^2 <= 2 |x|^2 + 2 |x - y|^2.
    certain = tl.where(farthest < INFINITY, farthest - error * (3.0 * norms + 2.0 * farthest), INFINITY)
    wanted = want if want_ptr is None else tl.load(want_ptr + sample)
    first_slots = (first + row) * SLOTS
    right = store_sorted(listed, listed_columns, certain, wanted, squared_ptr, column_ptr, first_slots, inside, TIES)
    is_doubtful = (counts & ~right).to(tl.int32)
    tl.store(is_doubtful_ptr + first + row, is_doubtful, mask=inside)
    number = tl.sum(is_doubtful, 0)
    if number > 0:
        tl.atomic_add(num_doubtful_ptr + sample, number)


@triton.jit
def exact_kernel(x_ptr, mask_ptr, cu_seqlens_ptr, sample_stride, point_stride, channel_stride, N, total, C,
                 rows_ptr, num_rows_ptr, density_ptr, centers_ptr, cu_clusters_ptr, num_clusters,
                 squared_ptr, column_ptr, is_doubtful_ptr, num_doubtful_ptr, programs,
                 OWN: tl.constexpr, SLOTS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """The lists of doubtful rows, from differences to all columns. A sample without any costs one load."""
    sample, program = tl.program_id(0) // programs, tl.program_id(0) % programs
    if tl.load(num_doubtful_ptr + sample) == 0:
        return
    first, length = sample_rows(sample, N, total, cu_seqlens_ptr)
    num_rows = length if num_rows_ptr is None else tl.load(num_rows_ptr + sample)
    first_center, num_columns = column_count(sample, length, centers_ptr, cu_clusters_ptr, num_clusters)
    x_ptr = sample_pointer(x_ptr, sample, first, sample_stride, point_stride, cu_seqlens_ptr)
    for row in range(program, num_rows, programs):
        if tl.load(is_doubtful_ptr + first + row) != 0:
            i = row_points(row + tl.arange(0, 1), num_rows, first, rows_ptr)
            listed, listed_columns = empty_list(1, SLOTS)
            for first_column in range(0, num_columns, COLUMNS):
                column = first_column + tl.arange(0, COLUMNS)
                j = column_points(column, num_columns, first, length, centers_ptr, first_center, cu_seqlens_ptr)
                columns = x_ptr + j.to(tl.int64) * point_stride
                squared = squared_differences(
                    x_ptr + i.to(tl.int64) * point_stride, columns, channel_stride, C, BLOCK_C
                )
                squared = tl.where(i == j, OWN + squared, squared)
                counts = are_valid(mask_ptr, first + j, column < num_columns)
                if density_ptr is not None:
                    density = tl.load(density_ptr + first + i)
                    counts = counts & is_denser(density, i, tl.load(density_ptr + first + j), j)
                squared = tl.where(counts & (squared < INFINITY), squared, INFINITY)
                listed, listed_columns = keep_nearest(squared[None, :], first_column, listed, listed_columns)
            first_slots = (first + row) * SLOTS + tl.zeros((1,), tl.int64)
            certain = tl.full((1,), INFINITY, tl.float32)
            inside = tl.full((1,), 1, tl.int1)
            store_sorted(listed, listed_columns, certain, 0, squared_ptr, column_ptr, first_slots, inside, True)
