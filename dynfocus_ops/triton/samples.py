"""Where the points of a sample lie: of a batch [B, N, C], or of ragged segments [total, C].

What belongs to points (masks, norms, densities, lists) lies flat, one after the other, as the points of ragged segments
do: sample b of a batch has the rows from b N on.
"""

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """Points x [B, N, C], or [total, C] with segments from cu_seqlens[s] to cu_seqlens[s + 1], at most max_seqlen long.

    mask is bool, contiguous, one for each point.
    """

    x: Tensor
    mask: Tensor | None = None
    cu_seqlens: Tensor | None = None
    max_seqlen: int = 0

    @property
    def count(self) -> int:
        return len(self.x) if self.cu_seqlens is None else len(self.cu_seqlens) - 1

    @property
    def longest(self) -> int:
        return self.x.shape[1] if self.cu_seqlens is None else min(self.max_seqlen, self.total)

    @property
    def total(self) -> int:
        return self.x.shape[:-1].numel()

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The first arguments of kernels that read points."""
        sample_stride = self.x.stride(0) if self.cu_seqlens is None else 0
        point_stride, channel_stride = self.x.stride()[-2:]
        sizes = (self.longest, self.total, self.x.shape[-1])
        return (self.x, self.mask, self.cu_seqlens, sample_stride, point_stride, channel_stride, *sizes)

    @property
    def layout(self) -> tuple[Any, ...]:
        """The first arguments of kernels that do not."""
        return (self.mask, self.cu_seqlens, self.longest, self.total)


def flat(points: Tensor | None) -> Tensor | None:
    """[B, N] as kernels read it."""
    return None if points is None else points.contiguous()


@triton.jit
def sample_rows(sample, N, total, cu_seqlens_ptr):
    """(first, length): the rows of a sample. Whatever cu_seqlens holds, they are rows there are, and at most N."""
    if cu_seqlens_ptr is None:
        first = tl.cast(sample, tl.int64) * N
        length = N
    else:
        start = tl.load(cu_seqlens_ptr + sample).to(tl.int64)
        stop = tl.load(cu_seqlens_ptr + sample + 1).to(tl.int64)
        first = tl.minimum(tl.maximum(start, 0), total)
        length = tl.minimum(tl.maximum(stop - first, 0), tl.minimum(N, total - first)).to(tl.int32)
    return first, length


@triton.jit
def sample_pointer(x_ptr, sample, first, sample_stride, point_stride, cu_seqlens_ptr):
    """The sample's point 0."""
    if cu_seqlens_ptr is None:
        return x_ptr + tl.cast(sample, tl.int64) * sample_stride
    else:
        return x_ptr + first * point_stride


@triton.jit
def are_valid(mask_ptr, rows, inside):
    """Which points, by their row, are `inside` the sample and not masked out."""
    if mask_ptr is None:
        return inside
    else:
        return inside & (tl.load(mask_ptr + rows, mask=inside, other=0) != 0)
