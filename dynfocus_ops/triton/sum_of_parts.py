"""Sums of partial sums, in their order."""

import triton
import triton.language as tl
from torch import Tensor

from dynfocus_ops.triton.launch import launch
from dynfocus_ops.triton.rounding import rounded


def sum_of_parts(parts: Tensor, sums: Tensor) -> Tensor:
    """parts float32 [B, P, N] summed over P into the contiguous `sums` of B N numbers, which it returns."""
    B, P, N = parts.shape
    block = 256
    launch(sum_of_parts_kernel, (triton.cdiv(N, block) * B,), parts, sums, P, N, BLOCK_N=block, num_warps=2)
    return sums


@triton.jit
def sum_of_parts_kernel(part_ptr, sum_ptr, P, N, BLOCK_N: tl.constexpr):
    tiles = tl.cdiv(N, BLOCK_N)
    n = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    b = (tl.program_id(0) // tiles).to(tl.int64)
    sums = tl.zeros((BLOCK_N,), tl.float32)
    for part in range(P):
        sums += tl.load(part_ptr + (b * P + part) * N + n, mask=n < N, other=0)
    tl.store(sum_ptr + b * N + n, rounded(sums, sum_ptr.dtype.element_ty), mask=n < N)
