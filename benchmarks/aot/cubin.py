"""What a compiled kernel takes and does: its resources, and its instructions, as cuobjdump prints them."""

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.aot.loops import Instruction, natural_loops

LOCAL = re.compile(r"(LDL|STL)\b")  # memory of one thread: spilled registers, and arrays indexed at run time
MATRIX = re.compile(r"(HGMMA|HMMA)\b")
WIDE = re.compile(r"(LDG|STG|LDGSTS)\.\S*128|(UTMALDG|UTMASTG)\b")  # 16 bytes per thread, or the copy engine
GLOBAL = re.compile(r"(LDG|STG|LDGSTS|UTMALDG|UTMASTG)\b")

INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(@!?\w+\s+)?([A-Z][\w.]*)([^;]*);", re.MULTILINE)
ENDS = re.compile(r"(BRA|JMP|EXIT|RET|BRX)\b")
FUNCTION = re.compile(r"^\s*Function : (\S+)", re.MULTILINE)
USAGE = re.compile(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True)
class Kernel:
    """One function of a cubin."""

    name: str
    registers: int
    stack: int  # bytes per thread
    shared: int  # bytes per block, of those known when it was compiled
    matrix: str  # HGMMA, HMMA or ""
    wide: int  # 16-byte accesses of global memory
    local: int  # instructions on local memory
    local_in_main_loop: int
    instructions: int


def cuobjdump() -> str:
    """That of the Triton in use (both of it and of nvcc read both's cubins), else the one on the path."""
    spec = find_spec("triton")
    if spec is not None and spec.submodule_search_locations:
        tool = Path(spec.submodule_search_locations[0]) / "backends" / "nvidia" / "bin" / "cuobjdump"
        if tool.is_file():
            return str(tool)
    found = shutil.which("cuobjdump")
    if found is None:
        raise FileNotFoundError("cuobjdump is neither in the package triton nor on the path")
    return found


def dump(path: Path, what: str, arch: str | None = None) -> str:
    """What cuobjdump prints under --dump-<what>, of one architecture if the file has several."""
    command = [cuobjdump(), f"--dump-{what}", *(["--gpu-architecture", arch] if arch else []), str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def kernels(path: Path, arch: str | None = None) -> list[Kernel]:
    """The kernels of a cubin, or of one architecture of an object file or library."""
    return read(dump(path, "resource-usage", arch), dump(path, "sass", arch))


def read(usage: str, sass: str) -> list[Kernel]:
    """The kernels in cuobjdump's two listings."""
    code = dict(functions(sass))
    found = []
    for name, registers, stack, shared, local in USAGE.findall(usage):
        instructions = code[name]
        names = Counter(instruction.name for instruction in instructions)
        matrix = {match[1] for name in names if (match := MATRIX.match(name))}
        found.append(
            Kernel(
                name=name,
                registers=int(registers),
                stack=int(stack) + int(local),
                shared=int(shared),
                matrix="HGMMA" if "HGMMA" in matrix else "".join(matrix),
                wide=sum(count for name, count in names.items() if WIDE.match(name)),
                local=sum(count for name, count in names.items() if LOCAL.match(name)),
                local_in_main_loop=local_in_main_loops(instructions),
                instructions=len(instructions),
            )
        )
    return found


def functions(sass: str) -> Iterator[tuple[str, list[Instruction]]]:
    heads = list(FUNCTION.finditer(sass))
    for head, after in zip(heads, [*heads, None][1:], strict=True):
        body = sass[head.end() : after.start() if after else len(sass)]
        yield head[1], [instruction(*match) for match in INSTRUCTION.findall(body)]


def instruction(address: str, predicate: str, name: str, operands: str) -> Instruction:
    """Branches without a condition have nothing but their target; those of sm_90 can name one before it."""
    target = re.fullmatch(r"\s*(.*?)\b0x([0-9a-f]+)\s*", operands) if name.startswith("BRA") else None
    conditional = bool(predicate) or (target is not None and bool(target[1].strip()))
    goes_on = conditional or name.startswith("BRA.DIV") or not ENDS.match(name)
    return Instruction(int(address, 16), name, int(target[2], 16) if target else None, goes_on)


def local_in_main_loops(instructions: list[Instruction]) -> int:
    """Instructions on local memory in the innermost loops that multiply matrices; without such, that read or write
    global memory."""
    loops = natural_loops(instructions)
    for work in (MATRIX, GLOBAL):
        working = [{i.address: i for i in loop} for loop in loops if any(work.match(i.name) for i in loop)]
        if working:
            inner = [loop for loop in working if not any(other.keys() < loop.keys() for other in working)]
            return len({i.address for loop in inner for i in loop.values() if LOCAL.match(i.name)})
    return 0
