"""torch.ops.dynfocus_native.pack_frame_tokens and its gradient: copies, so equal to the oracle in every bit."""

import pytest
import torch
from torch import Tensor

from dynfocus_ops import reference

ops = torch.ops.dynfocus_native
SHAPES = [  # T, F, D, key_index
    (1, 3, 5, [0]),
    (1, 3, 5, []),
    (7, 0, 4, [3]),
    (5, 1, 1, [4, 0, 3, 1, 2]),
    (6, 4, 33, [4, 0, 2]),
    (90, 38, 7, [89, 0, 7, 48]),
]


def inputs(T: int, F: int, D: int, key_index: list[int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    key = torch.tensor(key_index, dtype=torch.int64)
    return torch.randn(len(key), F, D).to(dtype), torch.randn(T, 2, D).to(dtype), key


def turned(x: Tensor) -> Tensor:
    """The same numbers, every second of a run in memory, the last dimension first."""
    order = tuple(reversed(range(x.dim())))
    wide = torch.full((*(x.shape[i] for i in order), 2), torch.nan, dtype=x.dtype)
    wide[..., 0] = x.permute(order)
    return wide[..., 0].permute(order)


def in_wide_rows(x: Tensor) -> Tensor:
    """The same numbers, rows whole but apart, matrices in reverse order of memory."""
    wide = torch.full((*x.shape[:-1], x.shape[-1] + 3), torch.nan, dtype=x.dtype)
    wide[..., : x.shape[-1]] = x
    return wide[..., : x.shape[-1]]


LAYOUTS = {"contiguous": lambda x: x, "turned": turned, "in wide rows": in_wide_rows}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_oracle(shape: tuple, dtype: torch.dtype, layout: str) -> None:
    fine, coarse, key = inputs(*shape, dtype)
    tokens, cu_frames = ops.pack_frame_tokens(LAYOUTS[layout](fine), LAYOUTS[layout](coarse), key)
    expected, bounds = reference.pack_frame_tokens(fine, coarse, key)
    assert tokens.is_contiguous() and torch.equal(tokens, expected) and torch.equal(cu_frames, bounds)

    grad = torch.randn(tokens.shape).to(dtype)
    found = ops.pack_frame_tokens_backward(LAYOUTS[layout](grad), key, fine.shape[1], 2, len(coarse))
    back = reference.pack_frame_tokens_backward(grad, key, fine.shape[1], 2, len(coarse))
    assert all(torch.equal(a, b) for a, b in zip(found, back, strict=True))


def test_a_gradient_of_one_number() -> None:
    grad = torch.tensor(2.0).expand(24, 33)
    assert all((x == 2).all() for x in ops.pack_frame_tokens_backward(grad, torch.tensor([4, 0, 2]), 4, 2, 6))


def test_a_strided_key_index() -> None:
    fine, coarse, key = inputs(6, 4, 33, [4, 0, 2], torch.float32)
    spread = torch.stack((key, torch.full_like(key, 99)), 1)[:, 0]
    assert torch.equal(ops.pack_frame_tokens(fine, coarse, spread)[0], ops.pack_frame_tokens(fine, coarse, key)[0])


def test_same_bits_on_any_number_of_threads() -> None:
    fine, coarse, key = inputs(300, 38, 50, [299, 0, 7, 148, 149, 150], torch.float32)
    expected, _ = reference.pack_frame_tokens(fine, coarse, key)
    before = torch.get_num_threads()
    try:
        for number in (1, 2, 3, 4):  # rows are shared out: a thread may begin in the middle of a frame
            torch.set_num_threads(number)
            assert torch.equal(ops.pack_frame_tokens(fine, coarse, key)[0], expected)
            found = ops.pack_frame_tokens_backward(expected, key, 38, 2, 300)
            assert torch.equal(found[0], fine) and torch.equal(found[1], coarse)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ([0, 6, 1], r"key_index\[1\] is 6, it must be a frame, below 6"),
        ([0, 1, -1], r"key_index\[2\] is -1"),
        ([3, 0, 3], r"key_index\[2\] is 3 again, it must not repeat a frame"),
    ],
)
def test_refuses_key_frames(key: list[int], message: str) -> None:
    fine, coarse = torch.zeros(3, 4, 5), torch.zeros(6, 2, 5)
    with pytest.raises(RuntimeError, match=message):
        ops.pack_frame_tokens(fine, coarse, torch.tensor(key))
    with pytest.raises(RuntimeError, match=message):
        ops.pack_frame_tokens_backward(torch.zeros(24, 5), torch.tensor(key), 4, 2, 6)


def test_refuses_shapes_and_dtypes() -> None:
    fine, coarse, key = inputs(6, 4, 5, [4, 0, 2], torch.float32)
    with pytest.raises(RuntimeError, match=r"fine must be \[K, F, D\]"):
        ops.pack_frame_tokens(fine, coarse[..., :4], key)
    with pytest.raises(RuntimeError, match=r"key_index \[K\]"):
        ops.pack_frame_tokens(fine, coarse, key[:2])
    with pytest.raises(RuntimeError, match="the same dtype"):
        ops.pack_frame_tokens(fine, coarse.bfloat16(), key)
    with pytest.raises(RuntimeError, match="key_index must be int64"):
        ops.pack_frame_tokens(fine, coarse, key.int())
    with pytest.raises(RuntimeError, match="elements of 1 bytes, they must have 2, 4 or 8"):
        ops.pack_frame_tokens(fine.bool(), coarse.bool(), key)
    with pytest.raises(RuntimeError, match=r"grad must be \[K F \+ T R, D\]"):
        ops.pack_frame_tokens_backward(torch.zeros(23, 5), key, 4, 2, 6)
