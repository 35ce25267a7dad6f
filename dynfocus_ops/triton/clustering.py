"""Density-peaks clustering of samples: the launches of each stage. Nothing is read back from the GPU."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from dynfocus_ops.triton import farthest, gram, neighbors, peaks
from dynfocus_ops.triton.distances import product_error
from dynfocus_ops.triton.launch import launch
from dynfocus_ops.triton.plans import PROGRAMS, plan, samples_at_once
from dynfocus_ops.triton.samples import Samples

# Candidates beyond those wanted, at least: they make up for errors of fast distances, and for neighbours less dense.
MORE = 3

# Points of a program that works on lists of them, and what it may hold of candidates.
POINTS, CANDIDATES = 128, 2048


class Nearest(NamedTuple):
    """Sorted lists [total, slots] of squared distances and columns, -1 where not known; farthest [splits, total]."""

    squared: Tensor
    columns: Tensor
    farthest: Tensor | None


class Centers(NamedTuple):
    """Flat centres [M in all]: num_clusters of each sample, or those between its bounds cu_clusters [S + 1]."""

    points: Tensor
    num_clusters: int
    bounds: Tensor | None = None


class Rows(NamedTuple):
    """Some points of each sample: their indices [total] from the sample's first row on, and how many [S]."""

    points: Tensor
    counts: Tensor


class Distances:
    """What the stages ask about the distances between the points of samples."""

    def __init__(self, samples: Samples, *, keep_products: bool = True) -> None:
        self.samples = samples
        self.plan = plan(samples, keep_products)
        self.error = product_error(samples.x.shape[-1])
        self._zeros = iter(torch.zeros(8, samples.count, dtype=torch.int32, device=samples.x.device))
        self.gram = self._gram() if self.plan.parts else None
        self.norms = self._norms()

    def counter(self) -> Tensor:
        """A zero for each sample."""
        return next(self._zeros)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.samples.x.device)

    def programs(self, points: int) -> tuple[int, tuple[int]]:
        """Blocks of so many points, and the grid with as many for each sample."""
        blocks = triton.cdiv(self.samples.longest, points)
        return blocks, (blocks * self.samples.count,)

    def _gram(self) -> Tensor:
        samples, plan = self.samples, self.plan
        N, tile = samples.longest, plan.computing
        products = self.empty(samples.count, plan.parts, N, N)
        blocks = triton.cdiv(N, tile.rows)
        channels = triton.cdiv(triton.cdiv(samples.x.shape[-1], plan.parts), tile.block_c) * tile.block_c
        grid = (samples.count * blocks * blocks, plan.parts)
        arguments = (*samples.arguments, products, blocks, channels)
        launch(gram.gram_kernel, grid, *arguments, PARTS=plan.parts, **tile.constants)
        return products

    def _norms(self) -> Tensor:
        norms = self.empty(self.samples.total)
        blocks, grid = self.programs(64)
        constants = {"PARTS": self.plan.parts, "ROWS": 64, "BLOCK_C": self.plan.computing.block_c, "num_warps": 4}
        launch(gram.norms_kernel, grid, *self.samples.arguments, self.gram, norms, blocks, **constants)
        return norms

    def nearest(
        self,
        want: int,
        *,
        wanted: Tensor | None = None,
        rows: Rows | None = None,
        density: Tensor | None = None,
        centers: Centers | None = None,
        with_farthest: bool = False,
        ties: bool = False,
        busy: float = 1.0,
    ) -> Nearest:
        """The `want` nearest columns of each row; or `wanted` [S] of each sample, want at most.

        Args:
            rows: all points unless given.
            density: only denser points count, of equals those of lower index; [total].
            centers: the columns, instead of all points; a centre is nearest to itself, before its duplicates.
            with_farthest: also the largest distance of each row to any valid point.
            ties: whether it matters which of equally near columns are listed.
            busy: the fraction of points that are expected to be rows.
        """
        samples, plan = self.samples, self.plan
        slots = triton.next_power_of_2(want + MORE)
        row_arguments = (rows.points, rows.counts) if rows else (None, None)
        columns = (centers.points, centers.bounds, centers.num_clusters) if centers else (None, None, 0)
        num_columns = centers.num_clusters if centers else samples.longest
        own = -1.0 if centers else 0.0

        tile = plan.scanning(slots)
        blocks, (programs,) = self.programs(tile.rows)
        fill = triton.cdiv(PROGRAMS, max(1, int(busy * programs)))
        splits = min(fill, triton.cdiv(num_columns, tile.columns), 256 // slots)
        shape = (splits, samples.total, slots)
        split_squared, split_columns = self.empty(*shape), self.empty(*shape, dtype=torch.int32)
        far = self.empty(splits, samples.total) if with_farthest else None
        launch(
            neighbors.scan_kernel, (programs, splits), *samples.arguments, self.norms, self.gram, *row_arguments,
            density, *columns, split_squared, split_columns, far, blocks,
            OWN=own, SLOTS=slots, PARTS=plan.parts, COLUMNS=tile.columns, **tile.constants,
        )  # fmt: skip

        squared, found = self.empty(*shape[1:]), self.empty(*shape[1:], dtype=torch.int32)
        is_doubtful, num_doubtful = self.empty(samples.total, dtype=torch.int32), self.counter()
        width = triton.next_power_of_2(splits)
        merged = min(CANDIDATES // (max(width, slots // 4) * slots), 16)  # slots^2 comparisons put a list in order
        blocks, grid = self.programs(merged)
        launch(
            neighbors.merge_kernel, grid, *samples.arguments, self.norms, *row_arguments, *columns,
            split_squared, split_columns, squared, found, is_doubtful, num_doubtful,
            want, wanted, slots, self.error, splits, blocks,
            TIES=ties, SLOTS=slots, SPLITS=width, ROWS=merged, BLOCK_C=64, num_warps=4,
        )  # fmt: skip
        programs = self.few_programs()
        launch(
            neighbors.exact_kernel, (programs * samples.count,), *samples.arguments, *row_arguments, density, *columns,
            squared, found, is_doubtful, num_doubtful, programs,
            OWN=own, SLOTS=slots, COLUMNS=32, BLOCK_C=64, num_warps=4,
            maxnreg=128,  # left to itself, Triton 3.6 takes 64 for float32 and spills
        )  # fmt: skip
        return Nearest(squared, found, far)

    def few_programs(self) -> int:
        """For each sample, of a kernel with nothing to do on ordinary data."""
        return min(self.samples.longest, triton.cdiv(PROGRAMS, self.samples.count))

    def largest(self, split_farthest: Tensor) -> Tensor:
        """The largest squared distance of each sample, as the bits of a float [S]."""
        samples = self.samples
        largest, least, num_doubtful, rows = self.counter(), self.counter(), self.counter(), self.empty(samples.total)
        blocks, grid = self.programs(POINTS)
        launch(
            farthest.farthest_kernel, grid, *samples.layout, self.norms, split_farthest, rows, largest, least,
            num_doubtful, self.error, len(split_farthest), blocks, ROWS=POINTS, num_warps=4,
        )  # fmt: skip
        programs = self.few_programs()
        launch(
            farthest.exact_farthest_kernel, (programs * samples.count,), *samples.arguments, self.norms, rows, largest,
            least, num_doubtful, self.error, programs, COLUMNS=32, BLOCK_C=64, num_warps=4,
        )  # fmt: skip
        return largest


def log_density(
    distances: Distances, nearest: Nearest, k: int, ks: Tensor | None, scale: float, noise: Tensor | None
) -> Tensor:
    """[total], of the k nearest, or of ks [S] for each sample."""
    result = distances.empty(distances.samples.total)
    blocks, grid = distances.programs(POINTS)
    constants = {"SLOTS": nearest.squared.shape[1], "ROWS": POINTS, "num_warps": 4}
    arguments = (nearest.squared, noise, result, k, ks, scale, blocks)
    launch(peaks.log_density_kernel, grid, *distances.samples.layout, *arguments, **constants)
    return result


def finish_delta(
    distances: Distances, nearest: Nearest, rows: Rows | None, largest: Tensor, delta: Tensor, parent: Tensor | None,
    scale: float,
) -> None:  # fmt: skip
    """Writes delta, and parent, of the rows."""
    blocks, grid = distances.programs(POINTS)
    constants = {"SLOTS": nearest.squared.shape[1], "ROWS": POINTS, "num_warps": 4}
    listed = (*(rows or (None, None)), nearest.squared, nearest.columns)
    launch(
        peaks.delta_kernel, grid, *distances.samples.layout, *listed, largest, delta, parent, scale, blocks, **constants
    )


def peak_delta(distances: Distances, near: Nearest, density: Tensor, k: int, scale: float) -> Tensor:
    """delta [total]: of the nearest denser neighbour; peaks, which have none, are compared with every denser point."""
    assert near.farthest is not None
    samples = distances.samples
    delta = distances.empty(samples.total)
    rows = Rows(distances.empty(samples.total, dtype=torch.int32), distances.counter())
    blocks, grid = distances.programs(POINTS)
    constants = {"SLOTS": near.squared.shape[1], "ROWS": POINTS, "num_warps": 4}
    arguments = (near.squared, near.columns, density, delta, *rows, scale, blocks)
    launch(peaks.peaks_kernel, grid, *samples.layout, *arguments, **constants)
    nearest = distances.nearest(1, rows=rows, density=density, busy=1 / (k + MORE))
    finish_delta(distances, nearest, rows, distances.largest(near.farthest), delta, None, scale)
    return delta


def highest_scores(distances: Distances, density: Tensor, delta: Tensor, centers: Centers) -> None:
    """Writes the points of the centres."""
    blocks, grid = distances.programs(32)
    arguments = (density, delta, centers.bounds, centers.num_clusters, centers.points, blocks)
    launch(peaks.centers_kernel, grid, *distances.samples.layout, *arguments, ROWS=32, COLUMNS=POINTS, num_warps=4)


def assign(distances: Distances, centers: Centers) -> Tensor:
    """The nearest centre of each point, int64 [total]."""
    nearest = distances.nearest(1, centers=centers, ties=True)
    assignment = distances.empty(distances.samples.total, dtype=torch.int64)
    blocks, grid = distances.programs(POINTS)
    constants = {"SLOTS": nearest.squared.shape[1], "ROWS": POINTS, "num_warps": 4}
    launch(peaks.assignment_kernel, grid, *distances.samples.layout, nearest.columns, assignment, blocks, **constants)
    return assignment


def cluster(
    samples: Samples, centers: Centers, k: int, ks: Tensor | None, scale: float, noise: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(assignment, log_density, delta), each [total]; writes the points of the centres."""
    distances = Distances(samples)
    near = distances.nearest(k, wanted=ks, with_farthest=True)
    density = log_density(distances, near, k, ks, scale, noise)
    delta = peak_delta(distances, near, density, k, scale)
    highest_scores(distances, density, delta, centers)
    return assign(distances, centers), density, delta


def by_samples(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """function(*tensors), of as many samples at a time as fit the workspace; the first tensor is x [B, N, C]."""
    x = tensors[0]
    assert x is not None
    size = samples_at_once(plan(Samples(x)), x.shape[1]) or len(x)
    if len(x) <= size:
        return function(*tensors)
    starts = range(0, len(x), size)
    parts = [function(*(None if t is None else t[b : b + size] for t in tensors)) for b in starts]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))
