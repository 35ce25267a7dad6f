"""The largest squared distance of each sample, which is the densest point's.

From the largest fast distance of each row, unless that may have cancelled: then rows that may hold the largest are
computed anew from differences. Maxima are over the bits of floats that are not negative, which are ordered as they are:
the same in any order of the programs.
"""

import triton
import triton.language as tl

from dynfocus_ops.triton.distances import TRUST, squared_differences
from dynfocus_ops.triton.samples import are_valid, sample_pointer, sample_rows


@triton.jit
def reach(norms, farthest, error):
    """(squares, error): bounds of |x|^2 + |y|^2, and of the error of |x - y|^2, at the point farthest from x."""
    squares = 3.0 * norms + 2.0 * farthest
    return squares, error * squares


@triton.jit
def keep_largest(largest_ptr, values):
    tl.atomic_max(largest_ptr, tl.max(values.to(tl.int32, bitcast=True), 0))


@triton.jit
def farthest_kernel(mask_ptr, cu_seqlens_ptr, N, total, norms_ptr, split_farthest_ptr, farthest_ptr,
                    largest_ptr, least_ptr, num_doubtful_ptr, error, splits, row_blocks,
                    ROWS: tl.constexpr):  # fmt: skip
    """Of each row not trusted, the largest over the splits, else -1; of each sample, how many rows are not trusted, the
    largest distance of those that are, and what the largest of all is at least."""
    sample, block = tl.program_id(0) // row_blocks, tl.program_id(0) % row_blocks
    first, length = sample_rows(sample, N, total, cu_seqlens_ptr)
    i = block * ROWS + tl.arange(0, ROWS)
    inside = i < length
    farthest = tl.zeros((ROWS,), tl.float32)
    for split in range(splits):
        at = tl.cast(split, tl.int64) * total + first + i
        farthest = tl.maximum(farthest, tl.load(split_farthest_ptr + at, mask=inside, other=0.0))
    norms = tl.load(norms_ptr + first + i, mask=inside, other=0.0)
    counts = are_valid(mask_ptr, first + i, inside)
    squares, off = reach(norms, farthest, error)
    trusted = squares <= TRUST * farthest
    keep_largest(largest_ptr + sample, tl.where(counts & trusted, farthest, 0.0))
    keep_largest(least_ptr + sample, tl.where(counts & (farthest > off), farthest - off, 0.0))
    tl.atomic_add(num_doubtful_ptr + sample, tl.sum((counts & ~trusted).to(tl.int32), 0))
    tl.store(farthest_ptr + first + i, tl.where(counts & ~trusted, farthest, -1.0), mask=inside)


@triton.jit
def exact_farthest_kernel(x_ptr, mask_ptr, cu_seqlens_ptr, sample_stride, point_stride, channel_stride, N, total, C,
                          norms_ptr, farthest_ptr, largest_ptr, least_ptr, num_doubtful_ptr, error, programs,
                          COLUMNS: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """Adds to a sample's largest distance those of rows not trusted (farthest >= 0) that may be larger."""
    sample, program = tl.program_id(0) // programs, tl.program_id(0) % programs
    if tl.load(num_doubtful_ptr + sample) == 0:
        return
    first, length = sample_rows(sample, N, total, cu_seqlens_ptr)
    x_ptr = sample_pointer(x_ptr, sample, first, sample_stride, point_stride, cu_seqlens_ptr)
    least = tl.load(least_ptr + sample).to(tl.float32, bitcast=True)
    for i in range(program, length, programs):
        farthest = tl.load(farthest_ptr + first + i)
        _, off = reach(tl.load(norms_ptr + first + i), farthest, error)
        if (farthest >= 0.0) & (farthest + off >= least):
            row = x_ptr + tl.cast(i, tl.int64) * point_stride + tl.zeros((1,), tl.int64)
            largest = tl.zeros((COLUMNS,), tl.float32)
            for first_column in range(0, length, COLUMNS):
                j = first_column + tl.arange(0, COLUMNS)
                columns = x_ptr + tl.minimum(j, length - 1).to(tl.int64) * point_stride
                squared = squared_differences(row, columns, channel_stride, C, BLOCK_C)
                counts = are_valid(mask_ptr, first + j, j < length)
                largest = tl.where(counts & (squared > largest), squared, largest)
            keep_largest(largest_ptr + sample, largest)
