"""The one way a kernel of ours is launched; a launch can be recorded instead, for ahead-of-time compilation.

Launchers may look at shapes, strides, dtypes and `compute_capability` only, so that they also run on tensors of the
meta device: what `record` sees is then what a GPU would be sent.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Launch:
    """One kernel launch: its arguments in the order of the kernel's parameters, its constants and compiler options."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]  # tl.constexpr parameters, num_warps and num_stages among them


@dataclass
class Recording:
    capability: int
    launches: list[Launch] = field(default_factory=list)


_recording: ContextVar[Recording | None] = ContextVar("recording", default=None)


@contextmanager
def record(capability: int) -> Iterator[list[Launch]]:
    """Collects the launches made inside instead of making them, as for a GPU of `capability` (80, 90, …)."""
    recording = Recording(capability)
    token = _recording.set(recording)
    try:
        yield recording.launches
    finally:
        _recording.reset(token)


def compute_capability(x: Tensor) -> int:
    """80 for compute capability 8.0, 90 for 9.0: of the GPU that x is on, or the one recorded for.

    In the interpreter, which has no GPU, the configurations are those of 8.0.
    """
    recording = _recording.get()
    if recording is not None:
        return recording.capability
    if x.device.type != "cuda":
        return 80
    major, minor = torch.cuda.get_device_capability(x.device)
    return 10 * major + minor


def launch(kernel: Any, grid: Sequence[int], *arguments: Any, **constants: Any) -> None:
    """Runs `kernel` on the current stream of the first tensor's device.

    Args:
        kernel: a function under @triton.jit.
        grid: 1 to 3 numbers of programs; with a 0 among them nothing is launched.
        arguments: all but the constexpr parameters, in order: tensors, None or numbers.
        constants: the constexpr parameters by name, and compiler options: num_warps, maxnreg, enable_fp_fusion, …
    """
    if 0 in grid:
        return
    recording = _recording.get()
    if recording is not None:
        recording.launches.append(Launch(kernel, tuple(grid), arguments, constants))
        return
    device = next(argument.device for argument in arguments if isinstance(argument, Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[tuple(grid)](*arguments, **constants)
