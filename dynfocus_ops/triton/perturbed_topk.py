"""The perturbed top-k indicator and its gradient: noise is drawn in registers, again wherever it is needed.

A program takes a tile of samples with all L of their numbers, or, of longer rows, one sample at a time in blocks of L.
Counts are integers, so that the order of their additions is free. Sums over samples are in float64, in parts and in an
order that depend on (n, L) alone.

In the kernels n samples come from `draws` draws: n, or for antithetic samples n / 2. `source_ptr` is what Z comes from:
a seed, int64 [], or the noise itself, float [B, n, L].
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dynfocus_ops.triton.launch import launch
from dynfocus_ops.triton.philox import normal

TILE = 2048  # numbers of noise at a time
SAMPLES = 32  # of a tile, at most: few and short rows are spread over more programs
COLUMNS = 32  # of L at a time in the last sum
MAX_CHUNKS = tl.constexpr(32)  # parts of a sum over the samples
BINS = tl.constexpr(256)


@triton.jit
def draw(source_ptr, b, s, place, n, draws, L, valid):
    """Z of samples s [S, 1] at places [1, BLOCK] of row b; the second half of antithetic samples has -Z."""
    at = (b * n + s % draws) * L + place
    if source_ptr.dtype.element_ty == tl.int64:
        z = normal(tl.load(source_ptr), at)
    else:
        z = tl.load(source_ptr + at, mask=valid, other=0.0).to(tl.float32)
    return tl.where(s < draws, z, -z)


@triton.jit
def draw_keys(scores_ptr, source_ptr, b, s, place, n, draws, L, sigma):
    """Z, and keys of scores + sigma Z: uint32 in the order of the numbers.

    NaN is above all, the two zeros are equal; the key of what is beyond n or L is 0, that of no number.
    """
    valid = (s < n) & (place < L)
    z = draw(source_ptr, b, s, place, n, draws, L, valid)
    value = tl.load(scores_ptr + b * L + place, mask=place < L, other=0.0).to(tl.float32) + sigma * z
    value = tl.where(value == 0.0, 0.0, value)
    bits = value.to(tl.uint32, bitcast=True)
    key = tl.where(bits >= 0x80000000, bits ^ 0xFFFFFFFF, bits ^ 0x80000000)
    key = tl.where(value == value, key, 0xFFFFFFFF)
    return z, tl.where(valid, key, 0)


@triton.jit
def kth_of_tile(key, k):
    """The k-th largest key of each sample [S, 1], by bisection on its bits, and how many are above it."""
    kth = tl.zeros((key.shape[0], 1), tl.uint32)
    bit = tl.full((1, 1), 1 << 31, tl.uint32)
    for _ in range(32):
        candidate = kth | bit
        reached = tl.sum((key >= candidate).to(tl.int32), 1, keep_dims=True)
        kth = tl.where(reached >= k, candidate, kth)
        bit = bit >> 1
    return kth, tl.sum((key > kth).to(tl.int32), 1, keep_dims=True)


@triton.jit
def kth_of_blocks(scores_ptr, source_ptr, b, s, n, draws, L, k, sigma, BLOCK: tl.constexpr):
    """The same of one sample s [1, 1], however long: all its noise four times, for a histogram of each digit."""
    bins = tl.arange(0, BINS)
    kth = tl.zeros((1, 1), tl.uint32)
    above = 0
    for step in range(4):
        shift = 24 - 8 * step
        counts = tl.zeros((BINS,), tl.int32)
        for first in range(0, L, BLOCK):
            place = first + tl.arange(0, BLOCK)[None, :]
            _, key = draw_keys(scores_ptr, source_ptr, b, s, place, n, draws, L, sigma)
            digit = tl.ravel((key ^ kth) >> shift)  # below BINS where the digits before are those of kth
            counts += tl.histogram(digit.to(tl.int32), BINS, mask=(digit < BINS) & tl.ravel(place < L))
        larger = above + tl.sum(counts) - tl.cumsum(counts, 0)
        chosen = (larger < k) & (larger + counts >= k)  # one bin
        kth = kth | (tl.sum(tl.where(chosen, bins, 0)).to(tl.uint32) << shift)
        above = tl.sum(tl.where(chosen, larger, 0))
    return kth, above


@triton.jit
def choose_kernel(
    out_ptr, grad_ptr, scores_ptr, source_ptr, n, draws, L, k, sigma, chunks, tiles,
    grad_stride_b, grad_stride_j, grad_stride_l,
    S: tl.constexpr, BLOCK: tl.constexpr, TILED: tl.constexpr, PURPOSE: tl.constexpr,
):  # fmt: skip
    """Chooses the top-k of `tiles` tiles of S samples of a row. Of the j-th choice of a sample s,

    "counts" adds 1 to out[b, j, place], of [B, k, L],
    "weights" adds G[b, j, place] to w_s = out[b, s], of [B, n],
    "diagonal" adds G[b, j, place] Z_s[place] to out[b, chunk, place], of [B, chunks, L].
    """
    b = (tl.program_id(0) // chunks).to(tl.int64)
    chunk = tl.program_id(0) % chunks
    for tile in range(tiles):
        s = (chunk * tiles + tile) * S + tl.arange(0, S)[:, None]
        if TILED:
            end = BLOCK  # one turn of the loop below: it uses what is drawn here
            _, key = draw_keys(scores_ptr, source_ptr, b, s, tl.arange(0, BLOCK)[None, :], n, draws, L, sigma)
            kth, num_above = kth_of_tile(key, k)
        else:
            end = L
            kth, num_above = kth_of_blocks(scores_ptr, source_ptr, b, s, n, draws, L, k, sigma, BLOCK)
        spare = k - num_above  # of the keys that equal the k-th, the first so many are chosen
        above = tl.zeros((S, 1), tl.int32)  # how many keys of the blocks before are above the k-th
        equal = tl.zeros((S, 1), tl.int32)
        weight = tl.zeros((S, 1), tl.float64)
        for first in range(0, end, BLOCK):
            place = first + tl.arange(0, BLOCK)[None, :]
            z, key = draw_keys(scores_ptr, source_ptr, b, s, place, n, draws, L, sigma)
            is_equal = (key == kth) & (s < n) & (place < L)
            kinds = (key > kth).to(tl.int32) + is_equal.to(tl.int32) * (1 << 16)  # one sum counts both
            running = tl.cumsum(kinds, 1)
            num_equal = equal + (running >> 16)
            chosen = (key > kth) | (is_equal & (num_equal <= spare))
            j = above + (running & 0xFFFF) + tl.minimum(num_equal, spare) - 1
            total = tl.sum(kinds, 1, keep_dims=True)
            above += total & 0xFFFF
            equal += total >> 16
            if PURPOSE == "counts":
                tl.atomic_add(out_ptr + (b * k + j) * L + place, chosen.to(tl.int32), mask=chosen, sem="relaxed")
            else:
                at = b * grad_stride_b + j.to(tl.int64) * grad_stride_j + place.to(tl.int64) * grad_stride_l
                picked = tl.load(grad_ptr + at, mask=chosen, other=0.0).to(tl.float64)
                if PURPOSE == "weights":
                    weight += tl.sum(picked, 1, keep_dims=True)
                else:
                    sums_ptr = out_ptr + (b * chunks + chunk) * L + place
                    before = tl.load(sums_ptr, mask=(place < L) & (tile > 0), other=0.0)
                    tl.store(sums_ptr, before + tl.sum(picked * z, 0, keep_dims=True), mask=place < L)
        if PURPOSE == "weights":
            tl.store(out_ptr + b * n + s, weight, mask=s < n)
        if PURPOSE == "diagonal":
            tl.debug_barrier()  # the next tile may read with other threads what these wrote


@triton.jit
def weighted_sum_kernel(
    sums_ptr, weight_ptr, source_ptr, n, draws, L, chunks, tiles,
    S: tl.constexpr, BLOCK: tl.constexpr, BASELINE: tl.constexpr,
):  # fmt: skip
    """sums [B, chunks, L] of v_s Z_s, over `tiles` tiles of S draws, for v_s = w_s, or for v_s = w_s less

    "pair" the weight of the sample with -Z_s, or "mean" the mean of all weights: exactly 0 if all are equal, since w_s
    of equal numbers is exact in float64 and the mean is taken relative to the first.
    """
    b = (tl.program_id(0) // chunks).to(tl.int64)
    chunk = tl.program_id(0) % chunks
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    weight_ptr += b * n
    if BASELINE == "mean":
        origin = tl.load(weight_ptr)
        differences = tl.zeros((BLOCK,), tl.float64)
        for first in range(0, n, BLOCK):
            r = first + tl.arange(0, BLOCK)
            differences += tl.load(weight_ptr + r, mask=r < n, other=origin) - origin
        mean = tl.sum(differences) / n
    sums = tl.zeros((1, BLOCK), tl.float64)
    for tile in range(tiles):
        s = (chunk * tiles + tile) * S + tl.arange(0, S)[:, None]
        weight = tl.load(weight_ptr + s, mask=s < draws, other=0.0)
        if BASELINE == "pair":
            weight -= tl.load(weight_ptr + draws + s, mask=s < draws, other=0.0)
        if BASELINE == "mean":
            weight = tl.where(s < draws, (weight - origin) - mean, 0.0)
        sums += tl.sum(
            weight * draw(source_ptr, b, s, place, n, draws, L, (s < draws) & (place < L)), 0, keep_dims=True
        )
    tl.store(sums_ptr + (b * chunks + chunk) * L + place, sums, mask=place < L)


@triton.jit
def add_chunks_kernel(out_ptr, sums_ptr, chunks, L, blocks, scale, BLOCK: tl.constexpr):
    """out [B, L] = scale times the sum of sums [B, chunks, L] over the chunks."""
    b = (tl.program_id(0) // blocks).to(tl.int64)
    place = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)[None, :]
    c = tl.arange(0, MAX_CHUNKS)[:, None]
    sums = tl.load(sums_ptr + (b * chunks + c) * L + place, mask=(c < chunks) & (place < L), other=0.0)
    tl.store(out_ptr + b * L + place, (tl.sum(sums, 0, keep_dims=True) * scale).to(tl.float32), mask=place < L)


@triton.jit
def mean_kernel(mean_ptr, counts_ptr, size, n, BLOCK: tl.constexpr):
    """mean = counts / n; both may be the same memory."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    counts = tl.load(counts_ptr + i, mask=i < size, other=0).to(tl.float32)
    tl.store(mean_ptr + i, tl.div_rn(counts, tl.zeros_like(counts) + n), mask=i < size)


class Samples:
    """The n samples of each row of scores [B, L], in tiles and chunks of tiles."""

    def __init__(
        self,
        scores: Tensor,
        num_samples: int,
        sigma: float,
        seed: Tensor | None,
        noise: Tensor | None,
        antithetic: bool,
    ) -> None:
        source = seed if noise is None else noise
        if source is None:
            raise ValueError("seed and noise are both None, one must be a tensor")
        self.scores, self.source, self.sigma = scores.contiguous(), source.contiguous(), sigma
        self.batch, self.length = scores.shape
        self.num_samples = num_samples
        self.draws = num_samples // 2 if antithetic else num_samples
        self.block = min(max(triton.next_power_of_2(self.length), 16), TILE)
        self.tile_samples = min(TILE // self.block, SAMPLES)

    def split(self, count: int, most: int | None = None) -> tuple[int, int]:
        """(chunks, tiles of each) of `count` samples; at most so many chunks, or one for each tile."""
        total = triton.cdiv(count, self.tile_samples)
        tiles = triton.cdiv(total, most or total)
        return triton.cdiv(total, tiles), tiles

    def choose(self, purpose: str, out: Tensor, grad: Tensor | None, k: int, chunks: int, tiles: int) -> None:
        launch(
            choose_kernel,
            (self.batch * chunks,),
            *(out, grad, self.scores, self.source, self.num_samples, self.draws, self.length, k, self.sigma),
            *(chunks, tiles, *((0, 0, 0) if grad is None else grad.stride())),
            S=self.tile_samples,
            BLOCK=self.block,
            TILED=self.length <= self.block,
            PURPOSE=purpose,
            enable_fp_fusion=False,  # scores + sigma Z is rounded twice, as everywhere; and see philox.py
        )


def perturbed_topk(
    scores: Tensor, k: int, num_samples: int, sigma: float, seed: Tensor | None, noise: Tensor | None, antithetic: bool
) -> Tensor:
    """The mean of the samples' top-k indicators, float32 [B, k, L], as `reference/perturbed_topk.py` defines it.

    Args:
        scores: float32, bfloat16 or float16 [B, L], of any length; of more than 2048 numbers noise is drawn five times.
        seed: int64 [] on the device of scores, read there; or
        noise: [B, n, L].
    """
    samples = Samples(scores, num_samples, sigma, seed, noise, antithetic)
    counts = scores.new_zeros((samples.batch, k, samples.length), dtype=torch.int32)
    samples.choose("counts", counts, None, k, *samples.split(num_samples))
    mean = counts.view(torch.float32)
    launch(mean_kernel, (triton.cdiv(counts.numel(), 1024),), mean, counts, counts.numel(), num_samples, BLOCK=1024)
    return mean


def perturbed_topk_backward(
    grad: Tensor,
    scores: Tensor,
    num_samples: int,
    sigma: float,
    seed: Tensor | None,
    noise: Tensor | None,
    antithetic: bool,
    diagonal: bool,
) -> Tensor:
    """The gradient of scores, float32 [B, L], from grad G [B, k, L]: the diagonal one, or in full

    1 / (n sigma) sum_s (w_s - mean of the other w) Z_s = 1 / ((n - 1) sigma) sum_s (w_s - mean(w)) Z_s, w_s = <G, P_s>;
    antithetic, 1 / (n sigma) sum over pairs of (w_s - w_s') Z_s; of one sample, w Z / sigma.
    """
    samples = Samples(scores, num_samples, sigma, seed, noise, antithetic)
    batch, k, length = grad.shape
    has_mean = not diagonal and not antithetic and num_samples > 1
    chunks, tiles = samples.split(num_samples if diagonal else samples.draws, MAX_CHUNKS.value)
    sums = scores.new_empty((batch, chunks, length), dtype=torch.float64)
    if diagonal:
        samples.choose("diagonal", sums, grad, k, chunks, tiles)
    else:
        weights = scores.new_empty((batch, num_samples), dtype=torch.float64)
        samples.choose("weights", weights, grad, k, *samples.split(num_samples))
        launch(
            weighted_sum_kernel,
            (batch * chunks, triton.cdiv(length, samples.block)),
            *(sums, weights, samples.source, num_samples, samples.draws, length, chunks, tiles),
            S=samples.tile_samples,
            BLOCK=samples.block,
            BASELINE="mean" if has_mean else "pair" if antithetic else "none",
            enable_fp_fusion=False,
        )
    result = scores.new_empty((batch, length), dtype=torch.float32)
    blocks = triton.cdiv(length, COLUMNS)
    scale = 1 / ((num_samples - 1 if has_mean else num_samples) * sigma)
    launch(add_chunks_kernel, (batch * blocks,), result, sums, chunks, length, blocks, scale, BLOCK=COLUMNS)
    return result
