"""torch.ops.dynfocus_native.perturbed_topk and its gradient against oracle and float64, on every instruction set."""

import resource
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dynfocus_ops import reference
from dynfocus_ops.reference.perturbed_topk import philox_normal
from tests.ops.selection import NORMALS_AT_THE_ENDS, draw, exact_gradient, exact_normals, near_ties, units_off

ops = torch.ops.dynfocus_native
CAPABILITIES = ("baseline", "avx2", "avx512", "avx512_bf16")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SEED = torch.tensor(-987654321)
SHAPES = [  # B, L, k, n: below and above the 32 that are ranked at once, and what does not fill a vector
    (1, 1, 1, 1),
    (2, 5, 5, 3),
    (3, 25, 20, 70),
    (1, 32, 31, 33),
    (2, 33, 1, 64),
    (2, 255, 128, 40),
    (1, 1000, 300, 9),
]


@pytest.fixture(params=CAPABILITIES)
def capability(request, monkeypatch, runnable_capabilities) -> str:
    if request.param not in runnable_capabilities:
        pytest.skip(f"this CPU or this build has no {request.param}")
    monkeypatch.setenv("DYNFOCUS_CPU_CAPABILITY", request.param)
    return request.param


def forward(scores: Tensor, k: int, n: int, sigma: float = 0.1, noise: Tensor | None = None, antithetic: bool = False):
    return ops.perturbed_topk(scores, k, n, sigma, SEED if noise is None else None, noise, antithetic)


def backward(
    grad: Tensor,
    scores: Tensor,
    n: int,
    sigma: float = 0.1,
    noise: Tensor | None = None,
    antithetic: bool = False,
    diagonal: bool = False,
) -> Tensor:
    return ops.perturbed_topk_backward(
        grad, scores, n, sigma, SEED if noise is None else None, noise, antithetic, diagonal
    )


@pytest.mark.parametrize(
    ("first", "count"), [(0, 200_000), (2**32 - 19, 77), (2**40 + 5, 33), (2**63 - 9, 8), (3, 1), (3, 0)]
)
def test_normals_are_within_four_units_in_the_last_place(capability: str, first: int, count: int) -> None:
    found = ops.perturbed_topk_noise(SEED, first, count)
    expected = exact_normals(first + torch.arange(count), SEED)
    assert found.shape == (count,) and (units_off(found, expected) <= 4).all()


@pytest.mark.parametrize(("seed", "expected"), NORMALS_AT_THE_ENDS)
def test_normals_at_the_ends(capability: str, seed: int, expected: float) -> None:
    assert ops.perturbed_topk_noise(torch.tensor(seed), 0, 1).item() == pytest.approx(
        expected, rel=4 * 2**-23, abs=1e-15
    )
    oracle = philox_normal(torch.zeros(1, dtype=torch.int64), torch.tensor(seed)).item()
    assert oracle == pytest.approx(expected, rel=2**-23, abs=1e-15)


def test_each_row_and_sample_has_its_own_counters(capability: str) -> None:
    """With all scores chosen and G the identity, the diagonal gradient is the mean of Z / sigma over the samples."""
    B, n, L = 3, 7, 70
    z = ops.perturbed_topk_noise(SEED, 0, B * n * L).view(B, n, L).double()
    found = backward(torch.eye(L).expand(B, L, L), torch.zeros(B, L), n, 1.0, diagonal=True)
    torch.testing.assert_close(found.double(), z.mean(1), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_given_noise_gives_the_bits_of_the_oracle(capability: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    B, L, k, n = shape
    scores, noise = torch.rand(B, L).to(dtype), torch.randn(B, n, L).to(dtype)
    found = forward(scores, k, n, 0.3, noise)
    assert found.dtype == torch.float32
    assert torch.equal(found, reference.perturbed_topk(scores, k, n, 0.3, None, noise, False))


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_drawn_noise_chooses_as_the_oracle(capability: str, shape: tuple[int, ...], antithetic: bool) -> None:
    B, L, k, n = shape
    n += n % 2 if antithetic else 0
    scores = torch.rand(B, L)
    found = forward(scores, k, n, antithetic=antithetic)
    expected = reference.perturbed_topk(scores, k, n, 0.1, SEED, None, antithetic)
    moved = ((found - expected).abs().sum((1, 2)) * n / 2).round()
    assert (moved <= k * near_ties(scores, k, 0.1, draw(scores, n, SEED, antithetic))).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(B, k))


@pytest.mark.parametrize("kind", ["full", "antithetic", "diagonal", "antithetic diagonal"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_equals_float64(capability: str, dtype: torch.dtype, shape: tuple[int, ...], kind: str) -> None:
    B, L, k, n = shape
    antithetic, diagonal = "antithetic" in kind, "diagonal" in kind
    n += n % 2 if antithetic else 0
    scores, grad = torch.rand(B, L).to(dtype), torch.randn(B, k, L)
    z = draw(scores, n, SEED, antithetic)
    assert (near_ties(scores, k, 0.1, z) == 0).all() or dtype != torch.float32, "choose another seed"
    expected, magnitude = exact_gradient(grad, scores, 0.1, z, antithetic, diagonal)
    found = backward(grad, scores, n, antithetic=antithetic, diagonal=diagonal).double()
    assert ((found - expected).abs() <= 1e-6 * magnitude + 1e-7 * expected.abs()).all()
    if not antithetic:
        found = backward(grad, scores, n, noise=z, diagonal=diagonal).double()
        assert ((found - expected).abs() <= 1e-7 * magnitude + 1e-7 * expected.abs()).all()


def test_a_constant_weight_leaves_exactly_nothing(capability: str) -> None:
    """<G, P_s> is the same for all samples, though no sum of its products with Z is exact."""
    found = backward(torch.full((2, 7, 40), 0.3), torch.rand(2, 40), 1000)
    assert (found == 0).all()


@pytest.mark.parametrize("length", [9, 32, 40, 300])
def test_equals_tie_by_index(capability: str, length: int) -> None:
    noise = torch.randint(-1, 2, (2, 50, length)).float()
    scores = torch.randint(0, 2, (2, length)).float()
    for k in {1, 2, length // 3, length - 1, length}:
        found = forward(scores, k, 50, 1.0, noise)
        assert torch.equal(found, reference.perturbed_topk(scores, k, 50, 1.0, None, noise, False))
    assert torch.equal(forward(torch.zeros(1, length), 3, 2, 1.0, torch.zeros(1, 2, length))[0], torch.eye(length)[:3])


@pytest.mark.parametrize("length", [20, 100])
def test_nan_infinity_and_signed_zero_are_ordered_as_by_the_oracle(capability: str, length: int) -> None:
    special = torch.tensor([torch.nan, -torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1.0, -1.0, 3e38, -3e38, 1e-40])
    scores = special[torch.randint(len(special), (40, length))]
    noise = special[4:][torch.randint(7, (40, 6, length))]
    for k in (1, 5, length // 2, length - 1):
        found = forward(scores, k, 6, 1.0, noise)
        assert torch.equal(found, reference.perturbed_topk(scores, k, 6, 1.0, None, noise, False))
        drawn = forward(scores[:, :length], k, 6, 1e-6)
        assert torch.equal(drawn, reference.perturbed_topk(scores, k, 6, 1e-6, SEED, None, False))


def test_magnitudes_from_the_smallest_to_the_largest(capability: str) -> None:
    """Where interpolation between the largest and the smallest gets nowhere."""
    scores = torch.randn(4, 200) * 10.0 ** torch.randint(-44, 38, (4, 200))
    noise = torch.randn(4, 5, 200) * 10.0 ** torch.randint(-44, 38, (4, 5, 200))
    for k in (1, 50, 100, 150, 199):
        found = forward(scores, k, 5, 0.5, noise)
        assert torch.equal(found, reference.perturbed_topk(scores, k, 5, 0.5, None, noise, False))


def test_strides_change_no_bit(capability: str) -> None:
    scores, noise, grad = torch.rand(3, 44), torch.randn(3, 20, 44), torch.randn(3, 7, 44)
    turned, turned_noise = scores.t().contiguous().t(), noise.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not turned.is_contiguous() and not turned_noise.is_contiguous()
    assert torch.equal(forward(turned, 7, 20, noise=turned_noise), forward(scores, 7, 20, noise=noise))
    found = backward(grad.mT.contiguous().mT, turned, 20, noise=turned_noise)
    assert torch.equal(found, backward(grad, scores, 20, noise=noise))
    constant = torch.ones(1, 1, 1).expand(3, 7, 44)
    assert torch.equal(backward(constant, scores, 20), backward(constant.contiguous(), scores, 20))


def every_result() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    results = []
    for B, L, k, n in [(3, 25, 20, 500), (1, 300, 150, 500), (2, 5000, 40, 6)]:
        scores, grad = torch.rand(B, L, generator=generator), torch.randn(B, k, L, generator=generator)
        for antithetic in (False, True):
            results.append(forward(scores, k, n, antithetic=antithetic))
            results += [backward(grad, scores, n, antithetic=antithetic, diagonal=d) for d in (False, True)]
    return results


def with_threads(number: int, function: Callable[[], list[Tensor]]) -> list[Tensor]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        return function()
    finally:
        torch.set_num_threads(before)


def test_same_bits_on_any_threads_and_instruction_set(runnable_capabilities, monkeypatch) -> None:
    monkeypatch.setenv("DYNFOCUS_CPU_CAPABILITY", "baseline")
    expected = with_threads(1, every_result)
    for capability in runnable_capabilities:
        monkeypatch.setenv("DYNFOCUS_CPU_CAPABILITY", capability)
        for number in (1, 2, 4):
            found = with_threads(number, every_result)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_rows_do_not_depend_on_the_size_of_the_batch() -> None:
    """Row b of any batch draws from the same place: its choices, its sums and their order are the same."""
    scores, grad = torch.rand(70, 60), torch.randn(70, 9, 60)
    together = forward(scores, 9, 500), backward(grad, scores, 500)
    for b in (1, 13):
        assert torch.equal(forward(scores[:b], 9, 500), together[0][:b])
        assert torch.equal(backward(grad[:b], scores[:b], 500), together[1][:b])


def test_more_choices_than_are_kept_at_a_time() -> None:
    """2 x 40,000 x 30 choices, of which 2^20 are kept: rows begin and end within a block."""
    scores, noise = torch.rand(2, 40), torch.randn(2, 40_000, 40)
    expected = reference.perturbed_topk(scores, 30, 40_000, 0.1, None, noise, False)
    assert torch.equal(forward(scores, 30, 40_000, noise=noise), expected)
    grad = torch.randn(2, 30, 40)
    exact, magnitude = exact_gradient(grad, scores, 0.1, noise, False, False)
    found = backward(grad, scores, 40_000, noise=noise).double()
    assert ((found - exact).abs() <= 1e-7 * magnitude).all()


def test_large_rows() -> None:
    scores = torch.rand(1, 65_536)
    found = forward(scores, 20, 4, 1e-3)
    assert torch.equal(found, reference.perturbed_topk(scores, 20, 4, 1e-3, SEED, None, False))
    grad = torch.randn(1, 20, 65_536)
    exact, magnitude = exact_gradient(grad, scores, 1e-3, draw(scores, 4, SEED), False, False)
    assert ((backward(grad, scores, 4, 1e-3).double() - exact).abs() <= 1e-6 * magnitude).all()


def test_memory_does_not_grow_with_the_samples() -> None:
    """Samples x L would be 256 MB, samples x k 128 MB."""
    scores, grad = torch.rand(1, 128), torch.randn(1, 64, 128)
    forward(scores, 64, 100), backward(grad, scores, 100)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    forward(scores, 64, 500_000), backward(grad, scores, 500_000)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 16 * 1024, f"peak memory grew by {grown} KiB"


def test_empty_batch() -> None:
    assert forward(torch.empty(0, 5), 2, 3).shape == (0, 2, 5)
    assert backward(torch.empty(0, 2, 5), torch.empty(0, 5), 3).shape == (0, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 6}, "k is 6, it must be from 1 to the length of scores, 5"),
        ({"k": 0}, "k is 0"),
        ({"num_samples": 0}, "num_samples is 0, it must be at least 1"),
        ({"num_samples": 3, "antithetic": True}, "num_samples is 3, .*even with antithetic"),
        ({"sigma": 0.0}, "sigma is 0, it must be positive"),
        ({"scores": torch.zeros(5)}, r"scores must be \[B, L\]"),
        ({"scores": torch.zeros(2, 5, dtype=torch.float64)}, "float32, bfloat16 or float16"),
        ({"seed": None}, "seed must be one int64, or noise given"),
        ({"seed": torch.tensor(1, dtype=torch.int32)}, "seed must be one int64"),
        ({"noise": torch.zeros(2, 3, 5)}, r"noise must be \[B, num_samples, L\]"),
        ({"noise": torch.zeros(2, 4, 5), "antithetic": True}, "without antithetic"),
    ],
)
def test_refuses(arguments: dict[str, object], message: str) -> None:
    ordinary = {
        "scores": torch.zeros(2, 5),
        "k": 2,
        "num_samples": 4,
        "sigma": 0.1,
        "seed": SEED,
        "noise": None,
        "antithetic": False,
    }
    with pytest.raises(RuntimeError, match=message):
        ops.perturbed_topk(*(ordinary | arguments).values())
