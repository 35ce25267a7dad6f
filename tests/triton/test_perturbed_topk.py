"""The kernels of the perturbed top-k against oracle and float64: tiles and blocks, ties, large counters, memory."""

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from dynfocus_ops import native, reference
from dynfocus_ops.triton import perturbed_topk as kernels
from dynfocus_ops.triton.launch import launch, record
from dynfocus_ops.triton.perturbed_topk import SAMPLES, TILE, perturbed_topk, perturbed_topk_backward
from dynfocus_ops.triton.philox import normal
from tests.ops.selection import NORMALS_AT_THE_ENDS, draw, exact_gradient, exact_normals, near_ties, units_off
from tests.ops.support import NATIVE, poisoned_memory

SEED = torch.tensor(-987654321)
SHAPES = [  # B, L, k, n: one tile filled or not, the longest row of a tile, one more, and rows of several blocks
    (1, 16, 16, SAMPLES),
    (2, 17, 5, SAMPLES + 1),
    (1, TILE // 4, 100, 9),
    (1, TILE, 1, 2),
    (2, TILE + 1, 100, 2),
    (1, 2 * TILE + 77, 30, 2),
]
KINDS = ["full", "antithetic", "diagonal", "antithetic diagonal"]


@triton.jit
def normal_kernel(z_ptr, counter_ptr, seed_ptr, count, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    counter = tl.load(counter_ptr + i, mask=i < count, other=0)
    tl.store(z_ptr + i, normal(tl.load(seed_ptr), counter), mask=i < count)


@triton.jit
def draw_kernel(z_ptr, seed_ptr, b, n, L, BLOCK: tl.constexpr):
    """Z of the last sample of row b, at its last places."""
    place = L - BLOCK + tl.arange(0, BLOCK)[None, :]
    s = tl.zeros((1, 1), tl.int32) + n - 1
    z = kernels.draw(seed_ptr, tl.full((), b, tl.int64), s, place, n, n, L, place < L)
    tl.store(z_ptr + tl.arange(0, BLOCK)[None, :], z)


def normals(seed: Tensor, counter: Tensor) -> Tensor:
    z = torch.full(counter.shape, torch.nan)
    launch(normal_kernel, (triton.cdiv(len(z), 4096),), z, counter, seed, len(z), BLOCK=4096, enable_fp_fusion=False)
    return z


def gradient(grad: Tensor, scores: Tensor, n: int, kind: str, noise: Tensor | None = None) -> Tensor:
    seed = SEED if noise is None else None
    with poisoned_memory():
        return perturbed_topk_backward(grad, scores, n, 0.1, seed, noise, "antithetic" in kind, "diagonal" in kind)


@pytest.mark.parametrize(("first", "count"), [(0, 100_000), (2**32 - 19, 77), (2**40 + 5, 33), (2**63 - 9, 8)])
def test_normals_are_within_four_units_in_the_last_place(first: int, count: int) -> None:
    counter = first + torch.arange(count)
    found = normals(SEED, counter)
    assert (units_off(found, exact_normals(counter, SEED)) <= 4).all()
    if NATIVE:  # the same operations, each of which rounds on its own
        native.load()
        assert torch.equal(found, torch.ops.dynfocus_native.perturbed_topk_noise(SEED, first, count))


@pytest.mark.parametrize(("seed", "expected"), NORMALS_AT_THE_ENDS)
def test_normals_at_the_ends(seed: int, expected: float) -> None:
    found = normals(torch.tensor(seed), torch.zeros(1, dtype=torch.int64)).item()
    assert found == pytest.approx(expected, rel=4 * 2**-23, abs=1e-15)


def test_counters_beyond_32_bits() -> None:
    b, n, L = 5, 2**20 + 3, 2**15 + 1  # counters above 2^37
    z = torch.empty(1, 16)
    launch(draw_kernel, (1,), z, SEED, b, n, L, BLOCK=16, enable_fp_fusion=False)
    counter = (b * n + n - 1) * L + torch.arange(L - 16, L)
    assert (units_off(z[0], exact_normals(counter, SEED)) <= 4).all()


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_chooses_as_the_oracle(shape: tuple[int, ...], antithetic: bool) -> None:
    B, L, k, n = shape
    n += n % 2 if antithetic else 0
    scores = torch.rand(B, L)
    assert (near_ties(scores, k, 0.1, draw(scores, n, SEED, antithetic)) == 0).all(), "choose another seed"
    with poisoned_memory():
        found = perturbed_topk(scores, k, n, 0.1, SEED, None, antithetic)
    assert torch.equal(found, reference.perturbed_topk(scores, k, n, 0.1, SEED, None, antithetic))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [SHAPES[1], SHAPES[2], SHAPES[4]], ids=str)
def test_gradient_equals_float64(shape: tuple[int, ...], kind: str) -> None:
    B, L, k, n = shape
    n += n % 2 if "antithetic" in kind else 0
    scores, grad = torch.rand(B, L), torch.randn(B, k, L)
    z = draw(scores, n, SEED, "antithetic" in kind)
    expected, magnitude = exact_gradient(grad, scores, 0.1, z, "antithetic" in kind, "diagonal" in kind)
    found = gradient(grad, scores, n, kind).double()
    assert ((found - expected).abs() <= 1e-6 * magnitude + 1e-7 * expected.abs()).all()


@pytest.mark.parametrize("kind", ["full", "diagonal"])
def test_more_tiles_than_chunks(kind: str) -> None:
    """Of 45 samples of one tile each in 32 chunks, a chunk has two or one or none; noise is given."""
    scores, grad, noise = torch.rand(1, 1030), torch.randn(1, 3, 1030), torch.randn(1, 45, 1030)
    expected, magnitude = exact_gradient(grad, scores, 0.1, noise, False, kind == "diagonal")
    found = gradient(grad, scores, 45, kind, noise).double()
    assert ((found - expected).abs() <= 2e-7 * magnitude + 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_and_strides(dtype: torch.dtype) -> None:
    scores, noise, grad = torch.rand(2, 20).to(dtype), torch.randn(2, 9, 20).to(dtype), torch.randn(2, 7, 20).to(dtype)
    turned, turned_noise = scores.t().contiguous().t(), noise.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    found = perturbed_topk(turned, 7, 9, 0.3, None, turned_noise, False)
    assert torch.equal(found, reference.perturbed_topk(scores, 7, 9, 0.3, None, noise, False))
    wide = grad.float()
    for kind in ("full", "diagonal"):
        expected = gradient(wide, scores.float(), 9, kind, noise.float())
        assert torch.equal(gradient(grad.mT.contiguous().mT, turned, 9, kind, turned_noise), expected)
        constant = torch.ones(1, 1, 1).expand(2, 7, 20)
        assert torch.equal(gradient(constant, scores, 9, kind), gradient(constant.contiguous(), scores, 9, kind))


@pytest.mark.parametrize("length", [20, TILE + 100])
def test_special_values_and_ties_are_ordered_as_by_the_oracle(length: int) -> None:
    special = torch.tensor([torch.nan, -torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1.0, -1.0, 3e38, -3e38, 1e-40])
    scores = special[torch.randint(len(special), (1, length))]
    noise = special[4:][torch.randint(7, (1, 3, length))]
    for k in (1, 5, length - 1, length) if length < TILE else (1, 300):
        found = perturbed_topk(scores, k, 3, 1.0, None, noise, False)
        assert torch.equal(found, reference.perturbed_topk(scores, k, 3, 1.0, None, noise, False))


@pytest.mark.parametrize("antithetic", [False, True])
def test_a_constant_weight_leaves_exactly_nothing(antithetic: bool) -> None:
    """<G, P_s> is the same for all samples, though no sum of its products with Z is exact."""
    found = gradient(torch.full((1, 7, 40), 0.3), torch.rand(1, 40), 100, "antithetic" * antithetic)
    assert (found == 0).all()


def launches(B: int, L: int, k: int, n: int) -> list:
    scores, grad = torch.empty(B, L, device="meta"), torch.empty(B, k, L, device="meta")
    with record(90) as recorded:
        perturbed_topk(scores, k, n, 0.1, SEED.to("meta"), None, False)
        for diagonal in (False, True):
            perturbed_topk_backward(grad, scores, n, 0.1, SEED.to("meta"), None, False, diagonal)
    return recorded


def test_what_is_launched_for_a_video() -> None:
    recorded = launches(8, 25, 20, 500)
    names = [launch.kernel.__name__ for launch in recorded]
    assert names == [
        *("choose_kernel", "mean_kernel"),
        *("choose_kernel", "weighted_sum_kernel", "add_chunks_kernel"),
        *("choose_kernel", "add_chunks_kernel"),
    ]
    drawing = [launch for launch in recorded if launch.kernel.__name__ in ("choose_kernel", "weighted_sum_kernel")]
    assert all(launch.constants["enable_fp_fusion"] is False for launch in drawing)  # else Z has other bits


@pytest.mark.parametrize(("L", "k"), [(25, 20), (65_536, 40_000), (1_000_000, 1000)])
def test_programs_depend_on_the_row_alone_and_memory_not_on_samples_by_length(L: int, k: int) -> None:
    one, many = launches(1, L, k, 1000), launches(3, L, k, 1000)
    assert [launch.constants for launch in one] == [launch.constants for launch in many]
    assert [3 * launch.grid[0] for launch in one if launch.kernel.__name__ != "mean_kernel"] == [
        launch.grid[0] for launch in many if launch.kernel.__name__ != "mean_kernel"
    ]
    sizes = [x.numel() for launch in one for x in launch.arguments if isinstance(x, Tensor)]
    assert max(sizes) <= max(k * L, 1000, 32 * L)
