"""Estimators of the perturbed top-k's gradient against the gradient itself: their variance, bias and direction."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from dynfocus_ops import perturbed_topk

SIGMA = 0.1
NUM_SAMPLES = 500
REPETITIONS = 500
REFERENCE_SAMPLES, REFERENCE_PARTS = 2_000_000, 20
WEIGHT_SAMPLES = 20_000
NUMBERS = 1 << 22  # of noise at a time, where it is kept

PAPER = (25, 20)
SHAPES = (PAPER, (16, 6), (64, 16), (256, 128))  # L, K
SWEEP = (50, 100, NUM_SAMPLES, 1000)  # numbers of samples, for one case of the paper's shape

Estimator = Callable[[Tensor, Tensor, int, Generator], Tensor]  # scores [R, L], G [K, L], n: R estimates [R, L]


def spread(length: int, generator: Generator) -> Tensor:
    return torch.linspace(0, 1, length)[torch.randperm(length, generator=generator)]


def uniform(length: int, generator: Generator) -> Tensor:
    scores = torch.rand(length, generator=generator)
    return (scores - scores.min()) / (scores.max() - scores.min())


def two_groups(length: int, generator: Generator) -> Tensor:
    """Three in five near 1, the others near 0: K never falls between the groups, where there is nothing to learn."""
    high = torch.randperm(length, generator=generator) < round(0.6 * length)
    return torch.where(high, 0.95, 0.0) + 0.05 * torch.rand(length, generator=generator)


def independent(k: int, length: int, generator: Generator) -> Tensor:
    return torch.randn(k, length, generator=generator)


def alike(k: int, length: int, generator: Generator) -> Tensor:
    """G_jl = ⟨a_j, m_l⟩ of prototypes m_l whose cosines are about 0.8: a video whose frames look alike."""
    channels = 64
    prototypes = 2 * torch.randn(channels, generator=generator) + torch.randn(length, channels, generator=generator)
    return torch.randn(k, channels, generator=generator) @ prototypes.t()


def same_in_every_place(k: int, length: int, generator: Generator) -> Tensor:
    """G_jl = c_l: which events are chosen counts, their places do not."""
    return torch.randn(length, generator=generator).expand(k, -1)


SCORES = {"evenly spread": spread, "uniform": uniform, "two tight groups": two_groups}
GRADIENTS = {"independent": independent, "prototypes alike": alike, "same in every place": same_in_every_place}


@dataclass(frozen=True)
class Case:
    length: int
    k: int
    scores: str
    gradient: str

    def draw(self) -> tuple[Tensor, Tensor]:
        """Scores [L] on [0, 1] and G [K, L]."""
        generator = Generator().manual_seed(0)
        scores = SCORES[self.scores](self.length, generator)
        return scores, GRADIENTS[self.gradient](self.k, self.length, generator)


def plain(scores: Tensor, gradient: Tensor, num_samples: int, generator: Generator) -> Tensor:
    """1 / (n σ) Σ_s w_s Z_s: the formula without a baseline."""
    estimates = []
    for part in scores.split(max(1, NUMBERS // (num_samples * scores.shape[1]))):
        noise = torch.randn(len(part), num_samples, scores.shape[1], generator=generator)
        weights = weights_of(part.unsqueeze(1) + SIGMA * noise, gradient)
        estimates.append((weights.unsqueeze(-1) * noise).mean(1) / SIGMA)
    return torch.cat(estimates)


def weights_of(perturbed: Tensor, gradient: Tensor) -> Tensor:
    """w = ⟨G, P⟩ of the top-k of each of perturbed [..., L], in the order of the indices."""
    k, length = gradient.shape
    chosen = perturbed.topk(k).indices.sort(-1).values
    return gradient.flatten()[chosen + torch.arange(k) * length].sum(-1)


def of_the_op(**options: Any) -> Estimator:
    """The op's own; the rows of a batch draw different noise."""

    def estimate(scores: Tensor, gradient: Tensor, num_samples: int, generator: Generator) -> Tensor:
        scores = scores.clone().requires_grad_()
        seed = torch.randint(2**63 - 1, (), generator=generator)
        indicators = perturbed_topk(scores, len(gradient), num_samples=num_samples, sigma=SIGMA, seed=seed, **options)
        return torch.autograd.grad(indicators, scores, gradient.expand_as(indicators))[0]

    return estimate


LEAVE_ONE_OUT = of_the_op()
ESTIMATORS: dict[str, Estimator] = {
    "plain": plain,
    "leave-one-out": LEAVE_ONE_OUT,
    "antithetic": of_the_op(antithetic=True),
    "diagonal": of_the_op(grad="diagonal"),
}

# The scores vary under one kind of G, and G under one kind of scores.
KINDS = [(scores, "independent") for scores in SCORES] + [("uniform", gradient) for gradient in list(GRADIENTS)[1:]]
CASES = [Case(*shape, *kinds) for shape in SHAPES for kinds in KINDS]
SWEPT = Case(*PAPER, "uniform", "independent")


def measure(cases: Iterable[Case] = CASES) -> dict[str, Any]:
    """The document that is kept."""
    settings = {"sigma": SIGMA, "repetitions": REPETITIONS, "reference_samples": REFERENCE_SAMPLES}
    return {**settings, "cases": [measured(case) for case in cases]}


def measured(case: Case) -> dict[str, Any]:
    """Errors are squared and in units of ‖g‖², as is the reference's own."""
    scores, gradient = case.draw()
    generator = Generator().manual_seed(1)
    noise = torch.randn(WEIGHT_SAMPLES, case.length, generator=generator)
    weights, opposite = (weights_of(scores + sign * SIGMA * noise, gradient) for sign in (1, -1))
    parts = LEAVE_ONE_OUT(
        scores.expand(REFERENCE_PARTS, -1), gradient, REFERENCE_SAMPLES // REFERENCE_PARTS, generator
    ).double()
    reference = parts.mean(0)
    about = {
        "mean_squared_over_variance": weights.mean() ** 2 / weights.var(),
        "correlation_of_pairs": torch.stack((weights, opposite)).corrcoef()[0, 1],
        "reference_error": parts.var(0).sum() / REFERENCE_PARTS / reference.square().sum(),
    }
    estimates = [
        {
            "num_samples": n,
            "estimator": name,
            **compared(estimate(scores.expand(REPETITIONS, -1), gradient, n, generator).double(), reference),
        }
        for n in (SWEEP if case == SWEPT else (NUM_SAMPLES,))
        for name, estimate in ESTIMATORS.items()
    ]
    return {**asdict(case), **rounded(about), "estimates": estimates}


def compared(estimates: Tensor, reference: Tensor) -> dict[str, float]:
    """estimates [R, L] with reference [L]."""
    unit = reference.square().sum()
    errors = (estimates - reference).square().sum(1) / unit
    variance = estimates.var(0).sum() / unit
    mean_error = (estimates.mean(0) - reference).square().sum() / unit
    numbers = {
        "relative_error": errors.mean(),
        "standard_error": errors.std() / len(estimates) ** 0.5,
        "variance": variance,
        "bias_squared": mean_error - variance / len(estimates),  # what a mean of so many is off by without any
        "cosine": torch.cosine_similarity(estimates, reference, dim=-1).mean(),
    }
    return rounded(numbers)


def rounded(numbers: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(f"{float(number):.4g}") for name, number in numbers.items()}
