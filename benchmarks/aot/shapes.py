"""The calls whose kernels are checked: every op and its gradient, at the shapes that users have.

Sizes are chosen so that each path of a launcher is taken, and tensors of more than 2³¹ elements occur. Where most time
goes each dtype is there; elsewhere float16 is left out, which differs from bfloat16 in conversions.
What the calls launch is not listed anywhere: `record` sees it.
"""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
NAMES = {BF16: "bf16", FP16: "fp16", FP32: "fp32"}
ALL, MOST = (BF16, FP32, FP16), (BF16, FP32)
MODULE = "dynfocus_ops.triton"


@dataclass(frozen=True)
class Call:
    """`function` of the module `op`, called with meta tensors."""

    op: str
    function: str
    shape: str
    dtype: torch.dtype
    arguments: tuple[Any, ...]
    named: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.function} {self.shape} {NAMES[self.dtype]}"

    def run(self) -> None:
        getattr(importlib.import_module(f"{MODULE}.{self.op}"), self.function)(*self.arguments, **self.named)


def empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def flags(*shape: int) -> Tensor:
    return empty(*shape, dtype=torch.bool)


def index(*shape: int) -> Tensor:
    return empty(*shape, dtype=torch.int64)


def points() -> Iterator[Call]:
    """Clustering: the patches of each frame, and the frames of a video."""
    shapes = [  # batch, points, channels, clusters, neighbours, masked; dtypes
        (6000, 256, 1408, 16, 8, False, ALL),  # more than 2³¹ elements
        (1000, 256, 1408, 16, 8, True, (BF16,)),
        (1, 64, 22528, 25, 8, False, (BF16,)),
        (1, 1000, 22528, 25, 8, False, MOST),
        (1, 100_000, 22528, 25, 8, False, MOST),  # more than 2³¹ elements
    ]
    for batch, n, c, clusters, k, masked, dtypes in shapes:
        mask = flags(batch, n) if masked else None
        shape = f"{batch}×{n}×{c}{' masked' if masked else ''}"
        for dtype in dtypes:
            x = empty(batch, n, c, dtype=dtype)
            yield Call("dpc_knn", "dpc_knn", shape, dtype, (x, clusters, k, mask, float(c), None))
    batch, n, c = 1, 1000, 22528
    x, density = empty(batch, n, c, dtype=BF16), empty(batch, n, dtype=FP32)
    shape = f"{batch}×{n}×{c}"
    yield Call("knn_log_density", "knn_log_density", shape, BF16, (x, 8, None, float(c), density))
    yield Call("density_peak_distance", "density_peak_distance", shape, BF16, (x, density, None, float(c)))
    yield Call("nearest_center", "nearest_center", shape, BF16, (x, index(batch, 25), None))


def segments() -> Iterator[Call]:
    """Ragged frames, each with its own number of clusters and neighbours."""
    count, longest, c = 32, 178, 3584
    x, clusters, k = empty(count * longest, c, dtype=BF16), list(range(4, 4 + count)), [5] * (count - 1) + [7]
    arguments = (x, index(count + 1), clusters, k, None, float(c), None)
    shape = f"{count} of {longest}×{c}"
    yield Call("dpc_knn_varlen", "dpc_knn_varlen", shape, BF16, arguments, {"max_seqlen": longest})


def frames() -> Iterator[Call]:
    for dtype in ALL:
        x = empty(6000, 256, 1408, dtype=dtype)
        yield Call("spatial_prototypes", "spatial_prototypes", "6000×256×1408", dtype, (x, [16, 6], [8, 3]))


def means() -> Iterator[Call]:
    for batch, n, c, clusters, weighted, dtypes in (
        (6000, 256, 1408, 16, False, MOST),
        (1, 100_000, 22528, 25, True, (BF16,)),
    ):
        shape, assignment = f"{batch}×{n}×{c}{' weighted' if weighted else ''}", index(batch, n)
        for dtype in dtypes:
            x, weight = empty(batch, n, c, dtype=dtype), empty(batch, n, dtype=dtype) if weighted else None
            yield Call("cluster_mean", "cluster_mean", shape, dtype, (x, assignment, clusters, weight))
            backward = (empty(batch, clusters, c, dtype=dtype), x if weighted else None, assignment, weight)
            yield Call("cluster_mean", "cluster_mean_backward", shape, dtype, backward)


def packing() -> Iterator[Call]:
    t, k, d = 300_000, 20, 4096  # more than 2³¹ elements
    shape, keys = f"{t}+{k}×38, {d}", index(k)
    for dtype in MOST:
        fine, coarse = empty(k, 38, d, dtype=dtype), empty(t, 2, d, dtype=dtype)
        yield Call("pack_frame_tokens", "pack_frame_tokens", shape, dtype, (fine, coarse, keys))
        grad = empty(38 * k + 2 * t, d, dtype=dtype)
        yield Call("pack_frame_tokens", "pack_frame_tokens_backward", shape, dtype, (grad, keys, 38, 2, t))


def rods() -> Iterator[Call]:
    """The tokens of a tree of prototypes with one question for all, and the patches with each frame's own."""
    c, q = 1408, 32
    for t, m, b, dtypes in ((70_000, 22, 1, MOST), (6000, 256, 6000, ALL)):
        mask = flags(b, q) if b > 1 else None
        shape = f"{t}×{m}×{c}, {b}×{q}"
        for dtype in dtypes:
            tokens, queries = empty(t, m, c, dtype=dtype), empty(b, q, c, dtype=dtype)
            common = (tokens, queries, index(t), mask, c**-0.5)
            yield Call("rods_pool", "rods_pool", shape, dtype, common)
            backward = (empty(t, 2, c, dtype=dtype), *common, True, True)
            yield Call("rods_pool", "rods_pool_backward", shape, dtype, backward)


def selection() -> Iterator[Call]:
    for batch, length, k, n, dtypes in (
        (8, 25, 20, 500, MOST),
        (1, 256, 128, 1000, (FP32,)),
        (1, 1000, 36, 500, (FP32,)),
    ):
        shape, grad, seed = f"{batch}×{length}, {k}, n {n}", empty(batch, k, length, dtype=FP32), index()
        for dtype in dtypes:
            scores = empty(batch, length, dtype=dtype)
            yield Call("perturbed_topk", "perturbed_topk", shape, dtype, (scores, k, n, 0.1, seed, None, False))
            backward = (grad, scores, n, 0.1, seed, None, False, False)
            yield Call("perturbed_topk", "perturbed_topk_backward", shape, dtype, backward)


def calls() -> list[Call]:
    makers = (points, segments, frames, means, packing, rods, selection)
    return [call for maker in makers for call in maker()]
