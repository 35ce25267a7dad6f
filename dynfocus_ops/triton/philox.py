"""Standard normal numbers from a counter: Philox4x32-10 and Box-Muller, as in dynfocus_ops/reference/perturbed_topk.py.

The logarithm and the cosine are the polynomials of csrc/cpu/vector/normal_kernels.cpp, operation by operation. A kernel
that draws is launched with enable_fp_fusion=False: each operation then rounds on its own, by IEEE 754 on every device,
so that Z has the bits of the native CPU kernel: within 4 units in the last place of Z in float64.
"""

import triton
import triton.language as tl

HALF_SQRT_BITS = tl.constexpr(0x3F3504F3)  # of sqrt(1/2) in float32
LN4_HIGH = tl.constexpr(float.fromhex("0x1.62e4p0"))  # 2 ln 2 in two parts: small integers times the first are exact
LN4_LOW = tl.constexpr(float.fromhex("0x1.7f7d1cp-19"))


@triton.jit
def normal(seed, counter):
    """Z, float32, of int64 counters and the seed, an int64 number."""
    low, high = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
    zero = tl.zeros_like(low)
    word0, word1, _, _ = tl.philox(seed, low, high, zero, zero)
    return radius((word0 >> 8).to(tl.int32)) * cosine((word1 >> 8).to(tl.int32))


@triton.jit
def radius(word):
    """sqrt(-2 ln u) for u = (word + 1) 2^-24.

    With u = 2^-n (1 + x), 1 + x in [sqrt(1/2), sqrt(2)): -2 ln u = 2 ln(2) n - 2x + x^2 (1 + x Q(x)), Q the minimax
    polynomial of the remainder. Near u = 1 no digits cancel: n is 0 and x exact.
    """
    bits = (word + 1).to(tl.float32).to(tl.int32, bitcast=True)
    exponent = (bits - HALF_SQRT_BITS) >> 23
    x = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    n = (24 - exponent).to(tl.float32)
    q = -0.174051728901 * x + 0.285325848478
    q = q * x - 0.298268071137
    q = q * x + 0.331554029014
    q = q * x - 0.399264435631
    q = q * x + 0.500026698178
    q = q * x - 0.666678117914
    square = x * x
    return tl.sqrt_rn((n * LN4_HIGH - (x + x)) + ((square + square * (x * q)) + n * LN4_LOW))


@triton.jit
def cosine(word):
    """cos(2 pi u) for u = word 2^-24, as sin(t pi / 2) = t (3/2 + P(t^2)) with t = |4u - 2| - 1, which is exact."""
    t = (tl.abs(word - (1 << 23)) - (1 << 22)).to(tl.float32) * (1.0 / (1 << 22))
    s = t * t
    p = 0.000151485130733 * s - 0.0046737666124
    p = p * s + 0.0796896789478
    p = p * s - 0.6459637106
    p = p * s + 0.07079631845
    return t * 1.5 + t * p
