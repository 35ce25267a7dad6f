"""Finds and loads the native library: `torch.ops.dynfocus_native.<op>`.

The ops live in one shared library on PyTorch's stable ABI with no Python in it; the pybind11 module `dynfocus_ops._C`
only describes the build, and the ops load without it. Nothing is loaded when this module is imported.
"""

import importlib
from pathlib import Path
from typing import Any

import torch

_LIB = Path(__file__).parent / "lib"
LIBRARY = _LIB / "libdynfocus_native.so"
NOT_BUILT = _LIB / "NOT_BUILT.txt"  # setup.py writes these in the place of what it did not build: why not
NO_MODULE = _LIB / "NO_MODULE.txt"
OLDEST_TORCH = (2, 10)  # the stable ABI the library is compiled for

_loaded = False
_failure: str | None = None


class NativeUnavailable(RuntimeError):
    """The native library, or the module that describes it, cannot be used here; the message says why."""


def load() -> None:
    """Loads the native library, once.

    Raises:
        NativeUnavailable: naming the file tried and what was wrong with it; kept, and raised again by later calls.
    """
    global _loaded, _failure
    if _loaded:
        return
    if _failure is None:
        _failure = _try_to_load()
    if _failure is not None:
        raise NativeUnavailable(_failure)
    _loaded = True


def _try_to_load() -> str | None:
    """None, or why the library cannot be loaded."""
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        return f"the native library needs torch >= {oldest}, this is torch {torch.__version__}"
    if not LIBRARY.is_file():
        why = _note(NOT_BUILT) or "the package has not been built"
        return f"no native library at {LIBRARY}: {why} (reinstall with a C++ compiler and DYNFOCUS_BUILD=cpu)"
    try:
        torch.ops.load_library(str(LIBRARY))
    except (OSError, RuntimeError) as error:
        return f"the native library at {LIBRARY} does not load under torch {torch.__version__}: {error}"
    return None


def _note(path: Path) -> str | None:
    return path.read_text().strip() if path.is_file() else None


def has_kernel(op: str, key: str) -> bool:
    """Whether the loaded library has a kernel of `op` for tensors of the dispatch key `key`, such as "CUDA"."""
    found: bool = torch._C._dispatch_has_kernel_for_dispatch_key(f"dynfocus_native::{op}", key)
    return found


def build_info() -> dict[str, Any]:
    """What was compiled and what this CPU runs: compiler, flags, instruction sets, CUDA archs, the torch built against.

    Raises:
        NativeUnavailable: if the module `dynfocus_ops._C` was not built, or was built for another Python.
    """
    try:
        module = importlib.import_module("dynfocus_ops._C")
    except ImportError as error:
        why = _note(NOT_BUILT) or _note(NO_MODULE) or str(error)
        raise NativeUnavailable(f"no module dynfocus_ops._C: {why}") from error
    info: dict[str, Any] = module.build_info()
    return info
