"""Ranges of integers, and what arithmetic makes of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    low: int
    high: int
    overflow: str | None = None  # where a 32-bit operation among those it comes from can overflow

    def __or__(self, other: "Range") -> "Range":
        return Range(min(self.low, other.low), max(self.high, other.high), self.overflow or other.overflow)


def limits(width: int) -> Range:
    """Of a signed integer of so many bits; one bit is a truth value."""
    return Range(0, 1) if width == 1 else Range(-(2 ** (width - 1)), 2 ** (width - 1) - 1)


ROWS = Range(-(2**26), 2**26)  # row numbers: no tensor has more rows
ANY = limits(32)


def divided(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)  # towards zero


def shift(b: int) -> int:
    return max(0, min(b, 64))


MONOTONIC: dict[str, Callable[[int, int], int]] = {  # in each argument, so that the corners bound the result
    "arith.addi": lambda a, b: a + b,
    "arith.subi": lambda a, b: a - b,
    "arith.muli": lambda a, b: a * b,
    "arith.shli": lambda a, b: a << shift(b),
    "arith.shrsi": lambda a, b: a >> shift(b),
    "arith.minsi": min,
    "arith.maxsi": max,
}
SAME = {
    *("tt.splat", "tt.expand_dims", "tt.broadcast", "tt.reshape", "tt.trans", "tt.unsplat", "tt.join", "tt.cat"),
    *("arith.extsi", "arith.extui", "arith.trunci", "arith.index_cast"),
}


def corners(function: Callable[[int, int], int], a: Range, b: Range) -> Range:
    values = [function(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    return Range(min(values), max(values))


def result(operation: str, operands: Sequence[Range]) -> Range | None:
    """The exact range of an operation's result, before any width; None for operations that are not known."""
    if operation in SAME:
        return Range(min(r.low for r in operands), max(r.high for r in operands))
    if operation == "arith.select":
        return operands[1] | operands[2]
    if operation in MONOTONIC:
        return corners(MONOTONIC[operation], *operands)
    if operation == "arith.andi" and min(r.low for r in operands) >= 0:
        return Range(0, min(r.high for r in operands))
    if operation in ("arith.divsi", "arith.divui") and operands[1].low > 0:
        return corners(divided, *operands)
    if operation in ("arith.remsi", "arith.remui") and operands[1].low > 0:
        a, b = operands
        most = min(b.high - 1, max(abs(a.low), abs(a.high)))
        return Range(-most if a.low < 0 else 0, most)
    return None
