"""dpc_knn: the shapes projects use, its growth in N, and its density half against nearest-neighbour libraries."""

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
from benchmarks.half_ops import knn_log_density_by
from dynfocus_ops import dpc_knn, knn_log_density


@dataclass(frozen=True, kw_only=True)
class PointsCase(Case):
    b: int
    n: int
    c: int
    clusters: int
    k: int
    masked: bool = False  # samples of n / 2 to n valid points

    @property
    def shape(self) -> str:
        return f"{self.b}x{self.n}x{self.c}-{self.clusters}-k{self.k}" + "-masked" * self.masked


EVENTS = PointsCase(used_by="DynFocus, events", b=1, n=1000, c=22528, clusters=25, k=8, depth="quick")
LARGE = PointsCase(used_by="Chat-UniVi, events", b=4, n=4096, c=1024, clusters=64, k=5, depth="quick")
NARROW = PointsCase(used_by="TCFormer 224²", b=8, n=3136, c=128, clusters=784, k=5, depth="quick")
CASES = [
    EVENTS,
    replace(EVENTS, dtype=torch.bfloat16),
    LARGE,
    NARROW,
    PointsCase(used_by="FastVID", b=32, n=184, c=3584, clusters=7, k=4, dtype=torch.bfloat16, depth="quick"),
    PointsCase(used_by="DynFocus, level 2", b=64, n=16, c=1408, clusters=6, k=3),
    PointsCase(used_by="Chat-UniVi, image", b=1, n=256, c=1024, clusters=64, k=5, dtype=torch.bfloat16),
    PointsCase(used_by="PruneVid, window", b=1, n=144, c=4096, clusters=72, k=7, dtype=torch.bfloat16),
    PointsCase(used_by="HoliTom, window", b=1, n=196, c=3584, clusters=49, k=7, dtype=torch.bfloat16),
    PointsCase(used_by="SparseVLM", b=1, n=83, c=4096, clusters=9, k=9, dtype=torch.float16),
    PointsCase(used_by="TCFormer, level 2", b=8, n=784, c=320, clusters=196, k=5),
    PointsCase(used_by="HBI", b=128, n=32, c=512, clusters=8, k=3, masked=True),
    PointsCase(used_by="HoT", b=64, n=243, c=512, clusters=81, k=2),
    PointsCase(used_by="ERMVP", b=2, n=2160, c=256, clusters=432, k=10),
]
GROWTH = [
    PointsCase(used_by="growth in N", b=1, n=n, c=64, clusters=64, k=5, depth="full" if n > 16384 else "quick")
    for n in (1024, 4096, 16384, 65536)
]
DENSITY = [GROWTH[1], *(replace(case, depth="full") for case in (EVENTS, LARGE, NARROW))]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dpc_knn(case: PointsCase, contest: Contest, depth: str) -> None:
    small = case.at(depth)
    x, mask = inputs(small)
    clusters, k = small.clusters, small.k
    contenders: dict[str, Callable[[], Any]] = {
        "ours": lambda: dpc_knn(x, clusters, k, mask=mask),
        "research": lambda: research.dpc_knn(x, clusters, k, mask),
    }
    for name, function in vectorised.with_either_smallest(vectorised.dpc_knn, depth).items():
        contenders[name] = partial(function, x, clusters, k, mask)
    if case.dtype != torch.float32 and case.used_by == EVENTS.used_by:
        upcast = x.float()
        contenders["ours, fp32"] = lambda: dpc_knn(upcast, clusters, k, mask=mask)
    exact = oracle.Clustering(x, clusters, k, mask)
    contest(case, contenders, lambda _, result: exact.share(result), work_of(x, clusters))


@pytest.mark.parametrize("case", GROWTH, ids=str)
def test_dpc_knn_growth(case: PointsCase, contest: Contest, depth: str) -> None:
    small = case.at(depth)
    x, _ = inputs(small)
    clusters, k = small.clusters, small.k
    contenders = {"ours": lambda: dpc_knn(x, clusters, k)}
    if case.n <= 16384:  # beyond, one of its matrices is 17 GB
        contenders["research"] = lambda: research.dpc_knn(x, clusters, k)
    exact = oracle.Clustering(x, clusters, k)
    contest(case, contenders, lambda _, result: exact.share(result), work_of(x, clusters))


@pytest.mark.parametrize("case", DENSITY, ids=str)
def test_knn_log_density(case: PointsCase, contest: Contest, depth: str) -> None:
    small = case.at(depth)
    x, _ = inputs(small)
    contenders = {"ours": lambda: knn_log_density(x, small.k), **knn_log_density_by(x, small.k)}
    for name, function in vectorised.with_either_smallest(vectorised.knn_log_density, depth).items():
        contenders[name] = partial(function, x, small.k)
    exact = oracle.Clustering(x, small.clusters, small.k)
    contest(case, contenders, lambda _, result: exact.density_share(result), work_of(x, 0))


def inputs(case: PointsCase) -> tuple[Tensor, Tensor | None]:
    x = clustered((case.b, case.n, case.c), case.clusters, case.dtype)
    if not case.masked:
        return x, None
    lengths = torch.randint(case.n // 2, case.n + 1, (case.b, 1))
    return x, torch.arange(case.n) < lengths


def work_of(x: Tensor, clusters: int) -> Work:
    b, n, c = x.shape
    return Work(counts.dpc_knn(b, n, c, clusters, x.itemsize), gram(x), share=0.5)
