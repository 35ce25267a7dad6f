from typing import Any

import torch
from torch import Tensor

from dynfocus_ops.backends import select_kernel
from dynfocus_ops.checks import check_index, check_same_device, check_shape, check_tensor, checks_values


def pack_frame_tokens(
    fine: Tensor, coarse: Tensor, key_index: Tensor, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """The fused sequence in time order: every frame's coarse tokens (rods), a key frame's fine (cones) before them.

    O_t = b_t (U_fine ‖ U_coarse) + (1 - b_t) U_coarse, of several videos at once where their frames follow one another.

    Args:
        fine: tokens of the key frames [K, F, D], float; differentiable.
        coarse: tokens of all frames [T, 2, D], float; differentiable.
        key_index: int64 [K], the frame of each row of `fine`; distinct, in any order.
        backend: "auto" or a backend's name.

    Returns:
        tokens: [K F + 2 T, D] in the promoted dtype of fine and coarse.
        cu_frames: int64 [T + 1]; frame t's tokens are rows cu_frames[t] to cu_frames[t + 1].

    Memory: Triton has 4 bytes for each frame beyond the result.

    Raises:
        TypeError, ValueError: wrong types, shapes or dtypes; on the CPU also a key_index that repeats or is
            outside [0, T). On a GPU such a mention leaves rows of zeros at the end and gets no gradient: a frame
            is its first mention's.

    Source: cooperative encoding fusion of DynFocus (CVPR 2025, arXiv 2411.12355).
    """
    check_tensor("fine", fine, "[K, F, D]")
    check_tensor("coarse", coarse, "[T, 2, D]")
    check_shape("coarse", coarse, (coarse.shape[0], 2, fine.shape[2]), "[T, 2, D] with D of fine")
    check_tensor("key_index", key_index, "[K]", (torch.int64,))
    check_shape("key_index", key_index, (fine.shape[0],), "[K] of fine")
    check_same_device("coarse", coarse, "fine", fine)
    check_same_device("key_index", key_index, "fine", fine)
    dtype = torch.promote_types(fine.dtype, coarse.dtype)
    return _pack_frame_tokens(fine.to(dtype), coarse.to(dtype), key_index, backend)


@torch.library.custom_op("dynfocus::pack_frame_tokens", mutates_args=())
def _pack_frame_tokens(fine: Tensor, coarse: Tensor, key_index: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    check_index("key_index", key_index, 0, coarse.shape[0], "the frames of coarse")
    if checks_values(key_index) and len(key_index.unique()) < len(key_index):
        raise ValueError(f"key_index is {key_index.tolist()}, it must not repeat a frame")
    return select_kernel("pack_frame_tokens", backend, fine)(fine, coarse, key_index)


@_pack_frame_tokens.register_fake
def _(fine: Tensor, coarse: Tensor, key_index: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    rows = fine.shape[0] * fine.shape[1] + coarse.shape[0] * coarse.shape[1]
    return fine.new_empty((rows, fine.shape[2])), key_index.new_empty(coarse.shape[0] + 1)


@torch.library.custom_op("dynfocus::pack_frame_tokens_backward", mutates_args=())
def pack_frame_tokens_backward(
    grad: Tensor, key_index: Tensor, num_fine: int, num_coarse: int, num_frames: int, backend: str
) -> tuple[Tensor, Tensor]:
    """Gradients of fine [K, num_fine, D] and coarse [num_frames, num_coarse, D] from grad [K num_fine + 2 T, D]."""
    kernel = select_kernel("pack_frame_tokens", backend, grad, "pack_frame_tokens_backward")
    return kernel(grad, key_index, num_fine, num_coarse, num_frames)


@pack_frame_tokens_backward.register_fake
def _(
    grad: Tensor, key_index: Tensor, num_fine: int, num_coarse: int, num_frames: int, backend: str
) -> tuple[Tensor, Tensor]:
    D = grad.shape[1]
    return grad.new_empty((key_index.shape[0], num_fine, D)), grad.new_empty((num_frames, num_coarse, D))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    fine, coarse, key_index, ctx.backend = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(key_index)
    ctx.shapes = fine.shape[1], coarse.shape[1], coarse.shape[0]


def _backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
    (key_index,) = ctx.saved_tensors
    grad_fine, grad_coarse = pack_frame_tokens_backward(grad, key_index, *ctx.shapes, ctx.backend)
    needs_fine, needs_coarse, *_ = ctx.needs_input_grad
    return grad_fine if needs_fine else None, grad_coarse if needs_coarse else None, None, None


_pack_frame_tokens.register_autograd(_backward, setup_context=_setup_context)
