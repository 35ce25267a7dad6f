"""The fused token sequence: every frame's coarse tokens, a key frame's fine tokens before them."""

import torch
from torch import Tensor


def pack_frame_tokens(fine: Tensor, coarse: Tensor, key_index: Tensor) -> tuple[Tensor, Tensor]:
    """(tokens, cu_frames) of fine [K, F, D], coarse [T, R, D] and the frames key_index [K] of the fine ones."""
    fine_rows, coarse_rows, cu_frames = packed_rows(fine.shape[1], coarse.shape[1], coarse.shape[0], key_index)
    tokens = fine.new_zeros(fine_rows.numel() + coarse_rows.numel(), fine.shape[-1])
    tokens.index_copy_(0, fine_rows.flatten(), fine.flatten(0, 1))
    tokens.index_copy_(0, coarse_rows.flatten(), coarse.flatten(0, 1))
    return tokens, cu_frames


def pack_frame_tokens_backward(
    grad: Tensor, key_index: Tensor, num_fine: int, num_coarse: int, num_frames: int
) -> tuple[Tensor, Tensor]:
    """The rows of grad [K F + T R, D] that belong to fine and to coarse."""
    fine_rows, coarse_rows, _ = packed_rows(num_fine, num_coarse, num_frames, key_index)
    return grad[fine_rows], grad[coarse_rows]


def packed_rows(num_fine: int, num_coarse: int, num_frames: int, key_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the tokens go: the rows of the fine [K, F] and of the coarse [T, R], and the frames' bounds [T + 1]."""
    extra = key_index.new_zeros(num_frames).scatter(0, key_index, num_fine)  # fine tokens of each frame
    ends = (extra + num_coarse).cumsum(0)
    cu_frames = torch.cat((ends.new_zeros(1), ends))
    fine_rows = cu_frames[key_index].unsqueeze(1) + torch.arange(num_fine, device=key_index.device)
    coarse_rows = (cu_frames[:-1] + extra).unsqueeze(1) + torch.arange(num_coarse, device=key_index.device)
    return fine_rows, coarse_rows, cu_frames
