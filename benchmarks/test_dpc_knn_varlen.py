"""dpc_knn_varlen: what takes a project one call a frame or window, in one."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks import counts, oracle, research, vectorised
from benchmarks.cases import Case, clustered
from benchmarks.contest import Contest
from benchmarks.floors import Work
from dynfocus_ops import dpc_knn, dpc_knn_varlen


@dataclass(frozen=True, kw_only=True)
class SegmentsCase(Case):
    segments: int
    shortest: int
    n: int  # of the longest
    c: int
    ratio: float  # clusters a point
    k: int

    @property
    def shape(self) -> str:
        return f"{self.segments}x{self.shortest}..{self.n}x{self.c}"

    def lengths(self) -> list[int]:
        return torch.linspace(min(self.shortest, self.n), self.n, self.segments).int().tolist()


FLASHVID = SegmentsCase(
    used_by="FlashVID", segments=32, shortest=35, n=178, c=3584, ratio=0.1, k=7, depth="quick", dtype=torch.bfloat16
)
CASES = [
    replace(FLASHVID, dtype=torch.float32),
    FLASHVID,
    SegmentsCase(used_by="PruneVid", segments=21, shortest=15, n=144, c=4096, ratio=0.5, k=7, dtype=torch.bfloat16),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dpc_knn_varlen(case: SegmentsCase, contest: Contest, depth: str) -> None:
    small = case.at(depth)
    lengths = small.lengths()
    num_clusters = [max(small.k, round(small.ratio * length)) for length in lengths]
    segments = [clustered((n, small.c), c, small.dtype) for n, c in zip(lengths, num_clusters, strict=True)]
    x, bounds = torch.cat(segments), [0, *torch.tensor(lengths).cumsum(0).tolist()]
    exact = [oracle.Clustering(s.unsqueeze(0), c, small.k) for s, c in zip(segments, num_clusters, strict=True)]
    cu_seqlens, neighbors = torch.tensor(bounds), [small.k] * len(lengths)

    def one_call() -> list[Tensor]:
        result = dpc_knn_varlen(x, cu_seqlens, num_clusters, neighbors, max_seqlen=max(lengths))
        return list(result)

    def each(op: Callable[..., Any]) -> Callable[[], list[Any]]:
        pairs = list(zip(segments, num_clusters, strict=True))
        return lambda: [op(segment.unsqueeze(0), clusters, small.k) for segment, clusters in pairs]

    def share(name: str, result: list[Any]) -> float:
        if name == "ours":
            result = by_segment(result, bounds)
        shares = [len(segment) * one.share(found) for segment, one, found in zip(segments, exact, result, strict=True)]
        return sum(shares) / len(x)

    contenders = {"ours": one_call, "ours, a call each": each(dpc_knn), "research, a call each": each(research.dpc_knn)}
    for name, function in vectorised.with_either_smallest(vectorised.dpc_knn, depth).items():
        contenders[f"{name}, padded"] = padded(function, segments, num_clusters, small.k)
    cost = counts.dpc_knn_varlen(lengths, small.c, num_clusters, x.itemsize)
    contest(case, contenders, share, Work(cost, grams(segments), share=0.5))


def padded(
    op: Callable[..., Any], segments: list[Tensor], num_clusters: list[int], k: int
) -> Callable[[], list[tuple[Tensor, ...]]]:
    """One batch of segments as long as the longest, masked."""
    lengths, clusters_of = torch.tensor([len(segment) for segment in segments]), torch.tensor(num_clusters)
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)

    def run() -> list[tuple[Tensor, ...]]:
        x = pad_sequence(segments, batch_first=True)
        assignment, centers, log_density, delta = op(x, max(num_clusters), k, mask, clusters_of=clusters_of)
        return [
            (assignment[s : s + 1, :n], centers[s : s + 1, :clusters], log_density[s : s + 1, :n], delta[s : s + 1, :n])
            for s, (n, clusters) in enumerate(zip(lengths.tolist(), num_clusters, strict=True))
        ]

    return run


def by_segment(result: list[Tensor], bounds: list[int]) -> list[tuple[Tensor, ...]]:
    """dpc_knn_varlen's outputs as dpc_knn gives them for each segment, a batch of one."""
    assignment, centers, cu_clusters, log_density, delta = result
    return [
        tuple(
            part.unsqueeze(0)
            for part in (
                assignment[start:stop],
                centers[first:last] - start,
                log_density[start:stop],
                delta[start:stop],
            )
        )
        for (start, stop), (first, last) in zip(pairwise(bounds), pairwise(cu_clusters.tolist()), strict=True)
    ]


def grams(segments: list[Tensor]) -> Callable[[], None]:
    points = [segment.float() for segment in segments]
    outs = [point.new_empty(len(point), len(point)) for point in points]

    def run() -> None:
        for point, out in zip(points, outs, strict=True):
            torch.mm(point, point.T, out=out)

    return run
