"""Densities, the distances of points to denser ones, and the points of highest score."""

import triton
import triton.language as tl

from dynfocus_ops.triton.neighbors import INFINITY, column_count, is_denser, row_points
from dynfocus_ops.triton.samples import are_valid, sample_rows


@triton.jit
def log_density_kernel(mask_ptr, cu_seqlens_ptr, N, total, squared_ptr, noise_ptr, log_density_ptr, k, k_ptr, scale,
                       row_blocks, SLOTS: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """log rho = -mean of the first k of the sorted squared distances [total, SLOTS] / scale, or log(rho + noise)."""
    sample, block = tl.program_id(0) // row_blocks, tl.program_id(0) % row_blocks
    first, length = sample_rows(sample, N, total, cu_seqlens_ptr)
    i, slot = block * ROWS + tl.arange(0, ROWS), tl.arange(0, SLOTS)
    inside = i < length
    neighbors = k if k_ptr is None else tl.load(k_ptr + sample)
    is_near = inside[:, None] & (slot < neighbors)[None, :]
    squared = tl.load(squared_ptr + (first + i)[:, None] * SLOTS + slot[None, :], mask=is_near, other=0.0)
    log_density = -tl.sum(squared, 1) / (neighbors * scale)
    if noise_ptr is not None:
        noise = tl.load(noise_ptr + first + i, mask=inside, other=0.0)
        log_noise = tl.log(tl.where(noise > 0.0, noise, 1.0))
        low, high = tl.minimum(log_density, log_noise), tl.maximum(log_density, log_noise)
        log_density = tl.where(noise > 0.0, high + tl.log(1.0 + tl.exp(low - high)), log_density)
    counts = are_valid(mask_ptr, first + i, inside)
    tl.store(log_density_ptr + first + i, tl.where(counts, log_density, -INFINITY), mask=inside)


@triton.jit
def peaks_kernel(mask_ptr, cu_seqlens_ptr, N, total, squared_ptr, neighbor_ptr, log_density_ptr, delta_ptr, peak_ptr,
                 num_peaks_ptr, scale, row_blocks, SLOTS: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """delta of the points with a denser one among their neighbours; the others, the peaks, are listed.

    Each program takes the next places in the list: their order, which nothing depends on, is that of the programs.
    """
    sample, block = tl.program_id(0) // row_blocks, tl.program_id(0) % row_blocks
    first, length = sample_rows(sample, N, total, cu_seqlens_ptr)
    i, slot = block * ROWS + tl.arange(0, ROWS), tl.arange(0, SLOTS)
    inside = i < length
    counts = are_valid(mask_ptr, first + i, inside)
    at = (first + i)[:, None] * SLOTS + slot[None, :]
    neighbor = tl.load(neighbor_ptr + at, mask=inside[:, None], other=-1)
    known = neighbor >= 0
    squared = tl.load(squared_ptr + at, mask=known, other=INFINITY)
    density = tl.load(log_density_ptr + first + i, mask=inside, other=0.0)
    other_density = tl.load(log_density_ptr + first + neighbor, mask=known, other=-INFINITY)
    denser = known & is_denser(density[:, None], i[:, None], other_density, neighbor)
    nearest = tl.min(tl.where(denser, squared, INFINITY), 1)
    is_peak = counts & (nearest == INFINITY)
    tl.store(delta_ptr + first + i, tl.where(counts, tl.sqrt(nearest / scale), 0.0), mask=inside & ~is_peak)
    number = tl.sum(is_peak.to(tl.int32), 0)
    start = tl.atomic_add(num_peaks_ptr + sample, number)
    place = start + tl.cumsum(is_peak.to(tl.int32), 0) - 1
    tl.store(peak_ptr + first + place, i, mask=is_peak)


@triton.jit
def delta_kernel(mask_ptr, cu_seqlens_ptr, N, total, rows_ptr, num_rows_ptr, squared_ptr, column_ptr, largest_ptr,
                 delta_ptr, parent_ptr, scale, row_blocks, SLOTS: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """delta, and the parent, of the rows whose nearest denser point is the first of its list; the densest has none."""
    sample, block = tl.program_id(0) // row_blocks, tl.program_id(0) % row_blocks
    first, length = sample_rows(sample, N, total, cu_seqlens_ptr)
    num_rows = length if num_rows_ptr is None else tl.load(num_rows_ptr + sample)
    row = block * ROWS + tl.arange(0, ROWS)
    inside = row < num_rows
    i = row_points(row, num_rows, first, rows_ptr)
    counts = are_valid(mask_ptr, first + i, inside)
    squared = tl.load(squared_ptr + (first + row) * SLOTS, mask=inside, other=0.0)
    denser = tl.load(column_ptr + (first + row) * SLOTS, mask=inside, other=-1)
    largest = tl.load(largest_ptr + sample).to(tl.float32, bitcast=True)
    delta = tl.sqrt(tl.where(denser < 0, largest, squared) / scale)
    tl.store(delta_ptr + first + i, tl.where(counts, delta, 0.0), mask=inside)
    if parent_ptr is not None:
        parent = tl.where(counts, tl.where(denser < 0, i, denser), -1)
        tl.store(parent_ptr + first + i, parent.to(tl.int64), mask=inside)


@triton.jit
def scores_of(mask_ptr, log_density_ptr, delta_ptr, first, i, inside):
    """(counts, log rho + log delta): what the centres are chosen by. NaN, which would have no rank, is the lowest."""
    counts = are_valid(mask_ptr, first + i, inside)
    delta = tl.load(delta_ptr + first + i, mask=inside, other=0.0)
    score = tl.load(log_density_ptr + first + i, mask=inside, other=0.0) + tl.log(delta)
    return counts.to(tl.int32), tl.where(score == score, score, -INFINITY)


@triton.jit
def centers_kernel(mask_ptr, cu_seqlens_ptr, N, total, log_density_ptr, delta_ptr, cu_clusters_ptr, num_clusters,
                   centers_ptr, row_blocks, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """Centre m is the point that m points come before: those of higher score, of equals the lower; masked out last."""
    sample, block = tl.program_id(0) // row_blocks, tl.program_id(0) % row_blocks
    first, length = sample_rows(sample, N, total, cu_seqlens_ptr)
    first_center, count = column_count(sample, length, centers_ptr, cu_clusters_ptr, num_clusters)
    i = block * ROWS + tl.arange(0, ROWS)
    counts, score = scores_of(mask_ptr, log_density_ptr, delta_ptr, first, i, i < length)
    rank = tl.zeros((ROWS,), tl.int32)
    for first_column in range(0, length, COLUMNS):
        j = first_column + tl.arange(0, COLUMNS)
        other_counts, other_score = scores_of(mask_ptr, log_density_ptr, delta_ptr, first, j, j < length)
        higher = is_denser(score[:, None], i[:, None], other_score[None, :], j[None, :])
        before = (other_counts[None, :] > counts[:, None]) | ((other_counts[None, :] == counts[:, None]) & higher)
        rank += tl.sum((before & (j < length)[None, :]).to(tl.int32), 1)
    center = i if cu_seqlens_ptr is None else first + i
    tl.store(centers_ptr + first_center + rank, center.to(tl.int64), mask=(i < length) & (rank < count))


@triton.jit
def assignment_kernel(mask_ptr, cu_seqlens_ptr, N, total, column_ptr, assignment_ptr, row_blocks,
                      SLOTS: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """The first centre of each list; the first of all where distances to all of them overflow."""
    sample, block = tl.program_id(0) // row_blocks, tl.program_id(0) % row_blocks
    first, length = sample_rows(sample, N, total, cu_seqlens_ptr)
    i = block * ROWS + tl.arange(0, ROWS)
    inside = i < length
    nearest = tl.maximum(tl.load(column_ptr + (first + i) * SLOTS, mask=inside, other=0), 0)
    counts = are_valid(mask_ptr, first + i, inside)
    tl.store(assignment_ptr + first + i, tl.where(counts, nearest, -1).to(tl.int64), mask=inside)
