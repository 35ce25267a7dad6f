"""Fast and exact squared distances against float64: where products are good enough, and where they cancel."""

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from dynfocus_ops.triton.distances import (
    cancelled,
    inner_products,
    mended,
    product_error,
    squared_differences,
    squared_distances,
    squared_norms,
)
from dynfocus_ops.triton.launch import launch


@triton.jit
def all_pairs_kernel(
    x_ptr,
    fast_ptr,
    squares_ptr,
    exact_ptr,
    mended_ptr,
    N,
    stride,
    channel_stride,
    C,
    SIZE: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    i = tl.arange(0, SIZE)
    points = x_ptr + tl.minimum(i, N - 1).to(tl.int64) * stride
    norms = squared_norms(points, channel_stride, C, BLOCK_C)
    products = inner_products(points, points, channel_stride, C, BLOCK_C)
    fast = squared_distances(products, norms, norms, i[:, None] == i[None, :])
    inside = (i < N)[:, None] & (i < N)[None, :]
    at = i[:, None] * N + i[None, :]
    tl.store(fast_ptr + at, fast, mask=inside)
    tl.store(squares_ptr + at, norms[:, None] + norms[None, :], mask=inside)
    for j in range(N):  # the pairs (i, j), and one point against all
        other = x_ptr + tl.cast(j, tl.int64) * stride
        column = tl.sum(tl.where(i[None, :] == j, fast, 0.0), 1)
        squares = norms + tl.sum(tl.where(i == j, norms, 0.0), 0)
        others = other + tl.zeros_like(i)
        whole = mended(column, cancelled(column, squares), points, others, channel_stride, C, BLOCK_C)
        tl.store(mended_ptr + i * N + j, whole, mask=i < N)
        one = other + tl.arange(0, 1)
        tl.store(exact_ptr + i * N + j, squared_differences(one, points, channel_stride, C, BLOCK_C), mask=i < N)


def all_pairs(x: Tensor) -> list[Tensor]:
    N, C = x.shape
    results = [torch.full((N, N), torch.nan) for _ in range(4)]
    launch(all_pairs_kernel, (1,), x, *results, N, *x.stride(), C, SIZE=32, BLOCK_C=16)
    return results


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("offset", (0.0, 30.0))
@pytest.mark.parametrize("C", (1, 40, 129))
def test_all_pairs(dtype: torch.dtype, offset: float, C: int) -> None:
    x = torch.randn(11, C) + offset
    x[7] = x[2]
    x = torch.stack([x, torch.full_like(x, torch.nan)], -1).to(dtype)[..., 0]  # every second number
    fast, squares, exact, whole = all_pairs(x)
    expected = (x[:, None].double() - x.double()).square().sum(-1)
    assert ((fast - expected).abs() <= product_error(C) * squares).all()
    assert (fast.diagonal() == 0).all()
    torch.testing.assert_close(exact, expected.float(), rtol=(C + 2) * 2**-24, atol=0)
    torch.testing.assert_close(whole, expected.float(), rtol=1e-5, atol=0)
    assert exact[2, 7] == whole[2, 7] == whole[7, 2] == 0
    assert torch.equal(exact, exact.T)


def test_ordinary_points_are_not_mended() -> None:
    fast, squares, _, whole = all_pairs(torch.randn(20, 60))
    off_diagonal = ~torch.eye(20, dtype=torch.bool)
    assert (squares <= 8 * fast)[off_diagonal].all()
    assert torch.equal(whole[off_diagonal], fast[off_diagonal])


@pytest.mark.parametrize("value", (torch.nan, torch.inf))
def test_what_is_not_finite_shows(value: float) -> None:
    x = torch.randn(9, 20)
    x[4, 3] = value
    fast = all_pairs(x)[0]
    assert not fast[4].isfinite().any() and not fast[:, 4].isfinite().any()
    assert fast[:4, :4].isfinite().all()
