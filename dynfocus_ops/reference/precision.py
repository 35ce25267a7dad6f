import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """x as it is computed with: in float64 for float64, else in float32; contiguous, or strides would change bits."""
    return (x if x.dtype == torch.float64 else x.float()).contiguous()
