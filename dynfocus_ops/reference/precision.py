import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """x in the precision it is computed in: float64 for float64, else float32. Contiguous, or strides would change bits."""
    return (x if x.dtype == torch.float64 else x.float()).contiguous()
