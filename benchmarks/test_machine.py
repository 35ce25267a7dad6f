"""What the machine can do: the roofs of the roofline."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.contest import Contest
from benchmarks.counts import Cost
from benchmarks.floors import Work
from benchmarks.oracle import close_share


@dataclass(frozen=True, kw_only=True)
class MachineCase(Case):
    n: int

    @property
    def shape(self) -> str:
        return f"{self.n}x{self.n}"


MATMUL = MachineCase(used_by="roofline", n=2048, depth="quick")
COPY = MachineCase(used_by="roofline", n=8192, depth="quick")


@pytest.mark.parametrize("case", [MATMUL], ids=str)
def test_machine_matmul(case: MachineCase, contest: Contest, depth: str) -> None:
    n = case.at(depth).n
    a, b = torch.randn(n, n), torch.randn(n, n)
    contenders = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        operands = a.to(dtype), b.to(dtype)
        contenders[name] = partial(torch.mm, *operands, out=torch.empty(n, n, dtype=dtype))

    def share(name: str, product: Tensor) -> float:
        left, right = a[:64].to(product.dtype).double(), b.to(product.dtype).double()
        return close_share(product[:64], left @ right)

    contest(case, contenders, share, Work(Cost(flops=2 * n**3, read=0, written=0)))


@pytest.mark.parametrize("case", [COPY], ids=str)
def test_machine_copy(case: MachineCase, contest: Contest, depth: str) -> None:
    n = case.at(depth).n
    source = torch.randn(n, n)
    target = torch.empty_like(source)
    contenders = {"fresh": source.clone, "warm": lambda: target.copy_(source)}
    work = Work(Cost(flops=0, read=source.nbytes, written=source.nbytes))
    contest(case, contenders, lambda _, copied: close_share(copied, source.double()), work)
