"""How kernels are launched and recorded, and the products that the interpreter would get wrong."""

import ast
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl

import dynfocus_ops
from dynfocus_ops.triton.dot import dot
from dynfocus_ops.triton.launch import compute_capability, launch, record

PACKAGE = Path(dynfocus_ops.__file__).parent


@triton.jit
def product_kernel(a_ptr, b_ptr, out_ptr, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    at = i[:, None] * SIZE + i[None, :]
    product = dot(tl.load(a_ptr + at), tl.load(b_ptr + at), tl.zeros((SIZE, SIZE), tl.float32))
    tl.store(out_ptr + at, product)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
def test_dot(dtype: torch.dtype) -> None:
    a, b = torch.randn(2, 16, 16).to(dtype)
    out = torch.full((16, 16), torch.nan)
    launch(product_kernel, (1,), a, b, out, SIZE=16)
    torch.testing.assert_close(out.double(), a.double() @ b.double(), rtol=1e-5, atol=1e-5)


def test_recorded_launches_do_not_run() -> None:
    out = torch.full((16, 16), torch.nan)
    with record(90) as launches:
        launch(product_kernel, (1,), out, out, out, SIZE=16)
        assert compute_capability(out) == 90
    assert out.isnan().all() and len(launches) == 1 and launches[0].constants == {"SIZE": 16}
    assert compute_capability(out) == 80


def test_nothing_to_do_is_not_launched() -> None:
    with record(80) as launches:
        launch(product_kernel, (3, 0), torch.empty(0), SIZE=16)
    assert launches == []


def test_only_dot_calls_the_bare_dot() -> None:
    """The interpreter multiplies bfloat16 wrongly and in silence, and float32 would go through plain tf32."""
    for path in (PACKAGE / "triton").glob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
        bare = [node.lineno for node in calls if node.attr in ("dot", "dot_scaled") and ast.unparse(node.value) == "tl"]
        assert path.name == "dot.py" or not bare, f"{path.name}: tl.dot in lines {bare}, use dynfocus_ops.triton.dot"
