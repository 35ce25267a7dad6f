"""torch.ops.dynfocus_native.rods_pool and its gradient against float64, on every instruction set this CPU runs."""

import pytest
import torch
from torch import Tensor

from tests.native import oracle
from tests.ops.support import LargestTensor, assert_same_bits, poisoned_memory, threads

ops = torch.ops.dynfocus_native
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = [  # T, M, C, B, Q
    (1, 1, 1, 1, 1),
    (3, 13, 17, 2, 5),
    (40, 25, 48, 1, 220),  # groups of several frames; more terms of a token's gradient than are added up at a time
    (
        4,
        150,
        263,
        3,
        33,
    ),  # more channels, and more tokens, than are added up at a time; a panel of queries and one more
    (100, 7, 24, 9, 3),  # more groups than are summed at a time, the first ones ending within a row
]


@pytest.fixture(params=("baseline", "avx2", "avx512", "avx512_bf16"))
def capability(request, monkeypatch, runnable_capabilities) -> str:
    if request.param not in runnable_capabilities:
        pytest.skip(f"this CPU or this build has no {request.param}")
    monkeypatch.setenv("DYNFOCUS_CPU_CAPABILITY", request.param)
    return request.param


def inputs(shape: tuple[int, ...], dtype: torch.dtype, masked: bool = True) -> tuple[Tensor, ...]:
    """tokens, queries, frame_query, query_mask, and the gradient of the result."""
    T, M, C, B, Q = shape
    mask = torch.rand(B, Q) > 0.3 if masked else torch.ones(B, Q, dtype=torch.bool)
    mask[:, Q // 2] = True
    queries = torch.randn(B, Q, C).masked_fill(~mask.unsqueeze(-1), torch.nan)
    return (
        torch.randn(T, M, C).to(dtype),
        queries.to(dtype),
        torch.randint(B, (T,)),
        mask,
        torch.randn(T, 2, C).to(dtype),
    )


def run(tokens: Tensor, queries: Tensor, frame_query: Tensor, mask: Tensor | None, grad: Tensor) -> tuple[Tensor, ...]:
    scale = 1.5 * tokens.shape[2] ** -0.5
    return (
        ops.rods_pool(tokens, queries, frame_query, mask, scale),
        *ops.rods_pool_backward(grad, tokens, queries, frame_query, mask, scale, True, True),
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_oracle_and_autograd(capability: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tokens, queries, frame_query, mask, grad = inputs(shape, dtype)
    leaves = [x.double().requires_grad_() for x in (tokens, queries.nan_to_num())]
    expected = oracle.rods_pool(*leaves, frame_query, mask, 1.5 * shape[2] ** -0.5)
    expected.backward(grad.double())
    one_rounding = {"rtol": torch.finfo(dtype).eps, "atol": 2e-6}
    for actual, exact in zip(
        run(tokens, queries, frame_query, mask, grad), (expected.detach(), *(leaf.grad for leaf in leaves)), strict=True
    ):
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.double(), exact, **one_rounding)


def test_any_number_of_tokens_and_queries(capability: str) -> None:
    """Each height of a tile, and each rest of a panel."""
    for M, Q in [*((M, 3) for M in range(1, 40)), *((2, Q) for Q in range(1, 70, 3))]:
        tokens, queries, frame_query, mask, grad = inputs((2, M, 21, 1, Q), torch.float32, masked=False)
        leaves = [x.double().requires_grad_() for x in (tokens, queries)]
        expected = oracle.rods_pool(*leaves, frame_query, mask, 1.5 * 21**-0.5)
        expected.backward(grad.double())
        found = run(tokens, queries, frame_query, None, grad)
        for actual, exact in zip(found, (expected.detach(), *(leaf.grad for leaf in leaves)), strict=True):
            torch.testing.assert_close(actual.double(), exact, rtol=1e-6, atol=2e-6)


def test_the_exponential_is_exact_to_the_last_place(capability: str) -> None:
    """One channel, a query of 1 and a token at 0: pooled is sum x e^x / (1 + sum e^x), here of a single other x."""
    x = -torch.cat((torch.linspace(0, 110, 4000), torch.logspace(-6, 0, 1000)))
    tokens = torch.stack((torch.zeros_like(x), x), 1).unsqueeze(-1)
    frame_query = torch.zeros(len(x), dtype=torch.int64)
    pooled = ops.rods_pool(tokens, torch.ones(1, 1, 1), frame_query, None, 1.0)[:, 0, 0]
    exact = x.double() * x.double().exp() / (1 + x.double().exp())
    normal = exact.abs() > 1e-36
    relative = ((pooled.double() - exact) / exact)[normal & (x != 0)].abs()
    assert relative.max() < 4 * 2.0**-24  # that of e^x, 1 + e^x, its inverse, two products: half a place each
    torch.testing.assert_close(pooled.double(), exact, rtol=1e-6, atol=2e-43)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strides(capability: str, dtype: torch.dtype) -> None:
    values = inputs((5, 30, 137, 3, 9), dtype)
    strided = []
    for x in values:  # every second number, last dimension first
        wide = torch.zeros((*reversed(x.shape), 2), dtype=x.dtype)
        wide[..., 0] = x.permute(*reversed(range(x.dim())))
        strided.append(wide[..., 0].permute(*reversed(range(x.dim()))))
    assert_same_bits(run(*strided), run(*values))
    rows_apart = torch.full((5, 30, 140), torch.nan, dtype=dtype)
    rows_apart[..., :137] = values[0]
    assert_same_bits(run(rows_apart[..., :137], *values[1:]), run(*values))


@pytest.mark.parametrize("shape", SHAPES[2:], ids=str)
def test_bitwise_repeatable_on_any_threads(capability: str, shape: tuple[int, ...]) -> None:
    values = inputs(shape, torch.float32)
    with threads(1):
        expected = run(*values)
    for number in (2, 3, 4):
        with threads(number):
            assert_same_bits(run(*values), expected)


def test_other_rows_of_queries_change_no_bit(capability: str) -> None:
    """Neither their frames, nor how many there are: the frames of a row are dealt out by their own number alone."""
    tokens, queries, frame_query, mask, grad = inputs((90, 26, 40, 4, 6), torch.float32)
    pooled, grad_tokens, grad_queries = run(tokens, queries, frame_query, mask, grad)
    for b in range(4):
        own = frame_query == b
        alone = run(tokens[own], queries[b : b + 1], frame_query[own] * 0, mask[b : b + 1], grad[own])
        assert own.sum() > 16
        assert_same_bits(alone, (pooled[own], grad_tokens[own], grad_queries[b : b + 1]))


def test_writes_all_of_its_output(capability: str) -> None:
    values = inputs((9, 14, 19, 5, 3), torch.bfloat16)  # 5 rows: one may have no frame
    values[2][values[2] == 4] = 0
    expected = run(*values)
    with poisoned_memory():
        assert_same_bits(run(*values), expected)
    assert (expected[2][4] == 0).all() and (expected[2][~values[3]] == 0).all()


def test_only_what_is_needed_is_computed() -> None:
    tokens, queries, frame_query, mask, grad = inputs((20, 14, 19, 2, 3), torch.float32)
    arguments = (grad, tokens, queries, frame_query, mask, 0.2)
    both = ops.rods_pool_backward(*arguments, True, True)
    for needs in ((True, False), (False, True), (False, False)):
        found = ops.rods_pool_backward(*arguments, *needs)
        for one, other, needed in zip(found, both, needs, strict=True):
            assert_same_bits(one, other if needed else other.new_empty(0))


def test_no_query_left_is_zero() -> None:
    tokens, queries, frame_query, mask, grad = inputs((6, 14, 19, 2, 3), torch.float32)
    mask[1] = False
    pooled, grad_tokens, grad_queries = run(tokens, queries, frame_query * 0 + 1, mask, grad)
    assert (pooled[:, 0] == 0).all() and torch.allclose(pooled[:, 1], tokens.mean(1))
    assert torch.allclose(grad_tokens, (grad[:, 1:] / 14).expand_as(tokens)) and (grad_queries == 0).all()


def test_memory_stays_small() -> None:
    """No tensor of [T, Q, M]."""
    values = inputs((70, 60, 8, 1, 90), torch.float32)
    with LargestTensor() as largest:
        run(*values)
    assert largest.numbers == values[0].numel()


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        (r"tokens must be \[T, M, C\]", {0: torch.zeros(3, 4)}),
        (r"queries must be \[B, Q, C\]", {1: torch.zeros(5, 4)}),
        (r"queries must be .* with C of tokens", {1: torch.zeros(2, 5, 3)}),
        (r"frame_query must be int64 \[T\]", {2: torch.zeros(2, dtype=torch.int64)}),
        (r"frame_query\[1\] is 2, it must be a row of queries, below 2", {2: torch.tensor([0, 2, 0])}),
        (r"query_mask must be bool \[B, Q\]", {3: torch.zeros(2, 4, dtype=torch.bool)}),
    ],
)
def test_refuses_what_does_not_fit(message: str, changed: dict[int, Tensor]) -> None:
    values = list(inputs((3, 7, 4, 2, 5), torch.float32))
    for index, value in changed.items():
        values[index] = value
    with pytest.raises(RuntimeError, match=message):
        ops.rods_pool(*values[:4], 0.5)
    with pytest.raises(RuntimeError, match=message):
        ops.rods_pool_backward(values[4], *values[:4], 0.5, True, True)
