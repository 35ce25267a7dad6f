"""What is timed: each op at the connector's shapes, and the peers that compute the same."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import dynfocus_ops
from benchmarks import counts, research, vectorised
from benchmarks.cases import clustered
from benchmarks.counts import Cost
from benchmarks.roofline_lines import TILE

Levels = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Sizes:
    """The paper's model, or small enough to rehearse."""

    patches: int = 256
    channels: int = 1408
    pooled: int = 16 * 1408  # a frame's 16 pooled patches
    hidden: int = 4096
    queries: int = 32
    levels: Levels = ((16, 8), (6, 3))
    events: int = 25
    key_frames: int = 20
    samples: int = 500
    frames: tuple[int, ...] = (1000, 3600, 64, 256)  # those that have goals first

    @property
    def prototypes(self) -> int:
        return sum(number for number, _ in self.levels)


TINY = Sizes(20, 12, 24, 16, 3, ((4, 3), (2, 2)), 4, 3, 20, (8,))


@dataclass(frozen=True)
class Peer:
    run: Callable[..., Any]  # on the race's tensors
    graph: bool = True  # whether a CUDA graph can capture it
    compiles: bool = False


@dataclass(frozen=True)
class Race:
    op: str
    frames: int
    shape: str
    dtype: torch.dtype
    cost: Cost
    draw: Callable[[], tuple[Tensor, ...]]
    ours: Callable[..., Any]  # (*tensors, backend=…)
    peers: dict[str, Peer] = field(default_factory=dict)


def races(sizes: Sizes, device: str) -> Iterator[Race]:
    """bf16 before fp32, and for each the lengths in the order of `sizes.frames`."""
    for dtype in (torch.bfloat16, torch.float32):
        for frames in sizes.frames:
            with torch.device(device):
                yield from (make(sizes, frames, dtype, device) for make in MAKERS)


def spatial(sizes: Sizes, T: int, dtype: torch.dtype, device: str) -> Race:
    N, C, levels = sizes.patches, sizes.channels, sizes.levels
    functions = {
        "research": partial(research.spatial_prototypes, levels=levels),
        "vectorised": partial(vectorised.spatial_prototypes, levels=levels),
    }
    return Race(
        "spatial_prototypes",
        T,
        f"{T} x {N} x {C}",
        dtype,
        counts.spatial_prototypes(T, N, C, levels, dtype.itemsize, TILE),
        draw=lambda: (on(device, clustered, (T, N, C), 16, dtype),),
        ours=lambda x, backend: dynfocus_ops.spatial_prototypes(x, levels, backend=backend),
        peers={name: Peer(run) for name, run in functions.items()}
        | {"compiled": Peer(functions["vectorised"], compiles=True)},
    )


def temporal(sizes: Sizes, T: int, dtype: torch.dtype, device: str) -> Race:
    D, clusters, k = sizes.pooled, min(sizes.events, T), min(8, T)

    def ours(x: Tensor, backend: str) -> Any:
        return dynfocus_ops.dpc_knn(x, clusters, k, distance_scale=16.0, backend=backend)

    eager = partial(vectorised.dpc_knn, num_clusters=clusters, k=k)
    return Race(
        "dpc_knn",
        T,
        f"1 x {T} x {D}",
        dtype,
        counts.dpc_knn(1, T, D, clusters, dtype.itemsize, 2 * TILE),
        draw=lambda: (on(device, clustered, (1, T, D), max(2, T // 40), dtype),),
        ours=ours,
        peers={
            "research": Peer(partial(research.dpc_knn, num_clusters=clusters, k=k)),
            "vectorised": Peer(eager),
            "mm + epilogue": Peer(partial(from_one_product, num_clusters=clusters, k=k)),
            "compiled": Peer(eager, compiles=True),
        },
    )


def rods(sizes: Sizes, T: int, dtype: torch.dtype, device: str, tokens: int = 0) -> Race:
    M, C, Q = tokens or sizes.prototypes, sizes.channels, sizes.queries
    return Race(
        "rods_pool",
        T,
        f"{T} x {M} x {C}, {Q} queries",
        dtype,
        counts.rods_pool(T, M, C, Q, dtype.itemsize),
        draw=lambda: (on(device, clustered, (T, M, C), 8, dtype), on(device, torch.randn, Q, C).to(dtype)),
        ours=lambda x, queries, backend: dynfocus_ops.rods_pool(x, queries, backend=backend),
        peers={
            "research": Peer(research.rods_pool),
            "vectorised": Peer(vectorised.rods_pool),
            "SDPA + mean": Peer(attention_and_mean),
            "compiled": Peer(vectorised.rods_pool, compiles=True),
        },
    )


def rods_over_patches(sizes: Sizes, T: int, dtype: torch.dtype, device: str) -> Race:
    return rods(sizes, T, dtype, device, sizes.patches)


def mean(sizes: Sizes, T: int, dtype: torch.dtype, device: str) -> Race:
    N, C, clusters = sizes.patches, sizes.channels, sizes.levels[0][0]
    return Race(
        "cluster_mean",
        T,
        f"{T} x {N} x {C}, {clusters} clusters",
        dtype,
        counts.cluster_mean(T, N, C, clusters, dtype.itemsize),
        draw=lambda: (on(device, torch.randn, T, N, C).to(dtype), on(device, torch.randint, clusters, (T, N))),
        ours=lambda x, assignment, backend: dynfocus_ops.cluster_mean(x, assignment, clusters, backend=backend),
        peers={
            "research": Peer(partial(research.cluster_mean, num_clusters=clusters)),
            "vectorised": Peer(partial(vectorised.cluster_mean, num_clusters=clusters)),
        },
    )


def topk(sizes: Sizes, T: int, dtype: torch.dtype, device: str) -> Race:
    """Forward and backward; the same for every T, and in fp32 as the scores are."""
    L, k, n = sizes.events, sizes.key_frames, sizes.samples

    def ours(scores: Tensor, grad: Tensor, seed: Tensor, backend: str) -> tuple[Tensor, ...]:
        scores = scores.detach().requires_grad_()
        indicators = dynfocus_ops.perturbed_topk(scores, k, num_samples=n, seed=seed, backend=backend)
        return indicators, *torch.autograd.grad(indicators, scores, grad)

    def one_hot_samples(scores: Tensor, grad: Tensor, seed: Tensor) -> tuple[Tensor, ...]:
        scores = scores.detach().requires_grad_()
        noise = partial(torch.randn, 1, n, L, device=scores.device)
        indicators = research.PerturbedTopK.apply(scores, k, 0.1, noise)
        return indicators, *torch.autograd.grad(indicators, scores, grad)

    def batched(scores: Tensor, grad: Tensor, seed: Tensor) -> tuple[Tensor, ...]:
        return vectorised.perturbed_topk(scores, grad, torch.randn(1, n, L, device=scores.device), 0.1)

    return Race(
        "perturbed_topk",
        T,
        f"L {L}, k {k}, {n} samples, with its gradient",
        torch.float32,
        counts.perturbed_topk(1, L, k) + counts.perturbed_topk_backward(1, L, k),
        draw=lambda: (
            on(device, torch.rand, 1, L),
            on(device, torch.randn, 1, k, L),
            on(device, torch.randint, 2**60, ()),
        ),
        ours=ours,
        peers={"research": Peer(one_hot_samples), "vectorised": Peer(batched)},
    )


def pack(sizes: Sizes, T: int, dtype: torch.dtype, device: str) -> Race:
    keys, fine, D = min(sizes.key_frames, T), 16 + sizes.prototypes, sizes.hidden
    return Race(
        "pack_frame_tokens",
        T,
        f"{T} frames, {keys} x {fine} fine, {D}",
        dtype,
        counts.pack_frame_tokens(T, keys, fine, D, dtype.itemsize),
        draw=lambda: (
            on(device, torch.randn, keys, fine, D).to(dtype),
            on(device, torch.randn, T, 2, D).to(dtype),
            on(device, torch.randperm, T)[:keys],
        ),
        ours=lambda fine, coarse, key, backend: dynfocus_ops.pack_frame_tokens(fine, coarse, key, backend=backend),
        peers={
            "research": Peer(research.pack_frame_tokens, graph=False),  # reads key_index on the host
            "vectorised": Peer(vectorised.pack_frame_tokens),
        },
    )


MAKERS = (spatial, temporal, rods, rods_over_patches, topk, pack, mean)


def on(device: str, make: Callable[..., Tensor], *arguments: Any) -> Tensor:
    with torch.device(device):
        return make(*arguments)


def attention_and_mean(tokens: Tensor, queries: Tensor) -> Tensor:
    """torch's attention, then the two means."""
    pooled = scaled_dot_product_attention(queries.expand(len(tokens), -1, -1), tokens, tokens)
    return torch.stack((pooled.mean(1), tokens.mean(1)), 1)


def from_one_product(x: Tensor, num_clusters: int, k: int) -> tuple[Tensor, Tensor]:
    """cuBLAS's product of a video [1, T, D] in its own dtype, summed and kept in fp32, then clustering of T x T."""
    points = x[0]
    widens = x.is_cuda and x.dtype != torch.float32
    gram = torch.mm(points, points.T, out_dtype=torch.float32) if widens else torch.mm(points, points.T).float()
    norms = gram.diagonal()
    squared = (norms[:, None] + norms - 2 * gram).clamp_(min=0)
    log_density = -squared.topk(k, largest=False, sorted=False).values.mean(-1)
    denser = log_density > log_density[:, None]
    delta = squared.masked_fill(~denser, torch.inf).amin(-1)
    delta = torch.where(delta.isinf(), squared.amax(), delta).sqrt()
    centers = (log_density + delta.log()).topk(num_clusters).indices
    return squared[:, centers].argmin(-1), centers
