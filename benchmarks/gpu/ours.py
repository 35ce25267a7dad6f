"""Which of our backends run an op on a GPU, or why not."""

import re

import torch
from torch import Tensor

from dynfocus_ops.backends import BACKENDS, select_backend

GPU_BACKENDS = ("cuda", "triton")


def refusal(op: str, backend: str, x: Tensor) -> str | None:
    """None if `backend` runs `op` on x, else the reason why not; it may still refuse other arguments of a call."""
    if backend not in BACKENDS:
        return f"this version has no backend {backend!r}"
    return BACKENDS[backend](op, x)


def easy_points(device: str) -> Tensor:
    """What a backend that has an op at all can take."""
    return torch.empty(1, 8, 16, device=device, dtype=torch.bfloat16)


def is_refusal(error: Exception) -> bool:
    """Whether the backend that was named cannot take the arguments of a call (backends.select_backend)."""
    return isinstance(error, RuntimeError) and re.match(r"backend '\w+' \(.*\) cannot run", str(error)) is not None


def chosen(op: str, x: Tensor) -> str:
    """What users get who name no backend."""
    return select_backend(op, "auto", x)
