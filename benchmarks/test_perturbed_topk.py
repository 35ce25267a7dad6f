"""perturbed_topk, forward and backward: selection that a loss can train."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from benchmarks import counts, oracle, research, vectorised
from benchmarks.cases import Case
from benchmarks.contest import Contest
from benchmarks.floors import Work
from dynfocus_ops import perturbed_topk
from dynfocus_ops.reference.perturbed_topk import philox_normal

SIGMA = 0.1


@dataclass(frozen=True, kw_only=True)
class SelectionCase(Case):
    b: int
    length: int
    k: int
    samples: int

    @property
    def shape(self) -> str:
        return f"b{self.b}-l{self.length}-k{self.k}-n{self.samples}"


CASES = [
    SelectionCase(used_by="patch selection", b=1, length=256, k=128, samples=1000, depth="quick"),
    SelectionCase(used_by="DynFocus, events", b=8, length=25, k=20, samples=500, depth="quick"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_perturbed_topk(case: SelectionCase, contest: Contest, depth: str) -> None:
    small = case.at(depth)
    scores = torch.rand(small.b, small.length, requires_grad=True)
    grad = torch.randn(small.b, small.k, small.length)
    seed = torch.tensor(0)
    last_noise = scores  # what a peer drew in its last call

    def draw() -> Tensor:
        nonlocal last_noise
        last_noise = torch.randn(small.b, small.samples, small.length)
        return last_noise

    def ours() -> tuple[Tensor, Tensor]:
        return with_gradient(perturbed_topk(scores, small.k, num_samples=small.samples, sigma=SIGMA, seed=seed))

    def with_gradient(indicators: Tensor) -> tuple[Tensor, Tensor]:
        return indicators.detach(), torch.autograd.grad(indicators, scores, grad)[0]

    def share(name: str, result: tuple[Tensor, Tensor]) -> float:
        noise = philox_normal(torch.arange(last_noise.numel()), seed).view(last_noise.shape)
        exact = exact_selection(scores.detach(), grad, noise if name == "ours" else last_noise)
        expected = (exact[0], exact[2 if name == "research" else 1])
        return min(oracle.close_share(*pair) for pair in zip(result, expected, strict=True))

    draw()
    compiled = vectorised.compiled(vectorised.perturbed_topk, depth)
    contenders: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "ours": ours,
        "research": lambda: with_gradient(research.PerturbedTopK.apply(scores, small.k, SIGMA, draw)),
        "vectorised": lambda: vectorised.perturbed_topk(scores.detach(), grad, draw(), SIGMA),
        "compiled": lambda: compiled(scores.detach(), grad, draw(), SIGMA),
    }
    # Of thousands of samples one may rightly choose otherwise: two scores a rounding apart.
    contest(case, contenders, share, Work(counts.NOTHING), own_share=0.99)


def exact_selection(scores: Tensor, grad: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In float64: the indicators, the gradient of the scores in whole and on its diagonal."""
    scores, grad, noise = scores.double(), grad.double(), noise.double()
    num_samples, k = noise.shape[1], grad.shape[1]
    chosen = (scores.unsqueeze(1) + SIGMA * noise).topk(k).indices.sort(-1).values
    slots = (chosen + torch.arange(k) * scores.shape[1]).flatten(1)
    counts = torch.zeros_like(grad).flatten(1).scatter_add_(1, slots, torch.ones_like(slots, dtype=grad.dtype))
    picked = grad.flatten(1).gather(1, slots).view(chosen.shape)  # of G, what each sample chose
    weights = picked.sum(-1, keepdim=True)
    whole = ((weights - weights.mean(1, keepdim=True)) * noise).sum(1) / ((num_samples - 1) * SIGMA)
    diagonal = (torch.zeros_like(noise).scatter_(2, chosen, picked) * noise).sum(1) / (num_samples * SIGMA)
    return counts.view(grad.shape) / num_samples, whole, diagonal
