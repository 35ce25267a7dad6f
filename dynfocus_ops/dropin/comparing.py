"""Whether two functions do the same to the same arguments: results, gradients, use of torch's generator."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

SEED = 11


def difference(
    original: Callable[..., Any], replacement: Callable[..., Any], args: tuple[Any, ...], tolerance: float
) -> str | None:
    """None, or in what they differ; values may also be apart by `tolerance` times the largest."""
    runs = []
    for name, function in (("the original", original), ("the replacement", replacement)):
        own = tree_map(
            lambda value: (
                value.detach().clone().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value
            ),
            args,
        )
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(SEED)
            try:
                result = function(*own)
            except Exception as error:  # whatever an unknown function may raise is the reason to leave it alone
                return f"{name} raised {type(error).__name__}: {error}"
            state = torch.get_rng_state()
        runs.append((result, gradients(result, own), state))
    (result, grads, state), (our_result, our_grads, our_state) = runs
    if not torch.equal(state, our_state):
        return "they draw differently from torch's generator"
    return unlike("the result", result, our_result, tolerance) or unlike("the gradients", grads, our_grads, tolerance)


def gradients(result: Any, args: tuple[Any, ...]) -> list[Tensor | None]:
    """Of a fixed projection of what is differentiable in the result."""
    outputs = [value for value in tree_leaves(result) if isinstance(value, Tensor) and value.requires_grad]
    inputs = [value for value in tree_leaves(args) if isinstance(value, Tensor) and value.requires_grad]
    if not outputs:
        return []
    weights = [torch.linspace(-1, 1, value.numel()).view_as(value) for value in outputs]
    return list(torch.autograd.grad(outputs, inputs, weights, allow_unused=True))


def unlike(name: str, theirs: Any, ours: Any, tolerance: float) -> str | None:
    """Where two nested results differ: in types, keys, shapes, dtypes, or beyond float32's rounding in values."""
    if type(theirs) is not type(ours):
        return f"{name} is a {type(theirs).__name__}, ours a {type(ours).__name__}"
    if isinstance(theirs, dict):
        if list(theirs) != list(ours):
            return f"{name} has keys {list(theirs)}, ours {list(ours)}"
        return first(unlike(f"{name}[{key!r}]", theirs[key], ours[key], tolerance) for key in theirs)
    if isinstance(theirs, list | tuple):
        if len(theirs) != len(ours):
            return f"{name} has {len(theirs)} parts, ours {len(ours)}"
        pairs = enumerate(zip(theirs, ours, strict=True))
        return first(unlike(f"{name}[{index}]", one, other, tolerance) for index, (one, other) in pairs)
    if not isinstance(theirs, Tensor):
        return None if theirs == ours else f"{name} is {theirs!r}, ours {ours!r}"
    if (theirs.shape, theirs.dtype) != (ours.shape, ours.dtype):
        return f"{name} is {theirs.dtype} {list(theirs.shape)}, ours {ours.dtype} {list(ours.shape)}"
    if theirs.requires_grad != ours.requires_grad:
        return f"{name} is {'' if theirs.requires_grad else 'not '}differentiable, unlike ours"
    largest = float(theirs.abs().max()) if tolerance > 0 and theirs.is_floating_point() else 0.0
    if not torch.allclose(theirs, ours, rtol=1e-4, atol=1e-5 + tolerance * largest):
        return f"{name} has other values"
    return None


def first(reasons: Any) -> str | None:
    return next((reason for reason in reasons if reason is not None), None)
