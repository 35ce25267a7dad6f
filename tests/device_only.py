"""What a GPU would have to be waited for, found without one: tensors of the meta device stand for those of the GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@contextmanager
def device_only(bodies: bool = False) -> Iterator[None]:
    """Raises where code copies between the host and the device, which waits for it and no CUDA graph can capture.

    Reading a number (item, tolist, bool), nonzero and masks as indices raise by themselves on the meta device.

    Args:
        bodies: on the meta device torch runs the fakes of our ops; with this it runs what a GPU would run.
    """
    with _NoCopies(bodies), _NoNumbersFromTheHost():
        yield


class _NoCopies(TorchDispatchMode):
    def __init__(self, bodies: bool):
        super().__init__()
        self.bodies = bodies

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.bodies and func.namespace == "dynfocus":
            with self:
                return OPDEFS[func._schema.name]._init_fn(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        if func.name().startswith(("aten::_to_copy", "aten::copy_")):
            devices = {leaf.device.type for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)}
            if len(devices) > 1:
                raise AssertionError(f"{func.name()} between {' and '.join(sorted(devices))}: this waits for a GPU")
        return result


class _NoNumbersFromTheHost(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor) and result.device.type != "cpu":
            raise AssertionError(f"torch.tensor(…, device={result.device.type!r}): this waits for a GPU")
        return result
