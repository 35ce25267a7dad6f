"""What must hold of a call on the device, whatever it computes; each raises AssertionError where it does not."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from benchmarks.gpu.cases import Call, doubled
from benchmarks.gpu.timing import captured


def shipped(x: Tensor, device: str, misaligned: bool = False) -> Tensor:
    """On the device; misaligned: a view that neither begins where the allocator would nor is contiguous."""
    if not misaligned or x.dim() == 0:
        return x.to(device, copy=True)
    wide = torch.empty(*x.shape[:-1], x.shape[-1] + 3, dtype=x.dtype, device=device)
    view = wide[..., 1 : 1 + x.shape[-1]]
    return view.copy_(x)


def on_host(result: Any) -> Any:
    return torch.utils._pytree.tree_map_only(Tensor, lambda x: x.detach().cpu(), result)


def right(call: Call, backend: str, device: str, misaligned: bool) -> None:
    result = call.function(*(shipped(x, device, misaligned) for x in call.tensors), backend=backend)
    call.check(on_host(result), *call.tensors)


def gradients_right(call: Call, backend: str, device: str) -> bool:
    """Against float64, or against the reference where the gradient is random; False where there is none to check."""
    leaves = differentiable(shipped(x, device) for x in call.tensors)
    result = call.function(*leaves, backend=backend)
    outputs = [y for y in tree_leaves(result) if y.requires_grad]
    if not outputs:
        return False
    generator = torch.Generator().manual_seed(1)
    along = [torch.randn(y.shape, generator=generator).to(y.dtype) for y in outputs]
    own = gradients(outputs, leaves, [g.to(device) for g in along])
    if call.exact is None:
        exact_leaves = differentiable(x.clone() for x in call.tensors)
        exact = call.function(*exact_leaves, backend="reference")
        tolerance = 0.05
    else:
        exact_leaves = differentiable(doubled(x) for x in call.tensors)
        exact = call.exact(on_host(result), *exact_leaves)
        tolerance = call.tolerance
    exact_outputs = [y for y in tree_leaves(exact) if y.requires_grad]
    expected = gradients(
        exact_outputs, exact_leaves, [g.to(y.dtype) for g, y in zip(along, exact_outputs, strict=True)]
    )
    for index, (a, e) in enumerate(zip(own, expected, strict=True)):
        assert a.shape == e.shape and a.isfinite().all(), f"gradient {index}: not finite, or of another shape"
        error = (a.cpu().double() - e.double()).norm()
        allowed = (4 * torch.finfo(a.dtype).eps + tolerance) * e.double().norm() + 1e-7
        assert error <= allowed, f"gradient {index}: off by {float(error / e.double().norm()):.2g} of its norm"
    return True


def differentiable(tensors: Iterator[Tensor] | Sequence[Tensor]) -> list[Tensor]:
    return [x.requires_grad_(x.is_floating_point()) for x in tensors]


def gradients(outputs: Sequence[Tensor], leaves: Sequence[Tensor], along: Sequence[Tensor]) -> list[Tensor]:
    """Of the leaves that have one."""
    wanted = [x for x in leaves if x.requires_grad]
    found = torch.autograd.grad(list(outputs), wanted, list(along), allow_unused=True)
    return [g for g in found if g is not None]


def same_bits(a: Any, b: Any, what: str) -> None:
    for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True):
        assert torch.equal(x.contiguous().view(torch.uint8), y.contiguous().view(torch.uint8)), f"{what}: other bits"


def forward_and_backward(call: Call, backend: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The results, then the gradients along ones."""
    leaves = differentiable([x.detach() for x in tensors])
    results = tree_leaves(call.function(*leaves, backend=backend))
    outputs = [y for y in results if y.requires_grad]
    found = gradients(outputs, leaves, [torch.ones_like(y) for y in outputs]) if outputs else []
    return [*(y.detach() for y in results), *found]


def repeatable(call: Call, backend: str, device: str, times: int) -> None:
    tensors = [shipped(x, device) for x in call.tensors]
    first = forward_and_backward(call, backend, tensors)
    for _ in range(times - 1):
        same_bits(forward_and_backward(call, backend, tensors), first, f"{times} calls")


def writes_all(call: Call, backend: str, device: str) -> None:
    """Memory is full of NaN, or of the largest integers, before it is given out."""
    tensors = [shipped(x, device) for x in call.tensors]
    expected = forward_and_backward(call, backend, tensors)
    with poisoned_memory(device):
        same_bits(forward_and_backward(call, backend, tensors), expected, "poisoned memory")


@contextmanager
def poisoned_memory(device: str) -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.empty(3, device=device).isnan().all(), "memory was not poisoned"
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def graph_equals_eager(call: Call, backend: str, device: str) -> None:
    """Captured once and replayed with other numbers."""
    tensors = [shipped(x, device) for x in call.tensors]
    results: list[Any] = []
    run: Callable[[], Any] = lambda: results.append(call.function(*tensors, backend=backend))  # noqa: E731
    replay = captured(run).replay if device == "cuda" else run
    for x in tensors:
        if x.is_floating_point():
            x.copy_(1.25 * x.flip(0))
    replay()
    same_bits(results[-1], call.function(*tensors, backend=backend), "graph")


def waits_for_nothing(call: Call, backend: str, device: str) -> None:
    """Any synchronising CUDA call is an error; a warm call, since the first one compiles."""
    tensors = [shipped(x, device) for x in call.tensors]
    forward_and_backward(call, backend, tensors)
    if device != "cuda":
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        forward_and_backward(call, backend, tensors)
    finally:
        torch.cuda.set_sync_debug_mode("default")
