"""The lines of the cost model: each op of the connector at its shapes, what it costs, how many kernels it launches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import dynfocus_ops
from benchmarks import counts
from benchmarks.counts import Cost
from benchmarks.launches import forward_and_backward, launches
from dynfocus.connector import ConnectorSettings, DynFocusConnector, frame_rows

FRAMES = (64, 256, 1000, 3600)
LONGEST = 36_000  # frames, an hour at ten a second: streamed
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SETTINGS = ConnectorSettings()
PATCHES, CHANNELS, HIDDEN, QUERIES, TEXT = 256, 1408, 4096, 32, 768  # of EVA-CLIP ViT-g/14, Vicuna-7B, the Q-Former
POOLED = SETTINGS.pool_size**2 * CHANNELS
LEVELS = SETTINGS.spatial_levels
CLUSTERS, PROTOTYPES = LEVELS[0][0], sum(number for number, _ in LEVELS)
EVENTS, KEYS, SAMPLES, FINE = SETTINGS.num_events, 20, SETTINGS.num_samples, SETTINGS.fine_tokens
CLIP = 64  # frames of a video of the ragged batch
TILE = 64  # of a symmetric product: tiles on and below the diagonal; of frames, twice that
STORED = 8192  # frames whose distances are kept at most


@dataclass(frozen=True, eq=False)
class Line:
    op: str
    frames: int
    shape: str
    dtype: str
    parts: Sequence[Cost]  # one after the other
    launches: int | None  # None: not all of it runs on Triton here
    measured_as: Mapping[str, Any]  # what the same work's row of a run has; empty where runs have none

    @property
    def cost(self) -> Cost:
        return sum(self.parts, counts.NOTHING)


def lines(frames: Sequence[int] = FRAMES, longest: int = LONGEST) -> Iterator[Line]:
    for dtype in DTYPES:
        for t in frames:
            yield from clustering_lines(t, dtype)
            yield from token_lines(t, dtype)
            yield connector_line(t, dtype)
        streamed = counts.dpc_knn_streamed(longest, POOLED, EVENTS, DTYPES[dtype].itemsize)
        yield temporal_line("streamed", longest, dtype, streamed)
    yield from selection_lines()


def clustering_lines(t: int, dtype: str) -> Iterator[Line]:
    size = DTYPES[dtype].itemsize
    patches = meta(t, PATCHES, CHANNELS, dtype=dtype)
    yield line(
        "spatial_prototypes", t, f"{t} x {PATCHES} x {CHANNELS}", dtype,
        counts.spatial_prototypes(t, PATCHES, CHANNELS, LEVELS, size, TILE),
        lambda: dynfocus_ops.spatial_prototypes(patches, LEVELS),
    )  # fmt: skip
    yield line(
        "dpc_knn", t, f"{t} x {PATCHES} x {CHANNELS}", dtype,
        counts.dpc_knn(t, PATCHES, CHANNELS, CLUSTERS, size, TILE),
        lambda: dynfocus_ops.dpc_knn(patches, *LEVELS[0]), name="dpc_knn, each frame",
    )  # fmt: skip
    yield temporal_line("stored", t, dtype, counts.dpc_knn_stored(t, POOLED, EVENTS, size, 2 * TILE))
    yield temporal_line("streamed", t, dtype, counts.dpc_knn_streamed(t, POOLED, EVENTS, size))
    lengths = [min(CLIP, t - first) for first in range(0, t, CLIP)]
    clusters, k = [min(EVENTS, length) for length in lengths], [min(8, length) for length in lengths]
    rows, bounds = meta(t, POOLED, dtype=dtype), meta(len(lengths) + 1, dtype="index")
    yield line(
        "dpc_knn_varlen", t, f"{len(lengths)} videos of up to {CLIP} x {POOLED}", dtype,
        counts.dpc_knn_varlen(lengths, POOLED, clusters, size, TILE),
        lambda: dynfocus_ops.dpc_knn_varlen(rows, bounds, clusters, k, max_seqlen=max(lengths)),
    )  # fmt: skip


def temporal_line(plan: str, t: int, dtype: str, cost: Cost) -> Line:
    """Of a video's pooled frames; what was measured belongs to the plan that such a length has."""
    x = meta(1, t, POOLED, dtype=dtype)
    followed = plan == ("stored" if t <= STORED else "streamed")
    return line(
        "dpc_knn", t, f"1 x {t} x {POOLED}", dtype, cost,
        (lambda: dynfocus_ops.dpc_knn(x, EVENTS, 8)) if followed else None,
        name=f"dpc_knn of frames, {plan}", measured=followed,
    )  # fmt: skip


def token_lines(t: int, dtype: str) -> Iterator[Line]:
    size = DTYPES[dtype].itemsize
    patches, assignment = meta(t, PATCHES, CHANNELS, dtype=dtype), meta(t, PATCHES, dtype="index")
    yield from with_backward(
        "cluster_mean", t, f"{t} x {PATCHES} x {CHANNELS}, {CLUSTERS} clusters", dtype,
        counts.cluster_mean(t, PATCHES, CHANNELS, CLUSTERS, size),
        counts.cluster_mean_backward(t, PATCHES, CHANNELS, CLUSTERS, size),
        lambda x: dynfocus_ops.cluster_mean(x, assignment, CLUSTERS), patches,
    )  # fmt: skip
    frame = meta(t, dtype="index")
    for tokens, rows, name in (
        (PROTOTYPES, 1, "rods_pool"), (PROTOTYPES, t, "rods_pool, queries of each frame"),
        (PATCHES, 1, "rods_pool over patches"),
    ):  # fmt: skip
        own = "" if rows == 1 else f" of each of {t} frames"
        yield from with_backward(
            "rods_pool", t, f"{t} x {tokens} x {CHANNELS}, {QUERIES} queries{own}", dtype,
            counts.rods_pool(t, tokens, CHANNELS, QUERIES, size, rows),
            counts.rods_pool_backward(t, tokens, CHANNELS, QUERIES, size, rows),
            lambda x, queries: dynfocus_ops.rods_pool(x, queries, frame_query=frame),
            meta(t, tokens, CHANNELS, dtype=dtype), meta(rows, QUERIES, CHANNELS, dtype=dtype), name=name,
        )  # fmt: skip
    key_index = meta(KEYS, dtype="index")
    yield from with_backward(
        "pack_frame_tokens", t, f"{t} frames, {KEYS} x {FINE} fine, {HIDDEN}", dtype,
        counts.pack_frame_tokens(t, KEYS, FINE, HIDDEN, size),
        counts.pack_frame_tokens_backward(t, KEYS, FINE, HIDDEN, size),
        lambda fine, coarse: dynfocus_ops.pack_frame_tokens(fine, coarse, key_index),
        meta(KEYS, FINE, HIDDEN, dtype=dtype), meta(t, 2, HIDDEN, dtype=dtype),
    )  # fmt: skip


def selection_lines() -> Iterator[Line]:
    """Of one video, in fp32 as scores are; a run measures both ways at once."""
    cost, back = counts.perturbed_topk(1, EVENTS, KEYS), counts.perturbed_topk_backward(1, EVENTS, KEYS)
    seed, scores = meta(dtype="index"), meta(1, EVENTS, dtype="fp32")

    def select(scores: Tensor) -> Tensor:
        return dynfocus_ops.perturbed_topk(scores, KEYS, num_samples=SAMPLES, seed=seed)

    shape = f"L {EVENTS}, k {KEYS}, {SAMPLES} samples"
    yield from with_backward("perturbed_topk", 0, shape, "fp32", cost, back, select, scores)
    both = forward_and_backward(select, scores)
    name, shape = "perturbed_topk, both ways", f"{shape}, with its gradient"
    yield line("perturbed_topk", 0, shape, "fp32", (cost, back), both, name=name)


def connector_line(t: int, dtype: str) -> Line:
    """The whole connector, part after part, in evaluation."""
    plan = SETTINGS.plan(t, budget=2 * t + FINE * KEYS)
    text_shape = (QUERIES, TEXT)
    parts = counts.connector(SETTINGS, plan, (PATCHES, CHANNELS), text_shape, HIDDEN, DTYPES[dtype].itemsize, TILE)
    with torch.device("meta"):
        connector = DynFocusConnector(CHANNELS, TEXT, HIDDEN, SETTINGS).eval().to(DTYPES[dtype])
    patches, text = meta(t, PATCHES, CHANNELS, dtype=dtype), meta(1, *text_shape, dtype=dtype)

    def run() -> None:
        with torch.no_grad():
            connector(patches, [plan], text, frame_rows([t], patches.device))

    ops = ("dpc_knn_varlen", "cluster_mean", "spatial_prototypes", "rods_pool", "pack_frame_tokens")
    measured_as = {"name": "connector", "how_run": "one graph", "frames": t} if dtype == "bf16" else {}
    return Line("connector", t, f"{t} frames", dtype, tuple(parts.values()), launches(run, ops), measured_as)


def line(
    op: str,
    t: int,
    shape: str,
    dtype: str,
    cost: Cost | Sequence[Cost],
    run: Callable[[], Any] | None,
    *,
    name: str = "",
    measured: bool = True,
    before: int = 0,
) -> Line:
    """before: launches of `run` that are not of this line."""
    number = launches(run, [op]) if run else None
    measured_as = {"op": op, "shape": shape, "dtype": dtype} if measured else {}
    parts = (cost,) if isinstance(cost, Cost) else tuple(cost)
    return Line(name or op, t, shape, dtype, parts, None if number is None else number - before, measured_as)


def with_backward(
    op: str,
    t: int,
    shape: str,
    dtype: str,
    cost: Cost,
    back: Cost,
    function: Callable[..., Any],
    *inputs: Tensor,
    name: str = "",
) -> Iterator[Line]:
    forward = line(op, t, shape, dtype, cost, lambda: function(*inputs), name=name)
    yield forward
    both = forward_and_backward(function, *inputs)
    yield line(
        op, t, f"{shape}, backward", dtype, back, both, name=f"{name or op}, backward", before=forward.launches or 0
    )


def meta(*shape: int, dtype: str) -> Tensor:
    return torch.empty(shape, dtype=DTYPES.get(dtype, torch.int64), device="meta")
