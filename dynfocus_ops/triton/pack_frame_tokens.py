"""The fused token sequence and its gradient: each row copied once, by a program that knows where it belongs.

The key frames before a frame say where it starts: two small launches find them, whatever the order of key_index, and
nothing is read back to the host. What key_index must not hold has a meaning all the same, so that no program writes
outside: a frame belongs to its first mention, other mentions leave rows of zeros at the end and get no gradient.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dynfocus_ops.triton.launch import launch


def pack_frame_tokens(fine: Tensor, coarse: Tensor, key_index: Tensor) -> tuple[Tensor, Tensor]:
    (K, F, D), (T, R, _) = fine.shape, coarse.shape
    slots, cu_frames = frame_layout(key_index, F, R, T)
    tokens = fine.new_empty((K * F + T * R, D))
    block, num_warps = slice_of_channels(tokens)
    launch(
        pack_kernel,
        (triton.cdiv(D, block) * (K * F + T * R),),
        *(fine, coarse, key_index, slots, cu_frames, tokens, K, F, T, R, D),
        *(*fine.stride(), *coarse.stride(), *key_index.stride()),
        BLOCK_D=block,
        num_warps=num_warps,
    )
    return tokens, cu_frames


def pack_frame_tokens_backward(
    grad: Tensor, key_index: Tensor, num_fine: int, num_coarse: int, num_frames: int
) -> tuple[Tensor, Tensor]:
    K, F, T, R, D = key_index.shape[0], num_fine, num_frames, num_coarse, grad.shape[1]
    slots, cu_frames = frame_layout(key_index, F, R, T)
    grad_fine, grad_coarse = grad.new_empty((K, F, D)), grad.new_empty((T, R, D))
    block, num_warps = slice_of_channels(grad)
    launch(
        unpack_kernel,
        (triton.cdiv(D, block) * (K * F + T * R),),
        *(grad, key_index, slots, cu_frames, grad_fine, grad_coarse, K, F, T, R, D),
        *(*grad.stride(), *key_index.stride()),
        BLOCK_D=block,
        num_warps=num_warps,
    )
    return grad_fine, grad_coarse


def slice_of_channels(rows: Tensor) -> tuple[int, int]:
    """Channels and warps of a program: at most 8 KB of a row, 64 bytes for each thread."""
    channels = min(triton.next_power_of_2(max(rows.shape[1], 1)), 8192 // rows.element_size())
    return channels, max(1, channels * rows.element_size() // 2048)


def frame_layout(key_index: Tensor, num_fine: int, num_coarse: int, num_frames: int) -> tuple[Tensor, Tensor]:
    """slots int32 [T], each frame's place in key_index [K] or K where it is no key, and cu_frames int64 [T + 1]."""
    T, K = num_frames, key_index.shape[0]
    slots = key_index.new_empty(T, dtype=torch.int32)
    cu_frames = key_index.new_empty(T + 1)
    block = 64
    launch(
        slots_kernel,
        (triton.cdiv(T, block),),
        *(key_index, slots, K, T, *key_index.stride()),
        BLOCK_T=block,
        BLOCK_K=64,
        num_warps=4,
    )
    block = 1024
    launch(
        cu_frames_kernel,
        (triton.cdiv(T + 1, block),),
        *(slots, cu_frames, K, num_fine, T, num_coarse),
        BLOCK_T=block,
        num_warps=4,
    )
    return slots, cu_frames


@triton.jit
def slots_kernel(key_ptr, slot_ptr, K, T, stride_k, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr):
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    slot = tl.zeros((BLOCK_T,), tl.int32) + K
    for first in range(0, K, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        key = tl.load(key_ptr + k.to(tl.int64) * stride_k, mask=k < K, other=-1)
        slot = tl.minimum(slot, tl.min(tl.where(key[None, :] == t[:, None], k[None, :], K), 1))
    tl.store(slot_ptr + t, slot, mask=t < T)


@triton.jit
def cu_frames_kernel(slot_ptr, cu_ptr, K, F, T, R, BLOCK_T: tl.constexpr):
    """cu_t = R t + F (keys before t)."""
    start = tl.program_id(0) * BLOCK_T
    keys = tl.zeros((BLOCK_T,), tl.int32)
    for first in range(0, start, BLOCK_T):
        keys += (tl.load(slot_ptr + first + tl.arange(0, BLOCK_T)) < K).to(tl.int32)
    t = start + tl.arange(0, BLOCK_T)
    is_key = (tl.load(slot_ptr + t, mask=t < T, other=K) < K).to(tl.int32)
    keys_before = tl.sum(keys, 0) + tl.cumsum(is_key, 0) - is_key
    tl.store(cu_ptr + t, t.to(tl.int64) * R + keys_before.to(tl.int64) * F, mask=t <= T)


@triton.jit
def packed_row_of_fine(row, key_ptr, slot_ptr, cu_ptr, F, T, stride_k):
    """Where row `row` of fine [K F, D] is in the sequence, or -1 where its frame belongs to another."""
    k = row // F
    key = tl.load(key_ptr + k.to(tl.int64) * stride_k)
    known = (key >= 0) & (key < T)
    slot = tl.load(slot_ptr + key, mask=known, other=-1)
    start = tl.load(cu_ptr + key, mask=known, other=0)
    return tl.where(slot == k, start + row % F, -1)


@triton.jit
def packed_row_of_coarse(row, cu_ptr, R):
    """Where row `row` of coarse [T R, D] is in the sequence: its frame's last are coarse."""
    return tl.load(cu_ptr + row // R + 1) - R + row % R


@triton.jit
def pack_kernel(
    fine_ptr,
    coarse_ptr,
    key_ptr,
    slot_ptr,
    cu_ptr,
    tokens_ptr,
    K,
    F,
    T,
    R,
    D,
    stride_fk,
    stride_fr,
    stride_fd,
    stride_ct,
    stride_cr,
    stride_cd,
    stride_k,
    BLOCK_D: tl.constexpr,
):
    """Copies a slice of a row of fine [K F, D], and clears one at the end that nothing fills; or of coarse [T R, D]."""
    slices = tl.cdiv(D, BLOCK_D)
    row = tl.program_id(0) // slices
    d = tl.program_id(0) % slices * BLOCK_D + tl.arange(0, BLOCK_D)
    at = d.to(tl.int64)
    if row < K * F:
        to = packed_row_of_fine(row, key_ptr, slot_ptr, cu_ptr, F, T, stride_k)
        if to >= 0:
            from_ptr = fine_ptr + (row // F).to(tl.int64) * stride_fk + (row % F).to(tl.int64) * stride_fr
            values = tl.load(from_ptr + at * stride_fd, mask=d < D)
            tl.store(tokens_ptr + to * D + d, values, mask=d < D)
        last = K * F + T * R - 1 - row
        if last >= tl.load(cu_ptr + T):
            zeros = tl.zeros((BLOCK_D,), tokens_ptr.dtype.element_ty)
            tl.store(tokens_ptr + last.to(tl.int64) * D + d, zeros, mask=d < D)
    else:
        row -= K * F
        to = packed_row_of_coarse(row, cu_ptr, R)
        from_ptr = coarse_ptr + (row // R).to(tl.int64) * stride_ct + (row % R).to(tl.int64) * stride_cr
        values = tl.load(from_ptr + at * stride_cd, mask=d < D)
        tl.store(tokens_ptr + to * D + d, values, mask=d < D)


@triton.jit
def unpack_kernel(
    grad_ptr,
    key_ptr,
    slot_ptr,
    cu_ptr,
    grad_fine_ptr,
    grad_coarse_ptr,
    K,
    F,
    T,
    R,
    D,
    stride_gr,
    stride_gd,
    stride_k,
    BLOCK_D: tl.constexpr,
):
    """Copies a slice of a row back."""
    slices = tl.cdiv(D, BLOCK_D)
    row = tl.program_id(0) // slices
    d = tl.program_id(0) % slices * BLOCK_D + tl.arange(0, BLOCK_D)
    from_ptr = grad_ptr + d.to(tl.int64) * stride_gd
    if row < K * F:
        at = packed_row_of_fine(row, key_ptr, slot_ptr, cu_ptr, F, T, stride_k)
        width = tl.where(at >= 0, D, 0)
        values = tl.load(from_ptr + at * stride_gr, mask=d < width, other=0)
        tl.store(grad_fine_ptr + row.to(tl.int64) * D + d, values, mask=d < D)
    else:
        row -= K * F
        at = packed_row_of_coarse(row, cu_ptr, R)
        values = tl.load(from_ptr + at * stride_gr, mask=d < D)
        tl.store(grad_coarse_ptr + row.to(tl.int64) * D + d, values, mask=d < D)
