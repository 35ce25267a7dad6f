"""The perturbed top-k: its random numbers, its value, and its gradient against differences of its expectation."""

import math

import pytest
import torch

from dynfocus_ops import perturbed_topk, reference, use_backend
from dynfocus_ops.backends import interpreted
from dynfocus_ops.reference.perturbed_topk import CHUNK, philox4x32, philox_normal

from .support import LargestTensor, assert_same_bits, backends, golden, gradients

SEED = torch.tensor(20240607)


@pytest.fixture(params=backends("perturbed_topk"))
def backend(request):
    with use_backend(request.param):
        yield request.param


every_backend = pytest.mark.usefixtures("backend")


def plain(scores: torch.Tensor, k: int, noise: torch.Tensor, sigma: float) -> torch.Tensor:
    """The mean indicator of given noise [B, n, L], sample by sample."""
    B, n, L = noise.shape
    indicators = torch.zeros(B, k, L, dtype=torch.float64)
    for b in range(B):
        for s in range(n):
            values = (scores[b] + sigma * noise[b, s]).tolist()
            chosen = sorted(sorted(range(L), key=lambda i, values=values: (-values[i], i))[:k])
            for j, i in enumerate(chosen):
                indicators[b, j, i] += 1 / n
    return indicators


def noise_of(seed: torch.Tensor, B: int, n: int, L: int) -> torch.Tensor:
    return philox_normal(torch.arange(B * n * L).view(B, n, L), seed)


# Known answers of Random123, the authors' own code (kat_vectors: philox4x32, 10 rounds).
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter: tuple, key: tuple, answer: tuple) -> None:
    words = philox4x32(tuple(torch.tensor([word]) for word in counter), tuple(torch.tensor(word) for word in key))
    assert tuple(int(word) for word in words) == answer


def test_seed_and_counter_are_split_into_words() -> None:
    seed, counter = -2, (7 << 32) + 5  # the key is (0xFFFFFFFE, 0xFFFFFFFF)
    r0, r1, _, _ = philox4x32(
        tuple(torch.tensor([word]) for word in (5, 7, 0, 0)), (torch.tensor(0xFFFFFFFE), torch.tensor(0xFFFFFFFF))
    )
    u1, u2 = ((int(r0) >> 8) + 1) / 2**24, (int(r1) >> 8) / 2**24
    expected = math.sqrt(-2 * math.log(u1)) * math.cos(2 * math.pi * u2)
    assert philox_normal(torch.tensor([counter]), torch.tensor(seed)).item() == pytest.approx(expected, abs=1e-5)


def test_noise_is_standard_normal_and_differs_by_counter_and_seed() -> None:
    z = philox_normal(torch.arange(400_000), SEED).double()
    moments = [z.mean(), z.var(), (z**3).mean(), (z**4).mean(), (z[1:] * z[:-1]).mean()]
    torch.testing.assert_close(torch.stack(moments), torch.tensor([0, 1, 0, 3, 0.0]).double(), atol=0.03, rtol=0)
    assert len(z[:10_000].unique()) > 9_990
    assert (philox_normal(torch.arange(1000), SEED + 1).double() == z[:1000]).sum() == 0


@every_backend
@pytest.mark.parametrize(
    ("B", "L", "k", "n"), [(1, 1, 1, 1), (2, 5, 2, 7), (3, 9, 9, CHUNK), (2, 25, 20, 3 * CHUNK + 5)]
)
def test_value_is_the_mean_of_the_samples(B: int, L: int, k: int, n: int) -> None:
    scores = torch.rand(B, L)
    result = perturbed_topk(scores, k, num_samples=n, sigma=0.3, seed=SEED)
    assert result.dtype == torch.float32 and result.shape == (B, k, L)
    torch.testing.assert_close(result.double(), plain(scores, k, noise_of(SEED, B, n, L), 0.3), rtol=0, atol=1e-6)


@every_backend
def test_given_noise_replaces_the_draw() -> None:
    scores, noise = torch.rand(2, 9), torch.randn(2, 30, 9)
    result = perturbed_topk(scores, 4, num_samples=30, noise=noise)
    torch.testing.assert_close(result.double(), plain(scores, 4, noise, 0.1), rtol=0, atol=1e-6)
    drawn = perturbed_topk(scores, 4, num_samples=30, seed=SEED)
    assert_same_bits(drawn, perturbed_topk(scores, 4, num_samples=30, noise=noise_of(SEED, 2, 30, 9)))


@every_backend
@pytest.mark.parametrize("n", [2, 2 * CHUNK, 2 * CHUNK + 6])
@pytest.mark.parametrize("grad", ["full", "diagonal"])
def test_antithetic_samples_come_in_pairs(n: int, grad: str) -> None:
    scores = torch.rand(2, 7)
    half = noise_of(SEED, 2, n, 7)[:, : n // 2]  # the counters of the first half
    both = torch.cat((half, -half), 1)
    result = perturbed_topk(scores, 3, num_samples=n, seed=SEED, antithetic=True, grad=grad)
    assert_same_bits(result, perturbed_topk(scores, 3, num_samples=n, noise=both, grad=grad))

    def backward(scores, **extra):
        return gradients(lambda s: perturbed_topk(s, 3, num_samples=n, grad=grad, **extra), (scores,))[0]

    actual, expected = backward(scores, seed=SEED, antithetic=True), backward(scores, noise=both)
    if grad == "full":  # the pairs' baselines add up to nothing, where leaving one out scales by n / (n - 1)
        expected = expected * (n - 1) / n
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grad", ["full", "diagonal"])
def test_no_tensor_of_samples_by_k_by_length(grad: str) -> None:
    k, n, L = 10, 1000, 30
    scores, G = torch.rand(1, L), torch.randn(1, k, L)
    with LargestTensor() as largest:
        reference.perturbed_topk(scores, k, n, 0.1, SEED, None, False)
        reference.perturbed_topk_backward(G, scores, n, 0.1, SEED, None, False, grad == "diagonal")
    assert CHUNK * L <= largest.numbers < n * k * L / 10


@every_backend
def test_ties_go_to_the_lower_index() -> None:
    result = perturbed_topk(torch.zeros(1, 6), 2, num_samples=3, noise=torch.zeros(1, 3, 6))
    assert result[0].argmax(-1).tolist() == [0, 1] and result.sum() == 2


@every_backend
def test_order_is_that_of_the_indices() -> None:
    result = perturbed_topk(torch.tensor([[1.0, 9.0, 0.0, 5.0, 7.0]]), 3, sigma=1e-3, num_samples=10)
    assert result[0].argmax(-1).tolist() == [1, 3, 4] and result.max(-1).values.eq(1).all()


ROWS = 100  # many samples, as many rows of few: the rows of a batch draw different noise


def mean_indicators(scores: torch.Tensor, k: int, sigma: float, **extra) -> torch.Tensor:
    """E P(scores + sigma Z), by 100,000 samples or more: scores [L] to [k, L]."""
    return perturbed_topk(scores.expand(ROWS, -1), k, num_samples=1000, sigma=sigma, **extra).mean(0)


@pytest.mark.skipif(interpreted(), reason="two million samples: the formula's other tests are enough for a kernel")
@every_backend
def test_full_gradient_is_that_of_the_expectation() -> None:
    """Against central differences with common random numbers; at these sample counts both err by a few per cent."""
    L, k, sigma, step = 8, 3, 0.5, 0.1
    scores, G = torch.randn(L) * 0.3, torch.randn(k, L)
    noise = torch.randn(ROWS, 1000, L)
    above, below = (
        torch.stack(
            [
                (G * mean_indicators(shifted, k, sigma, noise=noise)).sum()
                for shifted in scores + sign * step * torch.eye(L)
            ]
        )
        for sign in (1, -1)
    )
    difference = (above - below) / (2 * step)

    def error(**extra) -> float:
        leaf = scores.clone().requires_grad_()
        P = mean_indicators(leaf, k, sigma, seed=SEED, **extra)
        (grad,) = torch.autograd.grad((G * P).sum(), leaf)
        return float((grad - difference).norm() / difference.norm())

    assert error() < 0.08
    assert error(antithetic=True) < 0.08
    assert error(grad="diagonal") > 0.2  # the released code's is another direction


def test_full_gradient_of_two_scores_in_closed_form() -> None:
    """P(0 chosen) = Phi((s_0 - s_1) / (sigma sqrt 2)) for k = 1, L = 2."""
    scores = torch.tensor([0.3, 0.1], dtype=torch.float64, requires_grad=True)
    P = mean_indicators(scores, 1, 0.2, seed=SEED)
    spread = 0.2 * math.sqrt(2)
    assert P[0, 0].item() == pytest.approx(0.5 * (1 + math.erf(0.2 / spread / math.sqrt(2))), abs=5e-3)
    slope = math.exp(-0.5 * (0.2 / spread) ** 2) / (spread * math.sqrt(2 * math.pi))
    (grad,) = torch.autograd.grad(P[0, 0], scores)
    torch.testing.assert_close(grad, torch.tensor([slope, -slope], dtype=torch.float64), rtol=0.03, atol=0)


@every_backend
@pytest.mark.parametrize(("grad", "n"), [("full", 1), ("full", 2), ("full", 70), ("diagonal", 1), ("diagonal", 70)])
def test_gradient_is_its_formula(grad: str, n: int) -> None:
    B, L, k, sigma = 2, 6, 3, 0.2
    scores, G = torch.rand(B, L, requires_grad=True), torch.randn(B, k, L)
    noise = noise_of(SEED, B, n, L)
    expected = torch.zeros(B, L, dtype=torch.float64)
    for b in range(B):
        indicators = [plain(scores[b : b + 1].detach(), k, noise[b : b + 1, s : s + 1], sigma)[0] for s in range(n)]
        w = [(G[b] * P).sum() for P in indicators]
        for s in range(n):
            z = noise[b, s].double()
            if grad == "full":
                baseline = (sum(w) - w[s]) / (n - 1) if n > 1 else 0
                expected[b] += (w[s] - baseline) * z / (n * sigma)
            else:
                expected[b] += (G[b] * indicators[s]).sum(0) * z / (n * sigma)
    P = perturbed_topk(scores, k, num_samples=n, sigma=sigma, seed=SEED, grad=grad)
    (actual,) = torch.autograd.grad((G * P).sum(), scores)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4)


@every_backend
def test_a_constant_in_the_gradient_adds_no_noise() -> None:
    """What the baseline is for: <G, P_s> is the same for all samples, so the gradient is exactly 0."""
    scores = torch.rand(2, 9, requires_grad=True)
    for extra in ({}, {"antithetic": True}):
        P = perturbed_topk(scores, 4, num_samples=64, seed=SEED, **extra)
        assert torch.autograd.grad(2 * P.sum(), scores)[0].abs().max() == 0


@every_backend
@pytest.mark.parametrize("name", ["perturbed_topk_paper", "perturbed_topk_tight"])
def test_golden_value_and_diagonal_gradient(name: str) -> None:
    tensors, metadata = golden(name)
    scores = tensors["scores"].requires_grad_()
    result = perturbed_topk(
        scores,
        int(metadata["k"]),
        num_samples=int(metadata["num_samples"]),
        sigma=float(metadata["sigma"]),
        noise=tensors["noise"],
        grad="diagonal",
    )
    torch.testing.assert_close(result, tensors["indicators"], rtol=0, atol=1e-6)
    (grad,) = torch.autograd.grad((result * tensors["grad_indicators"]).sum(), scores)
    torch.testing.assert_close(grad, tensors["grad_scores"], rtol=1e-4, atol=1e-4)


@every_backend
def test_seed_comes_from_torch() -> None:
    scores = torch.rand(1, 12)
    torch.manual_seed(5)
    first, second = (perturbed_topk(scores, 4, num_samples=50) for _ in range(2))
    torch.manual_seed(5)
    assert_same_bits(perturbed_topk(scores, 4, num_samples=50), first)
    assert not torch.equal(first, second)


def test_a_draw_inside_a_compiled_function_differs_from_call_to_call() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda s: perturbed_topk(s, 4, num_samples=50), fullgraph=True, backend="aot_eager")
    scores = torch.rand(1, 12)
    assert not torch.equal(compiled(scores), compiled(scores))


@every_backend
def test_rows_of_other_samples_change_no_bit() -> None:
    def select(scores: torch.Tensor) -> torch.Tensor:
        return perturbed_topk(scores, 4, num_samples=40, seed=SEED)

    scores = torch.rand(3, 12)
    expected = select(scores), gradients(select, (scores,))[0]
    changed = scores.clone()
    changed[[0, 2]] = torch.rand(2, 12)
    assert_same_bits(select(changed)[1], expected[0][1])
    assert_same_bits(gradients(select, (changed,))[0][1], expected[1][1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    scores = torch.rand(2, 12).to(dtype).requires_grad_()
    result = perturbed_topk(scores, 4, num_samples=20, seed=SEED)
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.autograd.grad(result[0, 0, 0], scores)[0].dtype == dtype


def test_noise_in_float64_is_computed_with_in_float64() -> None:
    scores, noise = torch.zeros(1, 9), 1e-60 * torch.randn(1, 20, 9, dtype=torch.float64)  # 0 in float32
    exact = perturbed_topk(scores.double(), 4, num_samples=20, noise=noise)
    assert_same_bits(perturbed_topk(scores, 4, num_samples=20, noise=noise), exact)


S = torch.zeros(2, 6)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, r"scores has shape \[6\], it must be \[B, L\]", {"scores": S[0]}),
        (TypeError, r"scores is torch.int64", {"scores": S.long()}),
        (ValueError, r"k is 7, it must be at most 6, the length of scores", {"k": 7}),
        (ValueError, r"num_samples is 0, it must be at least 1", {"num_samples": 0}),
        (ValueError, r"num_samples is 5, it must be even", {"num_samples": 5, "antithetic": True}),
        (ValueError, r"sigma is 0, it must be a positive number", {"sigma": 0}),
        (ValueError, r"sigma is nan, it must be a positive number", {"sigma": math.nan}),
        (TypeError, r"seed is int, it must be an int64 tensor", {"seed": 3}),
        (TypeError, r"seed is torch.int32, it must be an int64 tensor", {"seed": SEED.int()}),
        (ValueError, r"seed has shape \[2\], it must be one number", {"seed": torch.tensor([1, 2])}),
        (ValueError, r"noise has shape \[2, 4, 6\], it must be \[B, num_samples, L\]", {"noise": torch.zeros(2, 4, 6)}),
        (ValueError, r"noise is given together with", {"noise": torch.zeros(2, 8, 6), "seed": SEED}),
        (ValueError, r"grad is 'half', it must be 'full' or 'diagonal'", {"grad": "half"}),
    ],
)
def test_errors_name_the_argument(error: type, message: str, arguments: dict) -> None:
    with pytest.raises(error, match=message):
        perturbed_topk(**{"scores": S, "k": 2, "num_samples": 8, **arguments})
