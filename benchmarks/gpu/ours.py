"""Which of our backends run an op on a GPU, or why not."""

from torch import Tensor

from dynfocus_ops.backends import BACKENDS, select_backend

GPU_BACKENDS = ("cuda", "triton")


def refusal(op: str, backend: str, x: Tensor) -> str | None:
    """None if `backend` runs `op` on x, else the reason why not."""
    if backend not in BACKENDS:
        return f"this version has no backend {backend!r}"
    return BACKENDS[backend](op, x)


def chosen(op: str, x: Tensor) -> str:
    """What users get who name no backend."""
    return select_backend(op, "auto", x)
