"""cluster_mean, forward and backward."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from benchmarks import counts, oracle, research, vectorised
from benchmarks.cases import Case
from benchmarks.contest import Contest
from benchmarks.floors import Work
from dynfocus_ops import cluster_mean


@dataclass(frozen=True, kw_only=True)
class MeansCase(Case):
    b: int
    n: int
    c: int
    clusters: int

    @property
    def shape(self) -> str:
        return f"{self.b}x{self.n}x{self.c}-{self.clusters}"


PATCHES = MeansCase(used_by="DynFocus, patches", b=64, n=256, c=1408, clusters=16, depth="quick")
CASES = [
    PATCHES,
    replace(PATCHES, dtype=torch.bfloat16, depth="full"),
    MeansCase(used_by="DynFocus, events", b=1, n=1000, c=22528, clusters=25),
    MeansCase(used_by="TCFormer 224²", b=8, n=3136, c=128, clusters=784),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cluster_mean(case: MeansCase, contest: Contest, depth: str) -> None:
    small = case.at(depth)
    x = torch.randn(small.b, small.n, small.c).to(small.dtype).requires_grad_()
    assignment = torch.randint(small.clusters, (small.b, small.n))
    grad = torch.randn(small.b, small.clusters, small.c).to(small.dtype)

    def both_ways(op: Callable[..., Tensor]) -> Callable[[], tuple[Tensor, Tensor]]:
        def run() -> tuple[Tensor, Tensor]:
            means = op(x, assignment, small.clusters)
            return means.detach(), torch.autograd.grad(means, x, grad)[0]

        return run

    contenders = {
        "ours": both_ways(cluster_mean),
        "research": both_ways(research.cluster_mean),
        "vectorised": both_ways(vectorised.cluster_mean),
        "compiled": both_ways(vectorised.compiled(vectorised.cluster_mean, depth)),
    }
    exact = exact_means(x.detach(), assignment, grad)

    def share(_: str, result: tuple[Tensor, Tensor]) -> float:
        return min(oracle.close_share(*pair) for pair in zip(result, exact, strict=True))

    sizes = (small.b, small.n, small.c, small.clusters, x.itemsize)
    contest(case, contenders, share, Work(counts.cluster_mean(*sizes) + counts.cluster_mean_backward(*sizes)))


def exact_means(x: Tensor, assignment: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    num_clusters = grad.shape[1]
    members = torch.nn.functional.one_hot(assignment, num_clusters).double().sum(1).clamp(min=1).unsqueeze(-1)
    spread = (grad.double() / members).gather(1, assignment.unsqueeze(-1).expand_as(x))
    return oracle.cluster_means(x, assignment, num_clusters), spread
