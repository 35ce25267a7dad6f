"""Numbers of the host on their way to a GPU."""

from collections.abc import Sequence

import torch
from torch import Tensor

FEW = 4  # each is a launch


def to_device(numbers: Sequence[int], device: torch.device) -> Tensor:
    """int64 [len(numbers)] on `device`, without waiting for what a GPU still has to do.

    Few numbers the GPU writes itself, and all of them in a CUDA graph: replayed, it would copy from memory of the host
    that has become something else's.
    """
    if device.type == "meta":  # stands for a GPU where no number is read, in tests and cost models
        return torch.empty(len(numbers), dtype=torch.int64, device=device)
    if device.type != "cuda":
        return torch.tensor(numbers, device=device)
    if len(numbers) <= FEW or torch.cuda.is_current_stream_capturing():
        return torch.cat([torch.full((1,), number, device=device) for number in numbers])
    return torch.tensor(numbers).pin_memory().to(device, non_blocking=True)
