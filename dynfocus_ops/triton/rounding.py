"""float32 to the dtype of a result: the only place that narrows."""

import triton
import triton.language as tl

from dynfocus_ops.triton.dot import INTERPRETED


@triton.jit
def rounded(values, dtype: tl.constexpr):
    """`values` (float32) in `dtype`, to the nearest, ties to even.

    The interpreter cuts the lower half of the bits off for bfloat16, so there they are rounded away first.
    """
    if INTERPRETED and dtype == tl.bfloat16:
        bits = values.to(tl.int32, bitcast=True)
        nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000).to(tl.float32, bitcast=True)
        values = tl.where(values == values, nearest, values)  # NaN stays NaN
    return values.to(dtype)
