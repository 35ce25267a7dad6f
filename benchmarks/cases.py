"""What a case is, how much of the suite asks for it, and what its inputs look like."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

DEPTHS = ("smoke", "quick", "full")
DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}

# The smoke run has every case, no larger than this: it shows that the suite works and measures nothing.
SMOKE = {"b": 2, "t": 12, "n": 40, "m": 10, "c": 24, "q": 3, "clusters": 4, "k": 3, "length": 12, "samples": 20, "d": 8}


@dataclass(frozen=True, kw_only=True)
class Case(ABC):
    """A shape of an op. Subclasses add its sizes as int fields, named as in the op's docstring, and say its `shape`."""

    used_by: str
    depth: str = "full"  # the quick run has only the cases marked "quick"
    dtype: torch.dtype = torch.float32

    @property
    @abstractmethod
    def shape(self) -> str: ...

    def __str__(self) -> str:
        return f"{self.shape}-{DTYPES[self.dtype]}"

    def at(self, depth: str) -> Self:
        """The case itself, or what the smoke run makes of it."""
        if depth != "smoke":
            return self
        sizes = {field.name: getattr(self, field.name) for field in fields(self) if field.name in SMOKE}
        return replace(self, **{name: min(size, SMOKE[name]) for name, size in sizes.items()})


def read_as(case_id: str) -> str:
    """A case's id as a reader writes it: 8x3136x128-784-k5-fp32 → 8×3136×128, 784, k 5, fp32."""
    parts = []
    for part in case_id.split("-"):
        named = part[0].isalpha() and part[1:].isdigit()
        parts.append(f"{part[0]} {int(part[1:]):,}" if named else part.replace("x", "×").replace("..", "…"))
    return ", ".join(parts)


def clustered(shape: Sequence[int], num_objects: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Tokens [..., N, C] as video has them: each is one of a sample's objects, with noise of half its spread.

    Pure noise would do no one justice: all its distances are equal, up to rounding.
    """
    *batch, num_tokens, channels = shape
    objects = torch.randn(*batch, num_objects, channels)
    which = torch.randint(num_objects, (*batch, num_tokens, 1))
    return torch.randn(*shape).mul_(0.5).add_(objects.gather(-2, which.expand(shape))).to(dtype)
