"""Random calls of each op, and what float64 says of their results: the discrete parts in stages, then the numbers."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

import dynfocus_ops
from benchmarks import oracle
from dynfocus_ops import reference
from dynfocus_ops.reference.dpc_knn import highest_scores
from tests.ops.staged import check_dpc_knn

LARGEST = 60_000_000  # numbers in the float64 differences of one sample's check
Clustered = tuple[Tensor, Tensor, Tensor, Tensor]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Call:
    """One call of an op: `tensors` may be on any device, the rest is in `function`."""

    tensors: tuple[Tensor, ...]
    function: Callable[..., Any]  # (*tensors, backend=…)
    check: Callable[..., None]  # (result, *tensors), all on the CPU; AssertionError if it is wrong
    exact: Callable[..., Any] | None = (
        None  # (result, *tensors in float64): the differentiable outputs, given the others
    )
    tolerance: float = 0.0  # of the gradients: in the norm, beyond the rounding of their dtype
    about: str = ""
    alone: "Call | None" = None  # the op by itself, where `function` also calls others


class Draw:
    """Random shapes and numbers, the same for the same op and index.

    most: the largest of any size that is not fixed, for where a call is slow.
    """

    def __init__(self, op: str, index: int, most: int = 1 << 20):
        self.random = random.Random(f"{op} {index}")
        self.generator = torch.Generator().manual_seed(self.random.getrandbits(60))
        self.most = most
        self.dtype = DTYPES[index % 3]
        self.even = index % 2 == 0

    def size(self, low: int, high: int) -> int:
        """More often small: uniform in the logarithm."""
        high = min(high, max(low, self.most))
        return min(high, round(low * (high / low) ** self.random.random()))

    def channels(self, high: int) -> int:
        """Every second time a multiple of 16, as models have them and some kernels need them."""
        number = self.size(1, high)
        return 16 * max(1, number // 16) if self.even else number

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(dtype or self.dtype)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self.generator)

    def order(self, length: int) -> Tensor:
        return torch.randperm(length, generator=self.generator)

    def points(self, B: int, N: int, C: int) -> Tensor:
        """Noise, heaps of near-duplicates, points far from the origin, or exact duplicates."""
        x = self.normal(B, N, C, dtype=torch.float32)
        kind = self.random.choice(("noise", "heaps", "far", "duplicates"))
        if kind == "heaps":
            x = 0.05 * x + self.normal(B, 8, C, dtype=torch.float32)[:, self.integers(0, 8, N)]
        elif kind == "far":
            x = x + 8
        elif kind == "duplicates":
            x = x[:, self.integers(0, max(1, N // 2), N)]
        return x.to(self.dtype)

    def mask(self, B: int, N: int, kept: int) -> Tensor:
        mask = self.uniform(B, N) > self.random.choice((0.0, 0.3, 0.8))
        mask[:, :kept] = True
        return mask

    def clustering(self, most_points: int = 300) -> tuple[Tensor, int, int, Tensor]:
        """(x, num_clusters, k, mask)."""
        B, N = self.size(1, 4), self.size(1, most_points)
        C = self.channels(min(1408, max(1, LARGEST // (N * N))))
        k, num_clusters = self.size(1, min(N, 12)), self.size(1, min(N, 40))
        return self.points(B, N, C), num_clusters, k, self.mask(B, N, max(k, num_clusters))


def dpc_knn(draw: Draw) -> Call:
    x, num_clusters, k, mask = draw.clustering()
    scale, noise = draw.random.choice((None, 3.5)), 1e-3 * draw.uniform(*mask.shape)
    extra = draw.random.choice((set(), {"mask"}, {"mask", "noise"}))

    def settings(mask: Tensor, noise: Tensor) -> dict[str, Any]:
        given = {"mask": mask, "noise": noise}
        return {"distance_scale": scale} | {name: given[name] for name in extra}

    return Call(
        (x, mask, noise),
        lambda x, mask, noise, backend: dynfocus_ops.dpc_knn(
            x, num_clusters, k, **settings(mask, noise), backend=backend
        ),
        lambda result, x, mask, noise: check_dpc_knn(x, result, num_clusters, k, **settings(mask, noise)),
        about=f"{num_clusters} clusters, k {k}, {sorted(extra)}",
    )


def part_of_dpc_knn(op: str) -> Callable[[Draw], Call]:
    """One of the three parts in its place among the other two, which are the reference's."""

    def of(draw: Draw) -> Call:
        x, num_clusters, k, mask = draw.clustering()

        def function(x: Tensor, mask: Tensor, backend: str) -> Clustered:
            own = {name: backend if name == op else "reference" for name in PARTS}
            log_density = dynfocus_ops.knn_log_density(x, k, mask=mask, backend=own["knn_log_density"])
            delta, _ = dynfocus_ops.density_peak_distance(
                x, log_density, mask=mask, backend=own["density_peak_distance"]
            )
            centers = highest_scores(log_density, delta, num_clusters, mask)
            assignment = dynfocus_ops.nearest_center(x, centers, mask=mask, backend=own["nearest_center"])
            return assignment, centers, log_density, delta

        def check(result: Clustered, x: Tensor, mask: Tensor) -> None:
            check_dpc_knn(x, result, num_clusters, k, mask)

        first = torch.arange(num_clusters).expand(len(x), -1).contiguous()  # mask has them
        alone = {
            "knn_log_density": Call((x, mask), partial(_knn_log_density, k=k), check),
            "density_peak_distance": Call((x, mask, draw.uniform(*mask.shape)), _density_peak_distance, check),
            "nearest_center": Call((x, mask, first), _nearest_center, check),
        }[op]
        return Call((x, mask), function, check, about=f"{num_clusters} clusters, k {k}", alone=alone)

    return of


def _knn_log_density(x: Tensor, mask: Tensor, k: int, backend: str) -> Tensor:
    return dynfocus_ops.knn_log_density(x, k, mask=mask, backend=backend)


def _density_peak_distance(x: Tensor, mask: Tensor, log_density: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return dynfocus_ops.density_peak_distance(x, log_density, mask=mask, backend=backend)


def _nearest_center(x: Tensor, mask: Tensor, centers: Tensor, backend: str) -> Tensor:
    return dynfocus_ops.nearest_center(x, centers, mask=mask, backend=backend)


PARTS = ("knn_log_density", "density_peak_distance", "nearest_center")


def dpc_knn_varlen(draw: Draw) -> Call:
    lengths = [draw.size(1, 150) for _ in range(draw.size(1, 12))]
    clusters, neighbors = ([draw.size(1, min(length, 20)) for length in lengths] for _ in range(2))
    bounds = list(accumulate(lengths, initial=0))
    x = draw.points(1, bounds[-1], draw.channels(1024))[0]

    def function(x: Tensor, cu_seqlens: Tensor, backend: str) -> tuple[Tensor, ...]:
        return dynfocus_ops.dpc_knn_varlen(x, cu_seqlens, clusters, neighbors, max_seqlen=max(lengths), backend=backend)

    def check(result: tuple[Tensor, ...], x: Tensor, cu_seqlens: Tensor) -> None:
        assignment, centers, cu_clusters, log_density, delta = result
        assert cu_clusters.tolist() == list(accumulate(clusters, initial=0)), "cu_clusters: not the sizes summed up"
        for s, ((start, stop), own) in enumerate(zip(pairwise(bounds), centers.split(clusters), strict=True)):
            rows = slice(start, stop)
            segment = (assignment[None, rows], (own - start)[None], log_density[None, rows], delta[None, rows])
            check_dpc_knn(x[None, rows], segment, clusters[s], neighbors[s])

    return Call((x, torch.tensor(bounds)), function, check, about=f"segments of {lengths}")


def cluster_mean(draw: Draw) -> Call:
    B, N, C = draw.size(1, 5), draw.size(1, 400), draw.channels(1500)
    num_clusters = draw.size(1, 60)
    x, weight = draw.normal(B, N, C), draw.uniform(B, N) + 0.1
    assignment = draw.integers(-1, num_clusters, B, N)
    epsilon = draw.random.choice((0.0, 0.25))

    def exact(result: Tensor, x: Tensor, weight: Tensor, assignment: Tensor) -> Tensor:
        return reference.cluster_mean(x, assignment, num_clusters, weight, epsilon)

    def function(x: Tensor, weight: Tensor, assignment: Tensor, backend: str) -> Tensor:
        return dynfocus_ops.cluster_mean(x, assignment, num_clusters, weight, epsilon=epsilon, backend=backend)

    about = f"{num_clusters} clusters, epsilon {epsilon}"
    return numbers((x, weight, assignment), function, exact, tolerance=1e-5, about=about)


def spatial_prototypes(draw: Draw) -> Call:
    T, N, C = draw.size(1, 6), draw.size(16, 256), draw.channels(1408)
    levels = ((draw.size(4, 16), draw.size(1, 8)), (draw.size(1, 4), draw.size(1, 4)))
    x = draw.normal(T, N, C)

    def function(x: Tensor, backend: str) -> tuple[Tensor, list[Tensor]]:
        return dynfocus_ops.spatial_prototypes(x, levels, backend=backend)

    def check(result: tuple[Tensor, list[Tensor]], x: Tensor) -> None:
        prototypes, assignments = result
        points = x
        for own, assignment, (num_clusters, k) in zip(
            prototypes.split([number for number, _ in levels], 1), assignments, levels, strict=True
        ):
            right = oracle.labels(points, num_clusters, k).assignment == assignment
            assert right.all(1).double().mean() >= 0.8 or right.double().mean() >= 0.97, "assignment: not float64's"
            assert_close(own, oracle.cluster_means(points, assignment, num_clusters), 3e-6)
            points = own  # the next level starts from the averages as returned

    def exact(result: tuple[Tensor, list[Tensor]], x: Tensor) -> tuple[Tensor]:
        means, points = [], x
        for assignment, (num_clusters, _) in zip(result[1], levels, strict=True):
            points = reference.cluster_mean(points, assignment.cpu(), num_clusters, None)
            means.append(points)
        return (torch.cat(means, 1),)

    return Call((x,), function, check, exact, tolerance=1e-5, about=f"levels {levels}")


def rods_pool(draw: Draw) -> Call:
    T, M, C = draw.size(1, 40), draw.size(1, 256), draw.channels(1408)
    B, Q = draw.size(1, 5), draw.size(1, 40)
    tokens, queries, frame_query = draw.normal(T, M, C), draw.normal(B, Q, C), draw.integers(0, B, T)
    mask = draw.mask(B, Q, 1)

    def function(tokens: Tensor, queries: Tensor, frame_query: Tensor, mask: Tensor, backend: str) -> Tensor:
        return dynfocus_ops.rods_pool(tokens, queries, frame_query=frame_query, query_mask=mask, backend=backend)

    def exact(result: Tensor, tokens: Tensor, queries: Tensor, frame_query: Tensor, mask: Tensor) -> Tensor:
        logits = torch.einsum("tqc,tmc->tqm", queries[frame_query], tokens) * C**-0.5
        keep = mask.double() / mask.sum(1, keepdim=True)
        weights = torch.einsum("tq,tqm->tm", keep[frame_query], logits.softmax(-1))
        return torch.stack((torch.einsum("tm,tmc->tc", weights, tokens), tokens.mean(1)), 1)

    return numbers((tokens, queries, frame_query, mask), function, exact, tolerance=1e-4)


def perturbed_topk(draw: Draw) -> Call:
    B, L = draw.size(1, 6), draw.size(1, 300)
    k, n = draw.size(1, L), 2 * draw.size(1, 400)
    antithetic = draw.random.random() < 0.3
    scores, seed = draw.uniform(B, L).to(draw.dtype), draw.integers(-(2**62), 2**62)

    def function(scores: Tensor, seed: Tensor, backend: str) -> Tensor:
        return dynfocus_ops.perturbed_topk(
            scores, k, num_samples=n, sigma=0.2, seed=seed, antithetic=antithetic, backend=backend
        )

    def check(result: Tensor, scores: Tensor, seed: Tensor) -> None:
        expected = reference.perturbed_topk(scores, k, n, 0.2, seed, None, antithetic)
        apart = (result.double() - expected.double()).abs() * n  # in samples: a near tie may go either way
        assert result.shape == expected.shape and apart.max() <= 2.5, (
            "indicators: more than two samples chose otherwise"
        )
        assert apart.sum() <= 2 + 1e-3 * n * B * k, "indicators: too many samples chose otherwise"

    return Call((scores, seed), function, check, about=f"k {k}, {n} samples, antithetic {antithetic}")


def pack_frame_tokens(draw: Draw) -> Call:
    T, F, D = draw.size(1, 300), draw.size(1, 40), draw.size(1, 4096)
    D = min(D, max(1, 4_000_000 // (T * F)))
    key = draw.order(T)[: draw.size(1, T)]

    def exact(result: tuple[Tensor, Tensor], fine: Tensor, coarse: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return reference.pack_frame_tokens(fine, coarse, key)

    def function(fine: Tensor, coarse: Tensor, key: Tensor, backend: str) -> tuple[Tensor, Tensor]:
        return dynfocus_ops.pack_frame_tokens(fine, coarse, key, backend=backend)

    return numbers((draw.normal(len(key), F, D), draw.normal(T, 2, D), key), function, exact)


def numbers(
    tensors: tuple[Tensor, ...],
    function: Callable[..., Any],
    exact: Callable[..., Any],
    tolerance: float = 0.0,
    about: str = "",
) -> Call:
    """A call whose results are numbers, and equal to `exact` up to the rounding of their dtype and `tolerance`."""

    def check(result: Any, *tensors: Tensor) -> None:
        expected = exact(result, *map(doubled, tensors))
        for own, right in zip(listed(result), listed(expected), strict=True):
            assert_close(own, right, tolerance)

    return Call(tensors, function, check, exact, tolerance, about)


def doubled(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def listed(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def assert_close(own: Tensor, right: Tensor, tolerance: float) -> None:
    """Every number within one rounding of its dtype, and `tolerance` of the largest; with 0, equal once rounded."""
    assert own.shape == right.shape, f"shape {list(own.shape)}, must be {list(right.shape)}"
    if tolerance == 0:
        assert torch.equal(own, right.to(own.dtype)), "not the same numbers"
        return
    allowed = torch.finfo(own.dtype).eps * right.abs() + tolerance * right.abs().max()
    worst = ((own.double() - right).abs() - allowed).max()
    assert worst <= 0, (
        f"off by {float(worst):.3g} beyond the rounding, where the largest number is {float(right.abs().max()):.3g}"
    )


OPS: dict[str, Callable[[Draw], Call]] = {
    "dpc_knn": dpc_knn,
    **{part: part_of_dpc_knn(part) for part in PARTS},
    "dpc_knn_varlen": dpc_knn_varlen,
    "cluster_mean": cluster_mean,
    "spatial_prototypes": spatial_prototypes,
    "rods_pool": rods_pool,
    "perturbed_topk": perturbed_topk,
    "pack_frame_tokens": pack_frame_tokens,
}
