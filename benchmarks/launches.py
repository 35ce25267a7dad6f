"""How many kernels an op or the connector launches on a GPU, counted without one: on tensors of the meta device."""

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dynfocus_ops.backends import BACKENDS, TRITON_OPS

CAPABILITY = 90
WITHOUT_KERNEL = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
    *("detach", "alias", "lift_fresh", "_unsafe_view"),
}


def launches(run: Callable[[], Any], ops: Iterable[str]) -> int | None:
    """Kernels of ours, and of torch one for each of its calls that computes; None unless all `ops` run on Triton here.

    Args:
        run: the work, on meta tensors.
        ops: those of ours that it calls.
    """
    if find_spec("triton") is None or not TRITON_OPS.issuperset(ops):
        return None
    from dynfocus_ops.triton.launch import record

    with (
        mock.patch.dict(BACKENDS, {"triton": lambda *arguments, **sizes: None}),
        record(CAPABILITY) as ours,
        _Calls() as calls,
    ):
        run()
    return len(ours) + calls.number


class _Calls(TorchDispatchMode):
    """Counts torch's calls that launch something, and runs the bodies of our ops where torch would run their fakes."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "dynfocus":
            with self:
                return OPDEFS[func._schema.name]._init_fn(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        on_device = any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves(result))
        if on_device and not func.is_view and func._schema.name.split("::")[1] not in WITHOUT_KERNEL:
            self.number += 1
        return result


def forward_and_backward(function: Callable[..., Any], *inputs: Tensor) -> Callable[[], None]:
    """To launch the gradient of the floating-point inputs as well."""

    def run() -> None:
        leaves = [x.detach().requires_grad_() if x.is_floating_point() else x for x in inputs]
        outputs = [y for y in tree_leaves(function(*leaves)) if y.requires_grad]
        torch.autograd.grad(outputs, [x for x in leaves if x.requires_grad], [torch.empty_like(y) for y in outputs])

    return run
