"""Can a 32-bit offset overflow? Interval arithmetic over a kernel's TTIR, at the sizes of one launch.

The size arguments have their values and the program numbers the ranges of the grid; from there every 32-bit integer
has a range. Where a sum, product or shift that goes into an address can leave 32 bits, it must be 64 bits wide.
Integers read from memory count as row numbers: within ±2²⁶, so that one can be added to and multiplied by a few, but
not by a row's length. What a loop carries is followed for some rounds, then taken to grow as steadily for all of them;
where that does not hold, and in loops without a count, it can have any value.
"""

import re
from collections.abc import Mapping, Sequence

from benchmarks.aot.intervals import ANY, ROWS, Range, limits, result

JOINED, PATIENCE = 2, 6  # passes after which what a loop carries is taken to grow steadily, and to have any value
OPERATION = re.compile(r'^\s*(?:(%[\w$.-]+)(?::\d+)? = )?"?([a-z_]+\.[\w.]+)"?(.*)$')
VALUE = re.compile(r"%[\w$.-]+(?:#\d+)?")
INTEGER = re.compile(r"(?:\s|x)i(\d+)>?$")
LOCATION = re.compile(r"\s*loc\((#loc\d*)\)\s*$")
LOOP = re.compile(r"(%\S+) = (%\S+) to (%\S+) step (%\S+)(?: iter_args\((.*?)\) -> \((.*?)\))?")
REGIONS = ("scf.for", "scf.if", "scf.while")

Key = tuple[int, int]  # the line of a loop or branch, and the number of one of its values


class Function:
    """The ranges of one kernel's integers, found in the order in which they are computed."""

    def __init__(self, ttir: str, arguments: Mapping[str, int], grid: Sequence[int]):
        self.locations = dict(re.findall(r"^(#loc\d*) = (loc\(.*\))$", ttir, re.MULTILINE))
        self.lines = [line for line in ttir.splitlines() if not line.startswith("#")]
        self.ranges = {f"%{name}": Range(value, value) for name, value in arguments.items()}
        self.grid = (*grid, 1, 1)
        self.rounds: dict[int, int] = {}  # of a loop, by its line
        self.initial: dict[Key, Range] = {}  # what goes into a loop, is there in each round, and goes round or out
        self.carried: dict[Key, Range] = {}
        self.yielded: dict[Key, Range] = {}
        self.growth: dict[Key, tuple[int, int]] = {}  # in each round, of the low and the high end
        self.overflows: list[str] = []
        passes = 0
        while self.walk() | self.widen(passes):
            passes += 1

    def walk(self) -> bool:
        """Goes through the kernel once; whether what goes round or out of a region has changed."""
        before, self.yielded = self.yielded, {}
        self.previous = before
        self.overflows = []
        self.regions: list[tuple[int, str | None]] = []  # the open ones: their lines and results
        for number, line in enumerate(self.lines):
            if match := OPERATION.match(line):
                self.step(number, match[1], match[2], LOCATION.sub("", match[3]))
            elif line.lstrip().startswith("^bb"):
                self.enter_block(VALUE.findall(line))
            elif re.match(r"\s*}(?!\)| else| do)", line) and self.regions:
                self.regions.pop()
        return before != self.yielded

    def step(self, number: int, to: str | None, name: str, body: str) -> None:
        operands = VALUE.findall(body)
        if name in REGIONS:
            self.regions.append((number, to))
        if name == "tt.addptr":
            offset = self.ranges.get(operands[1])
            if offset is not None and offset.overflow is not None and offset.overflow not in self.overflows:
                self.overflows.append(offset.overflow)
        elif name == "scf.for":
            self.enter_loop(number, to, body)
        elif name == "scf.while":
            self.enter_block(operands[::2])
        elif name == "scf.yield":
            self.leave(operands)
        elif name in ("tt.reduce", "tt.scan"):
            self.combine(number, to, operands)
        elif to is not None and name == "arith.cmpf":
            self.ranges[to] = Range(0, 1)
        elif to is not None and (width := INTEGER.search(body.rstrip())):
            self.ranges[to] = self.compute(number, name, body, operands, int(width[1]))

    def compute(self, number: int, name: str, body: str, operands: list[str], bits: int) -> Range:
        if name == "arith.cmpi":
            return Range(0, 1)
        if name == "arith.constant":
            text = body.split(" : ")[0].strip().removeprefix("dense<").removesuffix(">")
            value = {"true": "1", "false": "0"}.get(text, text)
            return Range(int(value), int(value)) if re.fullmatch(r"-?\d+", value) else unknown(bits)
        if name == "tt.make_range":
            return Range(int(re.findall(r"start = (\d+)", body)[0]), int(re.findall(r"end = (\d+)", body)[0]) - 1)
        if name in ("tt.get_program_id", "tt.get_num_programs"):
            size = self.grid["xyz".index(body.split()[0])]
            return Range(0, size - 1) if name == "tt.get_program_id" else Range(size, size)
        source = INTEGER.search(body.split(" to ")[0])  # a conversion's, else the result's own
        known = [self.ranges.get(operand, unknown(int(source[1]) if source else bits)) for operand in operands]
        found = result(name, known)
        return unknown(bits) if found is None else self.fitted(found, known, bits, name, number)

    def fitted(self, found: Range, operands: Sequence[Range], bits: int, name: str, number: int) -> Range:
        """The range within its type; marked if what it comes from could overflow, or it can itself."""
        overflow = next((operand.overflow for operand in operands if operand.overflow), None)
        type_ = limits(bits)
        if found.low < type_.low or found.high > type_.high:
            reach = max(found.high, -found.low)
            if bits == 32 and overflow is None:
                overflow = f"{self.where(number)}: {name} in 32 bits can reach {reach:,}"
        return Range(max(type_.low, found.low), min(type_.high, found.high), overflow)

    def enter_loop(self, number: int, to: str | None, body: str) -> None:
        """The counter runs from its first value to below its last."""
        match = LOOP.search(body)
        if match is None:
            raise ValueError(f"a loop of another form than expected: {body}")
        first, last, step = (self.ranges.get(match[group], ROWS) for group in (2, 3, 4))
        self.ranges[match[1]] = Range(first.low, max(first.low, last.high - 1), first.overflow or last.overflow)
        self.rounds[number] = -(-max(0, last.high - first.low) // max(1, step.low))
        values, types = VALUE.findall(match[5] or ""), (match[6] or "").split(", ")
        for position, (argument, initial) in enumerate(zip(values[::2], values[1::2], strict=True)):
            if width := INTEGER.search(f" {types[position]}"):
                key = (number, position)
                self.initial[key] = self.ranges.get(initial, unknown(int(width[1])))
                self.name(self.carried.setdefault(key, self.initial[key]), argument, to, f"{to}#{position}")

    def enter_block(self, arguments: list[str]) -> None:
        """Nothing bounds what a loop without a count carries, nor what the block of a reduction is given."""
        number = self.regions[-1][0] if self.regions else 0
        for position, argument in enumerate(arguments):
            self.name(ANY | self.previous.get((number, position), ANY), argument)

    def leave(self, operands: list[str]) -> None:
        """Values go round the loop, or out of a branch."""
        number, to = self.regions[-1]
        for position, operand in enumerate(operands):
            if operand in self.ranges:
                key = (number, position)
                self.yielded[key] = self.ranges[operand] | self.yielded.get(key, self.ranges[operand])
                if "scf.if" in self.lines[number]:
                    self.name(self.yielded[key], to, f"{to}#{position}")

    def widen(self, passes: int) -> bool:
        """Takes what loops carry to be what goes in or round; whether that was more than it was taken to be."""
        changed = False
        for key, assumed in self.carried.items():
            start = self.initial[key]
            back = self.yielded.get(key, start)
            down, up = self.growth.get(key, (0, 0))
            reach = Range(min(start.low, back.low - down), max(start.high, back.high - up))
            flagged = assumed.overflow is None and (start.overflow or back.overflow) is not None
            if not flagged and assumed.low <= reach.low and reach.high <= assumed.high:
                continue
            changed = True
            self.carried[key] = assumed | start | back
            if passes >= PATIENCE:
                self.carried[key] |= ANY
            elif passes >= JOINED:
                down, up = min(0, back.low - assumed.low), max(0, back.high - assumed.high)
                self.growth[key] = (down, up)
                rounds = self.rounds[key[0]]
                grown = Range(start.low + rounds * down, start.high + rounds * up)
                self.carried[key] = start | grown | Range(start.low, start.high, back.overflow)
        return changed

    def combine(self, number: int, to: str | None, operands: list[str]) -> None:
        """A reduction or scan: sums reach as many times what they sum; all else that we do picks one of the values."""
        last = next(n for n in range(number, len(self.lines)) if self.lines[n].lstrip().startswith("}) :"))
        sums = any("arith.addi" in line for line in self.lines[number:last])
        axis = re.search(r"axis = (\d+)", self.lines[number])
        shape = re.search(r"tensor<([\dx]+)x", self.lines[last])
        if axis is None or shape is None:
            raise ValueError(f"a reduction of another form than expected: {self.lines[number]}")
        length = int(shape[1].split("x")[int(axis[1])]) if sums else 1
        for position, operand in enumerate(operands):
            if operand in self.ranges:
                of = self.ranges[operand]
                found = Range(min(of.low, of.low * length), max(of.high, of.high * length))
                self.name(self.fitted(found, [of], 32, "a sum", last), to, f"{to}#{position}")

    def name(self, found: Range, *names: str | None) -> None:
        self.ranges |= {name: found for name in names if name is not None}

    def where(self, number: int) -> str:
        """file.py:12 of a line of TTIR, through names and call sites to where the arithmetic is written."""
        match = LOCATION.search(self.lines[number])
        text = self.locations.get(match[1], "") if match else ""
        while text:
            if place := re.search(r'"([^"]*?)([^"/]*)":(\d+)', text):
                return f"{place[2]}:{place[3]}"
            inner = re.search(r"\((#loc\d*)", text)
            text = self.locations.get(inner[1], "") if inner else ""
        return "unknown line"


def unknown(bits: int) -> Range:
    return limits(bits) if bits < 32 else ROWS


def overflows(ttir: str, arguments: Mapping[str, int], grid: Sequence[int]) -> list[str]:
    """Where an address of the kernel can overflow 32 bits.

    Args:
        ttir: the kernel, as Triton's front end leaves it.
        arguments: value of each integer parameter by name.
        grid: numbers of programs.
    """
    return Function(ttir, arguments, grid).overflows
