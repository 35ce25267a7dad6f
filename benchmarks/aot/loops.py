"""The loops of a kernel's machine code: what runs again and again, wherever the compiler has put it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce


@dataclass(frozen=True)
class Instruction:
    address: int
    name: str  # with its modifiers: LDG.E.128
    target: int | None = None  # of a branch
    goes_on: bool = True  # whether the next instruction can follow


def natural_loops(instructions: Sequence[Instruction]) -> list[list[Instruction]]:
    """The instructions of each loop: of all that lead back to a place that every way to them has passed.

    A backward branch alone makes no loop: compilers put what is seldom needed at the end, and branch back from there.
    """
    blocks = basic_blocks(instructions)
    number = {block[0].address: n for n, block in enumerate(blocks)}
    after = [successors(block, n, len(blocks), number) for n, block in enumerate(blocks)]
    before: list[list[int]] = [[] for _ in blocks]
    for n, following in enumerate(after):
        for other in following:
            before[other].append(n)
    dominators = dominating(before)
    bodies: dict[int, set[int]] = {}  # by the block that a loop begins with
    for n, following in enumerate(after):
        for head in following:
            if dominators[n] >> head & 1:
                bodies.setdefault(head, {head}).update(leading_to(n, head, before))
    return [[i for n in sorted(body) for i in blocks[n]] for body in bodies.values()]


def basic_blocks(instructions: Sequence[Instruction]) -> list[list[Instruction]]:
    targets = {i.target for i in instructions}
    blocks: list[list[Instruction]] = []
    ended = True
    for i in instructions:
        if ended or i.address in targets:
            blocks.append([])
        blocks[-1].append(i)
        ended = i.target is not None or not i.goes_on
    return blocks


def successors(block: list[Instruction], n: int, count: int, number: dict[int, int]) -> list[int]:
    last = block[-1]
    found = [number[last.target]] if last.target in number else []
    return [*found, n + 1] if last.goes_on and n + 1 < count else found


def dominating(before: list[list[int]]) -> list[int]:
    """For each block the set, as bits, of those that every way to it passes; all of them for one that has no way."""
    everything = (1 << len(before)) - 1
    found = [1, *[everything] * (len(before) - 1)]
    changed = True
    while changed:
        changed = False
        for n in range(1, len(before)):
            new = reduce(lambda a, b: a & b, (found[other] for other in before[n]), everything) | 1 << n
            changed |= new != found[n]
            found[n] = new
    return found


def leading_to(n: int, head: int, before: list[list[int]]) -> set[int]:
    """The blocks from which n is reached without passing the head."""
    found, open_ = {n}, [n]
    while open_:
        block = open_.pop()
        if block != head:
            new = [other for other in before[block] if other not in found]
            found.update(new)
            open_ += new
    return found
