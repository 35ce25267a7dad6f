"""What only kernels have: tiles of frames, keys and channels, and what is not checked on a GPU."""

import pytest
import torch

from dynfocus_ops import reference
from dynfocus_ops.triton.launch import record
from dynfocus_ops.triton.pack_frame_tokens import frame_layout, pack_frame_tokens, pack_frame_tokens_backward
from tests.ops.support import assert_same_bits, poisoned_memory


@pytest.mark.parametrize(("T", "K"), [(1030, 70), (2100, 2100), (3, 0), (0, 0)])
def test_layout(T: int, K: int) -> None:
    """More frames than a program counts, more keys than it looks at at once."""
    key = torch.randperm(T)[:K]
    with poisoned_memory():
        slots, cu_frames = frame_layout(key, 5, 2, T)
    assert torch.equal(slots, torch.full((T,), K).scatter(0, key, torch.arange(K)).int())
    assert torch.equal(cu_frames, reference.pack_frame_tokens(torch.empty(K, 5, 0), torch.empty(T, 2, 0), key)[1])


@pytest.mark.parametrize(("T", "K", "F", "R", "D"), [(20, 9, 1, 1, 3), (3, 2, 2, 2, 4100), (2, 0, 3, 2, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_tiles(T: int, K: int, F: int, R: int, D: int, dtype: torch.dtype) -> None:
    """With more channels than a program copies."""
    fine, coarse, key = torch.randn(K, F, D).to(dtype), torch.randn(T, R, D).to(dtype), torch.randperm(T)[:K]
    grad = torch.randn(K * F + T * R, D).to(dtype)
    with poisoned_memory():
        packed = pack_frame_tokens(fine, coarse, key)
        gradients = pack_frame_tokens_backward(grad, key, F, R, T)
    assert_same_bits(packed, reference.pack_frame_tokens(fine, coarse, key))
    assert_same_bits(gradients, reference.pack_frame_tokens_backward(grad, key, F, R, T))


def test_strides_change_no_bit() -> None:
    fine, coarse, key = torch.randn(2, 5, 3), torch.randn(6, 5, 2), torch.tensor([4, 9, 1, 9])[::2]
    expected = pack_frame_tokens(fine.mT.contiguous(), coarse.mT.contiguous(), key.contiguous())
    assert_same_bits(pack_frame_tokens(fine.mT, coarse.mT, key), expected)
    grad = torch.randn(18, 1).expand(-1, 5)
    assert_same_bits(
        pack_frame_tokens_backward(grad, key, 3, 2, 6), pack_frame_tokens_backward(grad.contiguous(), key, 3, 2, 6)
    )


def test_repeated_and_unknown_frames_leave_rows_of_zeros() -> None:
    """On a GPU, where nobody looks at key_index: a frame is its first mention's."""
    fine, coarse = torch.randn(5, 2, 3), torch.randn(4, 2, 3)
    key = torch.tensor([2, 2, -1, 4, 0])
    with poisoned_memory():
        tokens, cu_frames = pack_frame_tokens(fine, coarse, key)
        grad_fine, grad_coarse = pack_frame_tokens_backward(grad := torch.randn(18, 3), key, 2, 2, 4)
    expected, bounds = reference.pack_frame_tokens(fine[[0, 4]], coarse, key[[0, 4]])
    assert_same_bits((tokens[:12], cu_frames), (expected, bounds))
    assert (tokens[12:] == 0).all() and (grad_fine[1:4] == 0).all()
    assert_same_bits(
        (grad_fine[[0, 4]], grad_coarse), reference.pack_frame_tokens_backward(grad[:12], key[[0, 4]], 2, 2, 4)
    )


def test_values_are_copied_not_computed_with() -> None:
    fine = torch.tensor([0x7FC1, -1, -0x8000, 1], dtype=torch.int16).view(torch.bfloat16).view(1, 1, 4)
    tokens, _ = pack_frame_tokens(fine, torch.zeros(1, 2, 4).bfloat16(), torch.tensor([0]))
    assert torch.equal(tokens[0].view(torch.int16), fine.view(4).view(torch.int16))


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("T", [64, 1000])
def test_launches_of_production_shapes(capability: int, T: int) -> None:
    with torch.device("meta"):
        key = torch.empty(20, dtype=torch.int64)
        fine, coarse = torch.empty(20, 38, 4096).bfloat16(), torch.empty(T, 2, 4096).bfloat16()
        grad = torch.empty(20 * 38 + 2 * T, 4096).bfloat16()
    with record(capability) as launches:
        pack_frame_tokens(fine, coarse, key)
        pack_frame_tokens_backward(grad, key, 38, 2, T)
    names = [launch.kernel.__name__ for launch in launches]
    layout = ["slots_kernel", "cu_frames_kernel"]
    assert names == [*layout, "pack_kernel", *layout, "unpack_kernel"]
    assert launches[2].grid == launches[5].grid == (20 * 38 + 2 * T,)  # a row each: 8 KB
