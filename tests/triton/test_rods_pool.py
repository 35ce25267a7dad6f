"""What only kernels have: tiles of frames, tokens, queries and channels, scratch memory, parts of sums."""

import pytest
import torch

from dynfocus_ops import reference
from dynfocus_ops.triton.launch import record
from dynfocus_ops.triton.rods_pool import rods_pool, rods_pool_backward
from tests.ops.support import assert_same_bits, poisoned_memory


def inputs(T: int, M: int, Q: int, C: int, B: int, dtype: torch.dtype = torch.float32):
    mask = torch.rand(B, Q) > 0.3
    mask[:, 0] = True
    return torch.randn(T, M, C).to(dtype), torch.randn(B, Q, C).to(dtype), torch.randint(0, B, (T,)), mask, C**-0.5


def check(arguments, tolerance: float) -> None:
    tokens = arguments[0]
    grad = torch.randn(len(tokens), 2, tokens.shape[2]).to(tokens.dtype)
    with poisoned_memory():
        actual = rods_pool(*arguments), *rods_pool_backward(grad, *arguments, True, True)
    expected = reference.rods_pool(*arguments), *reference.rods_pool_backward(grad, *arguments, True, True)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# shared by several frames of a program, in several query tiles; of several rows; one program, or three kernels, a frame
@pytest.mark.parametrize("shape", [(3, 9, 5, 33, 1), (5, 22, 70, 40, 1), (4, 20, 5, 70, 3), (2, 250, 40, 5, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_tiles(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(inputs(*shape, dtype), 2e-5 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("Q", [3, 130])
def test_frames_too_large_for_one_program(Q: int) -> None:
    check(inputs(2, 270, Q, 17, 1), 2e-5)


def test_queries_of_another_dtype() -> None:
    tokens, queries, *rest = inputs(3, 9, 4, 20, 1)
    check((tokens.bfloat16(), queries, *rest), 2e-2)


def test_gradient_of_queries_in_parts() -> None:
    """Frames of each row, in any order; a row that no frame asks with gets 0."""
    tokens, queries, _, mask, scale = inputs(40, 3, 2, 5, 3)
    check((tokens, queries, torch.randint(0, 2, (40,)) * 2, mask, scale), 5e-5)


def test_gradients_keep_what_cancels() -> None:
    """dq = sum_m dl_m x_m with sum_m dl_m = 0: a part that all tokens share must drop out, in bfloat16 too."""
    tokens, queries, frame_query, _, scale = inputs(2, 22, 3, 40, 1, torch.bfloat16)
    tokens += 30
    grad = torch.randn(2, 2, 40).bfloat16()
    arguments = grad, tokens, queries, frame_query, None, scale, False, True
    exact = reference.rods_pool_backward(*(x.double() if i < 3 else x for i, x in enumerate(arguments)))[1]
    error = (rods_pool_backward(*arguments)[1].double() - exact).norm() / exact.norm()
    assert error < 5e-3


def test_strides_and_other_frames_change_no_bit() -> None:
    tokens, queries, frame_query, mask, scale = inputs(5, 20, 4, 70, 1)
    grad = torch.randn(5, 1, 70).expand(-1, 2, -1)
    strided = tokens.permute(2, 1, 0).contiguous().permute(2, 1, 0), queries.mT.contiguous().mT, frame_query[::1]
    together = rods_pool(tokens, queries, frame_query, mask, scale)
    gradients = rods_pool_backward(grad.contiguous(), tokens, queries, frame_query, mask, scale, True, True)
    assert_same_bits(rods_pool(*strided, mask, scale), together)
    assert_same_bits(rods_pool_backward(grad, *strided, mask, scale, True, True), gradients)
    for t in range(5):
        one = slice(t, t + 1)
        alone = tokens[one], queries, frame_query[one], mask, scale
        assert_same_bits(rods_pool(*alone), together[one])
        assert_same_bits(rods_pool_backward(grad[one], *alone, True, False)[0], gradients[0][one])


@pytest.mark.parametrize("M", [9, 270])
def test_no_query_left_is_zero(M: int) -> None:
    """On a GPU, where nobody looks at the mask."""
    tokens, queries, frame_query, mask, scale = inputs(3, M, 4, 5, 1)
    mask[:] = False
    pooled = rods_pool(tokens, queries * torch.nan, frame_query, mask, scale)
    assert (pooled[:, 0] == 0).all()
    torch.testing.assert_close(pooled[:, 1], tokens.mean(1))
    grads = rods_pool_backward(torch.ones(3, 2, 5), tokens, queries, frame_query, mask, scale, True, True)
    torch.testing.assert_close(grads[0], torch.full_like(tokens, 1 / M))
    assert (grads[1] == 0).all()


def test_rows_out_of_range_are_the_nearest() -> None:
    tokens, queries, _, mask, scale = inputs(3, 6, 4, 5, 2)
    outside, nearest = torch.tensor([-5, 8, 0]), torch.tensor([0, 1, 0])
    assert_same_bits(rods_pool(tokens, queries, outside, mask, scale), rods_pool(tokens, queries, nearest, mask, scale))


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("T", "M", "B"), [(64, 22, 1), (1000, 22, 1), (1000, 256, 1), (1000, 22, 1000)])
def test_launches_of_production_shapes(capability: int, T: int, M: int, B: int) -> None:
    with torch.device("meta"):
        tokens, queries = torch.empty(T, M, 1408).bfloat16(), torch.empty(B, 32, 1408).bfloat16()
        arguments = tokens, queries, torch.empty(T, dtype=torch.int64), None, 0.1
        grad = torch.empty(T, 2, 1408).bfloat16()
    with record(capability) as launches:
        rods_pool(*arguments)
        rods_pool_backward(grad, *arguments, True, True)
    names = [launch.kernel.__name__ for launch in launches]
    parts = ["sum_of_parts_kernel"] if B == 1 else []
    assert names == [
        "attend_and_pool_kernel",
        *("logits_kernel", "attention_kernel", "token_gradients_kernel"),
        *("member_lists_kernel", "query_gradients_kernel", *parts),
    ]
    assert launches[0].grid[0] >= min(T, 128)
