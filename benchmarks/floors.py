"""What an op cannot go below: the matrix product it needs, or the bytes it must read and write, whichever takes longer.

Both are timed on the op's own shape: a rate measured on another would flatter or wrong it.
Floors take turns with the contenders of their case, so that each round has a floor of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.counts import Cost

PRODUCT, FRESH_COPY, WARM_COPY = "floor: product", "floor: fresh copy", "floor: warm copy"
LARGEST_PRODUCT = 1 << 28  # numbers


@dataclass(frozen=True)
class Work:
    """What any way of computing an op has to do at the least, in a form that can be timed.

    product: a matrix product that all of them need, by torch in fp32 into a buffer that is there;
    share: how much of its time counts. A Gram matrix is symmetric: one half.
    """

    cost: Cost
    product: Callable[[], Any] | None = None
    share: float = 1.0

    def floors(self) -> dict[str, Callable[[], Any]]:
        """What to time: the product, and the bytes copied to memory that is new (as an op's result is) or warm."""
        floors = {} if self.product is None else {PRODUCT: self.product}
        read, written = self.cost.read, self.cost.written
        if read + written == 0:
            return floors
        source = torch.ones(max(1, written // 4))
        target = torch.empty_like(source)
        rest = torch.ones(max(1, (read - written) // 4))  # what is read and not copied is summed

        def fresh_copy() -> None:
            source.clone()
            rest.sum()

        def warm_copy() -> None:
            target.copy_(source)
            rest.sum()

        return {**floors, FRESH_COPY: fresh_copy, WARM_COPY: warm_copy}

    def counted(self, floor: str, seconds: list[float]) -> list[float]:
        return [self.share * second for second in seconds] if floor == PRODUCT else seconds


def gram(x: Tensor) -> Callable[[], None]:
    """x xᵀ for each sample of x [B, N, C], by rows where it would not fit in a GiB."""
    batch, num_points, _ = x.shape
    x = x.float()
    rows = min(num_points, max(1, LARGEST_PRODUCT // (batch * num_points)))
    out = x.new_empty(batch, rows, num_points)

    def run() -> None:
        for block in x.split(rows, 1):
            torch.bmm(block, x.mT, out=out[:, : block.shape[1]])

    return run


def nbytes(*parts: Tensor) -> int:
    return sum(part.nbytes for part in parts)
