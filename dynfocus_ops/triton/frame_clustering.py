"""DPC-KNN of many samples of at most MOST_POINTS points, with no distance matrix: x is read a few times.

The rows of a sample go through `density_kernel` in blocks, each against all columns in one tile, and leave a list of
their nearest points. `select_kernel` has a program for each sample. A point with a denser one in its list has its delta
there: only the others, the peaks among their neighbours, need their row of distances again.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dynfocus_ops.triton.distances import cancelled, product_error, squared_distances
from dynfocus_ops.triton.launch import compute_capability, launch
from dynfocus_ops.triton.tile_search import (
    INFINITY,
    farthest_exactly,
    nearest_exactly,
    off_by,
    products_and_squares,
)

MOST_POINTS = 256
# A sample has one program for its selection. Where a point is all of a frame and a video the one sample, the GPU would
# idle: such long rows are better split.
MOST_CHANNELS = 8192


@triton.jit
def density_kernel(
    x_ptr, mask_ptr, noise_ptr, log_density_ptr, squares_ptr, near_ptr, place_ptr, far_ptr,
    sample_stride, point_stride, stride, N, C, k, scale, error,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LISTED: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Of a block of rows of a sample: log density, |x|^2, the nearest points and the farthest."""
    blocks = tl.cdiv(N, ROWS)
    b = (tl.program_id(0) // blocks).to(tl.int64)  # blocks of a sample run side by side: it is read once
    i, j = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    x_ptr += b * sample_stride
    rows = x_ptr + tl.minimum(i, N - 1).to(tl.int64) * point_stride
    columns = x_ptr + tl.minimum(j, N - 1).to(tl.int64) * point_stride
    products, squares = products_and_squares(rows, columns, stride, C, BLOCK_C)
    row_valid, column_valid = i < N, j < N
    if mask_ptr is not None:
        row_valid = tl.load(mask_ptr + b * N + i, mask=row_valid, other=0) != 0
        column_valid = tl.load(mask_ptr + b * N + j, mask=column_valid, other=0) != 0
    same = i[:, None] == j[None, :]
    square = tl.sum(tl.where(same, squares[None, :], 0.0), 1)
    squared = squared_distances(products, square, squares, same)
    far = tl.max(tl.where(column_valid[None, :], squared, 0.0), 1)

    squared = tl.where(column_valid[None, :], squared, INFINITY)
    near, place = nearest_exactly(squared, square, i, k, None, rows, x_ptr, point_stride, stride, C, error, LISTED)
    slot = tl.arange(0, LISTED)
    total = tl.sum(tl.where((slot < k)[None, :], near, 0.0), 1)
    log_density = -(total / k) / scale
    out = b * N + i
    if noise_ptr is not None:
        log_noise = tl.log(tl.load(noise_ptr + out, mask=row_valid, other=0.0))
        higher = tl.maximum(log_density, log_noise)
        log_density = higher + tl.log(1 + tl.exp(tl.minimum(log_density, log_noise) - higher))
    log_density += square - square  # NaN where a point is not finite: its distances may hide it
    inside = i < N
    tl.store(log_density_ptr + out, tl.where(row_valid, log_density, -INFINITY), mask=inside)
    tl.store(squares_ptr + out, square, mask=inside)
    tl.store(far_ptr + out, far, mask=inside)
    lists = out[:, None] * LISTED + slot[None, :]
    tl.store(near_ptr + lists, near, mask=inside[:, None])
    tl.store(place_ptr + lists, tl.minimum(place, N - 1), mask=inside[:, None])


@triton.jit
def is_denser(density, index, than, than_index):
    """Of equals the lower index is."""
    return (density > than) | ((density == than) & (index < than_index))


@triton.jit
def nearest_denser_and_farthest(
    index, is_peak, is_far, largest, x_ptr, points, valid, log_density_ptr, squares_ptr, point_stride, stride, N, C,
    error, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Squared distances of points `index` [R] to all: for peaks [R] to the nearest denser, infinite if none is; and the
    largest of `largest` and of the rows that may have the farthest point."""
    j = tl.arange(0, points.shape[0])
    rows = x_ptr + index.to(tl.int64) * point_stride
    products, _ = products_and_squares(rows, points, stride, C, BLOCK_C)
    square, squares = tl.load(squares_ptr + index), tl.load(squares_ptr + j, mask=j < N, other=0.0)
    density = tl.load(log_density_ptr + index)
    densities = tl.load(log_density_ptr + j, mask=j < N, other=-INFINITY)
    squared = squared_distances(products, square, squares, index[:, None] == j[None, :])
    far = tl.where(is_far[:, None] & valid[None, :], squared, -1.0)
    largest = farthest_exactly(far, square, largest, rows, x_ptr, point_stride, stride, C, error)
    above = is_denser(densities[None, :], j[None, :], density[:, None], index[:, None])
    squared = tl.where(above & valid[None, :] & is_peak[:, None], squared, INFINITY)
    near, _ = nearest_exactly(squared, square, index, 1, None, rows, x_ptr, point_stride, stride, C, error, 1)
    return tl.max(near, 1), largest


@triton.jit
def nearest_center(
    center, is_center, x_ptr, points, valid, square, point_stride, stride, C, error, BLOCK_C: tl.constexpr
):
    """Squared distance [R] from every point to the nearest of some centres [M], and which of them that is."""
    columns = x_ptr + center.to(tl.int64) * point_stride
    products, squares = products_and_squares(points, columns, stride, C, BLOCK_C)
    squared = squared_distances(products, square, squares, tl.full(products.shape, 0, tl.int1))
    squared = tl.where(is_center[None, :], squared, INFINITY)
    nobody = tl.full(square.shape, -1, tl.int32)
    near, place = nearest_exactly(squared, square, nobody, 1, center, points, x_ptr, point_stride, stride, C, error, 1)
    return tl.max(near, 1), tl.max(place, 1)


@triton.jit
def select_kernel(
    x_ptr, mask_ptr, log_density_ptr, squares_ptr, near_ptr, place_ptr, far_ptr,
    assignment_ptr, centers_ptr, delta_ptr, sample_stride, point_stride, stride, N, C, k, num_clusters, scale, error,
    COLUMNS: tl.constexpr, LISTED: tl.constexpr, PEAKS: tl.constexpr, CENTERS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Of a sample: delta, centres and assignment."""
    b = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, COLUMNS)
    at = b * N + i
    valid = i < N
    if mask_ptr is not None:
        valid = tl.load(mask_ptr + at, mask=valid, other=0) != 0
    x_ptr += b * sample_stride
    log_density_ptr += b * N
    squares_ptr += b * N
    points = x_ptr + tl.minimum(i, N - 1).to(tl.int64) * point_stride
    log_density = tl.load(log_density_ptr + i, mask=valid, other=-INFINITY)
    square = tl.load(squares_ptr + i, mask=valid, other=0.0)

    # The largest distance, and the rows that may have it where it has cancelled.
    far = tl.load(far_ptr + at, mask=valid, other=0.0)
    has_cancelled = valid & cancelled(far, 2 * square)
    largest = tl.max(tl.where(has_cancelled, 0.0, far), 0)
    margin = off_by(far, square, error)
    may_be_far = has_cancelled & (far + margin >= tl.max(far - margin, 0))

    slot = tl.arange(0, LISTED)
    lists = at[:, None] * LISTED + slot[None, :]
    near = tl.load(near_ptr + lists, mask=valid[:, None] & (slot < k)[None, :], other=INFINITY)
    place = tl.load(place_ptr + lists, mask=valid[:, None], other=0)
    density = tl.load(log_density_ptr + place)
    squared = tl.min(tl.where(is_denser(density, place, log_density[:, None], i[:, None]), near, INFINITY), 1)
    peak = valid & (squared == INFINITY)
    again = peak | may_be_far
    number = tl.cumsum(again.to(tl.int32), 0) - 1
    count = tl.sum(again.to(tl.int32), 0)
    for first in range(0, count, PEAKS):
        chosen = again[:, None] & (number[:, None] == (first + tl.arange(0, PEAKS))[None, :])  # of one point each
        index = tl.sum(tl.where(chosen, i[:, None], 0), 0)
        is_peak = tl.max((chosen & peak[:, None]).to(tl.int32), 0) > 0
        is_far = tl.max((chosen & may_be_far[:, None]).to(tl.int32), 0) > 0
        to_denser, largest = nearest_denser_and_farthest(
            index, is_peak, is_far, largest, x_ptr, points, valid, log_density_ptr, squares_ptr,
            point_stride, stride, N, C, error, BLOCK_C,
        )  # fmt: skip
        squared = tl.minimum(squared, tl.min(tl.where(chosen, to_denser[None, :], INFINITY), 1))
    squared = tl.where(squared == INFINITY, largest, squared)  # the densest
    delta = tl.sqrt_rn(squared / scale)
    tl.store(delta_ptr + at, tl.where(valid, delta, 0.0), mask=i < N)

    # Valid points first: a duplicate has score -inf too.
    score = tl.where(valid, tl.maximum(log_density + tl.log(delta), -3e38), -INFINITY)
    own = tl.full((COLUMNS,), -1, tl.int32)  # the number of a centre
    assignment = tl.where(valid, 0, -1)
    best = tl.full((COLUMNS,), INFINITY, tl.float32)
    slot = tl.arange(0, CENTERS)
    for first in range(0, num_clusters, CENTERS):
        center = tl.zeros((CENTERS,), tl.int32)
        for m in range(first, tl.minimum(first + CENTERS, num_clusters)):
            highest = tl.argmax(tl.where(own < 0, score, -INFINITY), 0, tie_break_left=True)
            center = tl.where(slot == m - first, tl.minimum(highest, N - 1), center)
            own = tl.where(i == highest, m, own)
        is_center = slot < num_clusters - first
        nearest, joined = nearest_center(
            center, is_center, x_ptr, points, valid, square, point_stride, stride, C, error, BLOCK_C
        )
        assignment = tl.where(valid & (nearest < best), first + joined, assignment)
        best = tl.minimum(best, nearest)
        tl.store(centers_ptr + b * num_clusters + first + slot, center.to(tl.int64), mask=is_center)
    assignment = tl.where(own >= 0, own, assignment)
    is_finite = tl.max((log_density != log_density).to(tl.int32), 0) == 0
    assignment = tl.where(is_finite, assignment, -1)  # nobody's: a sample that cannot be clustered has no means
    tl.store(assignment_ptr + at, assignment.to(tl.int64), mask=i < N)


class Tiles(NamedTuple):
    """Rows of distances at a time, the channels that each kernel reads at a time, and warps."""

    rows: int
    peaks: int
    density_block: int
    select_block: int
    num_warps: int


def tiles(columns: int, dtype: torch.dtype, capability: int) -> Tiles:
    """The largest whose main loops do not spill."""
    if dtype == torch.float32:
        select_block = 32 if capability >= 90 or columns <= 64 else 16
        return Tiles(min(32, columns), 16, 32, select_block, max(4, min(columns // 16, 8)))
    select_block = 64 if columns <= 64 else 32
    return Tiles(min(64, columns), min(32, columns), 64, select_block, max(2, min(columns // 16, 8)))


def takes(x: Tensor) -> bool:
    """Whether the samples of x [B, N, C] are clustered here. Not by their number: that would change a sample's bits."""
    return x.shape[1] <= MOST_POINTS and x.shape[2] <= MOST_CHANNELS


def cluster_frames(
    x: Tensor, num_clusters: int, k: int, mask: Tensor | None, distance_scale: float, noise: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dpc_knn of x [B, N, C] where `takes(x)`: two launches, and 8 bytes of memory for each neighbour of a point."""
    B, N, C = x.shape
    columns, listed = max(16, triton.next_power_of_2(N)), triton.next_power_of_2(k)
    tile = tiles(columns, x.dtype, compute_capability(x))
    mask = None if mask is None else mask.contiguous()
    noise = None if noise is None else noise.contiguous()
    # A sum in a tensor core loses up to a unit of rounding a step, always downwards, unlike the squares beside it.
    error = product_error(C) + C / (8 if x.dtype == torch.float32 else 16) * 2.0**-24

    log_density, delta, squares, far = (x.new_empty((B, N), dtype=torch.float32) for _ in range(4))
    near = x.new_empty((B, N, listed), dtype=torch.float32)
    place = x.new_empty((B, N, listed), dtype=torch.int32)
    assignment = x.new_empty((B, N), dtype=torch.int64)
    centers = x.new_empty((B, num_clusters), dtype=torch.int64)
    found = (log_density, squares, near, place, far)
    sizes = {"COLUMNS": columns, "LISTED": listed, "num_warps": tile.num_warps}
    launch(
        density_kernel, (B * triton.cdiv(N, tile.rows),),
        x, mask, noise, *found, *x.stride(), N, C, k, distance_scale, error,
        ROWS=tile.rows, BLOCK_C=tile.density_block, **sizes,
    )  # fmt: skip
    launch(
        select_kernel, (B,),
        x, mask, *found, assignment, centers, delta, *x.stride(), N, C, k, num_clusters, distance_scale, error,
        PEAKS=tile.peaks, CENTERS=16, BLOCK_C=tile.select_block, **sizes,
    )  # fmt: skip
    return assignment, centers, log_density, delta
