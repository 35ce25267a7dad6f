"""spatial_prototypes: every frame's patches clustered and averaged, level after level."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import counts, oracle, research, vectorised
from benchmarks.cases import Case, clustered
from benchmarks.contest import Contest
from benchmarks.floors import Work, gram
from dynfocus_ops import spatial_prototypes

PAPER = ((16, 8), (6, 3))  # (num_clusters, k) of each level


@dataclass(frozen=True, kw_only=True)
class FramesCase(Case):
    t: int
    n: int
    c: int
    levels: tuple[tuple[int, int], ...] = PAPER

    @property
    def shape(self) -> str:
        return f"{self.t}x{self.n}x{self.c}"

    def at(self, depth: str) -> "FramesCase":
        return replace(super().at(depth), levels=PAPER if depth == "smoke" else self.levels)


FRAMES = FramesCase(used_by="DynFocus", t=64, n=256, c=1408, depth="quick")
CASES = [
    FRAMES,
    replace(FRAMES, dtype=torch.bfloat16),
    replace(FRAMES, used_by="DynFocus, an image", t=1, depth="full"),
    FramesCase(used_by="Chat-UniVi, video", t=64, n=256, c=1024, levels=((64, 5), (32, 3), (16, 3))),
]

# Labels are compared with float64's own, and where two distances are a rounding apart a frame may rightly differ.
OWN_SHARE = 0.98


@pytest.mark.parametrize("case", CASES, ids=str)
def test_spatial_prototypes(case: FramesCase, contest: Contest, depth: str) -> None:
    small = case.at(depth)
    x, levels = clustered((small.t, small.n, small.c), small.levels[0][0], small.dtype), small.levels
    contenders: dict[str, Callable[[], Any]] = {
        "ours": lambda: spatial_prototypes(x, levels),
        "research": lambda: research.spatial_prototypes(x, levels),
    }
    for name, function in vectorised.with_either_smallest(vectorised.spatial_prototypes, depth).items():
        contenders[name] = partial(function, x, levels)
    if case.dtype != torch.float32:
        upcast = x.float()
        contenders["ours, fp32"] = lambda: spatial_prototypes(upcast, levels)

    first = oracle.labels(x, *levels[0]).assignment

    def share(_: str, result: tuple[Tensor, list[Tensor]]) -> float:
        return share_of_levels(x, first, levels, *result)

    cost = counts.spatial_prototypes(small.t, small.n, small.c, levels, x.itemsize)
    contest(case, contenders, share, Work(cost, gram(x), share=0.5), own_share=OWN_SHARE)


def share_of_levels(
    x: Tensor, expected: Tensor, levels: tuple[Any, ...], prototypes: Tensor, assignments: list[Tensor]
) -> float:
    """The lowest over the levels, each given the prototypes below as they came out; `expected` are the first labels."""
    shares = []
    means_of = prototypes.split([clusters for clusters, _ in levels], 1)
    for level, (assignment, means) in enumerate(zip(assignments, means_of, strict=True)):
        num_clusters, k = levels[level]
        if level:
            expected = oracle.labels(x, num_clusters, k).assignment
        shares.append((assignment == expected).double().mean().item())
        shares.append(oracle.close_share(means, oracle.cluster_means(x, assignment, num_clusters)))
        x = means
    return min(shares)
