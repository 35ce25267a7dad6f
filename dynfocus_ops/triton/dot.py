"""Matrix products: the only place that calls Triton's dot."""

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def dot(a, b, sums):
    """sums [M, N] + a [M, K] b [K, N], in float32: of float32 as three tf32 products, of 16-bit floats exactly.

    The interpreter multiplies the bit patterns of bfloat16, so there the factors are widened first.
    """
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, sums, input_precision="tf32x3")
