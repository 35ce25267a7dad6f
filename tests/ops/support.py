"""What the tests of the ops share: which backends they must run on, golden numbers, threads, poisoned memory.

With DYNFOCUS_TEST_DEVICE=cuda (make gpu) the ops run on a GPU, on copies of the tests' tensors, and what they return is
copied back: the tests, and all that they compare with, stay on the CPU.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from dynfocus_ops import native
from dynfocus_ops.backends import BACKENDS, CPU_OPS, TRITON_OPS, interpreted

GOLDEN = Path(__file__).parent.parent / "golden"
# An install that says it has no native library is tested without; one that has lost its library fails.
DEVICE = os.environ.get("DYNFOCUS_TEST_DEVICE")
NATIVE = os.environ.get("DYNFOCUS_BUILD") != "none" and not native.NOT_BUILT.is_file()


def backends(op: str) -> list[str]:
    """The backends to test here: a GPU has a process of its own, as has Triton's interpreter (TRITON_INTERPRET=1)."""
    if DEVICE == "cuda":
        probe = torch.empty(1, 8, 16, device=DEVICE, dtype=torch.bfloat16)
        return [name for name in ("cuda", "triton") if name in BACKENDS and BACKENDS[name](op, probe) is None]
    if interpreted():
        return ["triton"] if op in TRITON_OPS else []
    return ["reference", *(["cpu"] if op in CPU_OPS and NATIVE else [])]


def on_device(x: Tensor) -> Tensor:
    """A copy on the device, with the same strides, through which gradients flow back; x itself without a device."""
    if DEVICE is None or x.device.type != "cpu":
        return x
    if x.is_contiguous() or 0 in x.stride():
        return x.to(DEVICE, copy=True)
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=DEVICE).copy_(x)


def running_on_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """The public function of an op, on copies of its arguments; what one backend refuses is skipped."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map_only(Tensor, on_device, (args, kwargs))
        try:
            result = function(*args, **kwargs)
        except RuntimeError as error:
            if re.match(r"backend 'cuda' .*cannot run", str(error)):
                pytest.skip(str(error))
            raise
        return tree_map_only(Tensor, Tensor.cpu, result)

    return run


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file of numbers that the research code computed."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, file.metadata() or {}


def assert_same_bits(actual: Any, expected: Any) -> None:
    actual_leaves, expected_leaves = tree_flatten(actual)[0], tree_flatten(expected)[0]
    assert len(actual_leaves) == len(expected_leaves)
    for a, e in zip(actual_leaves, expected_leaves, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=0, equal_nan=True)


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fresh tensors are full of NaN, or of the largest integer: what an op forgets to write shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # what is fixed on a GPU is not all that torch knows to be
    try:
        assert torch.empty(3).isnan().all() and torch.utils.deterministic.fill_uninitialized_memory
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def gradients(function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> list[Tensor | None]:
    """Gradients of a fixed random projection of the differentiable outputs; none where there are none."""
    leaves = [x.detach().requires_grad_() if x.is_floating_point() else x for x in inputs]
    outputs = [y for y in tree_flatten(function(*leaves))[0] if y.requires_grad]
    if not outputs:
        return []
    generator = torch.Generator().manual_seed(7)
    loss = sum((y * torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y)).sum() for y in outputs)
    wanted = [x for x in leaves if x.requires_grad]
    return list(torch.autograd.grad(loss, wanted, allow_unused=True))


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest tensor had that was made inside."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [x.untyped_storage().nbytes() // x.itemsize for x in tree_flatten(result)[0] if isinstance(x, Tensor)]
        self.numbers = max(self.numbers, *sizes, 0)
        return result
