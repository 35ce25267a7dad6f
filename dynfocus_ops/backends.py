"""Which backend runs an op: one predicate per backend filters the automatic choice and explains a refusal.

Asking order: the op's `backend=` argument, then `with use_backend(name):`, then the environment variable
DYNFOCUS_BACKEND, then the fastest backend whose predicate passes. A backend asked for by name either runs or raises;
only the automatic choice moves on, and it logs what it took and why.
"""

import functools
import importlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from dynfocus_ops import native, reference

logger = logging.getLogger("dynfocus_ops")

CPU_OPS = frozenset(
    {
        "cluster_mean",
        "density_peak_distance",
        "dpc_knn",
        "dpc_knn_varlen",
        "knn_log_density",
        "nearest_center",
        "pack_frame_tokens",
        "perturbed_topk",
        "rods_pool",
        "spatial_prototypes",
    }
)
TRITON_OPS = frozenset(
    {
        "cluster_mean",
        "density_peak_distance",
        "dpc_knn",
        "dpc_knn_varlen",
        "knn_log_density",
        "nearest_center",
        "pack_frame_tokens",
        "perturbed_topk",
        "rods_pool",
        "spatial_prototypes",
    }
)
# Candidates for a point's neighbours are kept in registers, 64 at most, three of them beyond the k wanted.
TRITON_MOST_NEIGHBORS = 61
KERNEL_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})
# As csrc/cuda/frames.h has them: squared distances lie in shared memory, channels are read 16 bytes at a time.
CUDA_OPS = frozenset({"dpc_knn", "spatial_prototypes"})
CUDA_DTYPES = frozenset({torch.bfloat16, torch.float16})
CUDA_CHANNELS = 8
CUDA_MOST = {"num_points": 256, "num_clusters": 64, "k": 16}

_context = threading.local()
_said: set[tuple[object, ...]] = set()


def can_run_reference(op: str, x: Tensor, **sizes: int) -> str | None:
    """None: plain torch runs every op on every device and dtype."""
    return None


def can_run_cpu(op: str, x: Tensor, **sizes: int) -> str | None:
    """None if the native CPU kernel of `op` can take `x`, else the reason why not."""
    if op not in CPU_OPS:
        return f"{op} has no native CPU kernel"
    if x.device.type != "cpu":
        return f"x is on {x.device}, the native CPU kernels need a CPU tensor"
    if x.dtype not in KERNEL_DTYPES:
        return f"x is {x.dtype}, the native CPU kernels take float32, bfloat16 and float16"
    try:
        native.load()
    except native.NativeUnavailable as unavailable:
        _warn_once(str(unavailable))
        return str(unavailable)
    return None


def can_run_cuda(op: str, x: Tensor, **sizes: int) -> str | None:
    """None if the CUDA kernel of `op` can take `x` [B, N, C] and arguments of these sizes, else the reason why not."""
    if op not in CUDA_OPS:
        return f"{op} has no CUDA kernel"
    if x.device.type != "cuda":
        return f"x is on {x.device}, the CUDA kernels need a CUDA tensor"
    if torch.cuda.get_device_capability(x.device) < (8, 0):
        major, minor = torch.cuda.get_device_capability(x.device)
        return f"{x.device} has compute capability {major}.{minor}, the CUDA kernels need 8.0 or later"
    if x.dtype not in CUDA_DTYPES:
        return f"x is {x.dtype}, the CUDA kernels take bfloat16 and float16"
    if x.shape[2] % CUDA_CHANNELS != 0:
        return f"x has {x.shape[2]} channels, the CUDA kernels take a multiple of {CUDA_CHANNELS}"
    for name, size in {"num_points": x.shape[1], **sizes}.items():
        if size > CUDA_MOST[name]:
            return f"{name} is {size}, the CUDA kernels take at most {CUDA_MOST[name]}"
    try:
        native.load()
    except native.NativeUnavailable as unavailable:
        return str(unavailable)
    if not native.has_kernel(op, "CUDA"):
        build = "reinstall with nvcc and DYNFOCUS_BUILD=cuda"
        return f"the native library at {native.LIBRARY} was built without CUDA kernels ({build})"
    return None


def can_run_triton(op: str, x: Tensor, **sizes: int) -> str | None:
    """None if the Triton kernel of `op` can take `x` and arguments of these sizes, else the reason why not."""
    if op not in TRITON_OPS:
        return f"{op} has no Triton kernel"
    if x.device.type != "cuda" and not (x.device.type == "cpu" and interpreted()):
        return f"x is on {x.device}, the Triton kernels need a CUDA tensor (or TRITON_INTERPRET=1 and a CPU tensor)"
    if not triton_is_installed():
        return "the package triton is not installed"
    if x.device.type == "cuda" and torch.cuda.get_device_capability(x.device) < (8, 0):
        major, minor = torch.cuda.get_device_capability(x.device)
        return f"{x.device} has compute capability {major}.{minor}, the Triton kernels need 8.0 or later"
    if x.dtype not in KERNEL_DTYPES:
        return f"x is {x.dtype}, the Triton kernels take float32, bfloat16 and float16"
    if sizes.get("k", 0) > TRITON_MOST_NEIGHBORS:
        return f"k is {sizes['k']}, the Triton kernels keep at most {TRITON_MOST_NEIGHBORS} neighbours in registers"
    return None


@functools.cache
def triton_is_installed() -> bool:
    """Looked up on disk while nothing has imported it, which takes longer than a small op."""
    return find_spec("triton") is not None


def interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter; Triton reads this when a kernel is defined."""
    return os.environ.get("TRITON_INTERPRET") == "1"


# Fastest first.
BACKENDS: dict[str, Callable[..., str | None]] = {
    "cuda": can_run_cuda,
    "triton": can_run_triton,
    "cpu": can_run_cpu,
    "reference": can_run_reference,
}


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Runs the ops called inside, in this thread, on the backend `name` unless they name one themselves.

    A backward pass run outside chooses anew.

    Raises:
        ValueError: if there is no backend of that name.
    """
    _check_name(name, "name")
    previous = getattr(_context, "name", "auto")
    _context.name = name
    try:
        yield
    finally:
        _context.name = previous


def select_backend(op: str, requested: str, x: Tensor, **sizes: int) -> str:
    """The backend that runs `op` on `x`: a key of BACKENDS.

    Args:
        op: the op's name, such as "dpc_knn".
        requested: "auto", or the name of a backend.
        x: the op's main input; its device and dtype decide.
        sizes: arguments that a backend may have a limit for, such as k.

    Raises:
        ValueError: if a name, or DYNFOCUS_BACKEND, is no backend.
        RuntimeError: if the backend asked for by name cannot run `op` on `x`, with the reason.
    """
    name, asked_by = _requested(requested)
    if name != "auto":
        reason = BACKENDS[name](op, x, **sizes)
        if reason is not None:
            raise RuntimeError(f"backend {name!r} ({asked_by}) cannot run {op}: {reason}")
        _log_once(op, name, x, asked_by)
        return name

    refusals: list[str] = []
    for name, can_run in BACKENDS.items():
        reason = can_run(op, x, **sizes)
        if reason is None:
            _log_once(op, name, x, "; ".join(refusals) or "the fastest")
            return name
        refusals.append(f"not {name}: {reason}")
    raise RuntimeError(f"no backend can run {op}: {'; '.join(refusals)}")


def select_kernel(op: str, requested: str, x: Tensor, function: str = "", **sizes: int) -> Callable[..., Any]:
    """The function that runs `op` on `x`: that of the backend chosen, all with the same arguments.

    `function` names another function of the op than the one of its name, such as its backward pass.
    """
    return kernel_of(op, select_backend(op, requested, x, **sizes), function)


def kernel_of(op: str, backend: str, function: str = "") -> Callable[..., Any]:
    """The function of `backend`, one that `select_backend` gave, that runs `op`."""
    if backend == "triton":
        module: Any = importlib.import_module(f"dynfocus_ops.triton.{op}")
    else:
        module = reference if backend == "reference" else torch.ops.dynfocus_native
    kernel: Callable[..., Any] = getattr(module, function or op)
    return kernel


def _requested(argument: str) -> tuple[str, str]:
    """The name asked for, or "auto", and who asked."""
    sources = (
        (argument, "backend="),
        (getattr(_context, "name", "auto"), "use_backend"),
        (os.environ.get("DYNFOCUS_BACKEND") or "auto", "DYNFOCUS_BACKEND"),
    )
    for name, source in sources:
        _check_name(name, source)
        if name != "auto":
            return name, source
    return "auto", "auto"


def _check_name(name: str, source: str) -> None:
    if name != "auto" and name not in BACKENDS:
        raise ValueError(f"{source} is {name!r}, it must be one of {['auto', *BACKENDS]}")


def _log_once(op: str, backend: str, x: Tensor, why: str) -> None:
    key = (op, backend, x.device.type, x.dtype)
    if key not in _said:
        _said.add(key)
        logger.info("%s on %s %s runs on backend %r (%s)", op, x.device.type, x.dtype, backend, why)


def _warn_once(message: str) -> None:
    """A missing library makes everything slower: visible without any logging set-up, unlike the INFO lines."""
    if (message,) not in _said:
        _said.add((message,))
        logger.warning("the ops run in plain torch: %s", message)
