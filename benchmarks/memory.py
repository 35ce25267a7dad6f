"""The most memory a call holds beyond its inputs and its results."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

_RESET_PEAK = "5"  # proc(5): resets the peak resident set size to the current one


def peak_extra_bytes(run: Callable[[], Any]) -> int | None:
    """Growth of the resident set at its peak during run(), less the tensors it returns; None where Linux does not say.

    Buffers that a library keeps from one call to the next are resident before and count for nobody.
    """
    gc.collect()
    _return_free_memory()
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return None
    before = _status_bytes("VmRSS")
    result = run()
    return max(0, _status_bytes("VmHWM") - before - sum(tensor.nbytes for tensor in tensors(result)))


def tensors(result: Any) -> list[Tensor]:
    """All tensors of a result of nested tuples and lists."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, tuple | list):
        return [tensor for part in result for tensor in tensors(part)]
    return []


def _return_free_memory() -> None:
    """Gives glibc's free pages back, else a call would seem to need none where it finds those of an earlier one."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"/proc/self/status has no {field}")
