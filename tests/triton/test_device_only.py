"""What an op does around its kernels neither waits for the device nor copies to it: a CUDA graph can capture it."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from dynfocus_ops.backends import BACKENDS, TRITON_OPS
from dynfocus_ops.triton.launch import record
from tests.device_only import device_only
from tests.ops import cases
from tests.ops.cases import CASES, Case


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("case", [case for case in CASES if case.name in TRITON_OPS], ids=lambda case: case.name)
def test_launches_only(case: Case, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "triton", lambda op, x, **sizes: None)  # also on the meta device
    monkeypatch.setattr(cases, "SEED", cases.SEED.to("meta"))
    inputs = [x.to("meta", dtype if x.is_floating_point() else x.dtype) for x in case.inputs(4)]
    with record(90) as launches, device_only(bodies=True):
        leaves = [x.requires_grad_(x.is_floating_point()) for x in inputs]
        outputs = [y for y in tree_leaves(case.call(*leaves, backend="triton")) if y.requires_grad]
        forward = len(launches)
        if outputs:
            torch.autograd.grad(outputs, [x for x in leaves if x.requires_grad], outputs, allow_unused=True)
    assert forward > 0
    assert len(launches) > forward or not outputs
