"""Numbers of the host on their way to a GPU."""

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(numbers: Sequence[int], device: torch.device) -> Tensor:
    """int64, on `device`, without waiting for what a GPU still has to do."""
    host = torch.tensor(numbers)
    if device.type == "cuda":
        host = host.pin_memory()
    return host.to(device, non_blocking=True)
