"""The table that `make aot` prints, and the page docs/gpu-kernels.md."""

import re
from collections.abc import Mapping, Sequence

from benchmarks.aot.rows import SHARED_LIMIT, Row

HEAD = ("configuration", "arch", "compiler", "warps", "regs", "stack", "smem", "local", "matrix", "16 B", "verdict")
PAGE = """# GPU kernels, as compiled

<!-- Made by make aot UPDATE=1: change benchmarks/aot, not this. -->

What each configuration that ships compiles to, read off the cubins on a machine without a GPU. None of this is a time.
`make aot` compiles all of it again and compares it with `benchmarks/aot/budget.json`: a breach is anything worse than
there, a spill in a main loop, more shared memory than a block can have ({limits}), matrix
products that do not use the matrix units, large tensors read without 16-byte accesses, or, in Triton, a 32-bit offset
that the sizes named here could overflow.

A cell reads *registers per thread · shared memory per block · warps that fit one multiprocessor (of 64) · matrix
instructions*, and, where there are any, bytes of stack per thread. The warps are arithmetic on registers, shared
memory and block size, not a measurement; few are no fault where one block keeps its matrix units busy.
"""


def text(rows: Sequence[Row], verdicts: Mapping[Row, str]) -> str:
    lines = [HEAD, *(line(row, verdicts[row]) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    left = (0, 1, 2, 8, 10)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in lines
    )


def line(row: Row, verdict: str) -> tuple[str, ...]:
    numbers = (row.warps, row.registers, row.stack, row.shared)
    local = f"{row.local_in_main_loop}/{row.local}" if row.local else "0"
    return (
        *(row.name, row.arch, row.compiler),
        *map(str, numbers),
        *(local, row.matrix or "-", "yes" if row.wide else "no", verdict),
    )


def page(rows: Sequence[Row]) -> str:
    """One table per call, a row per kernel and architecture, a column per compiler."""
    limits = ", ".join(f"{bytes_ // 1024} KiB on {arch}" for arch, bytes_ in SHARED_LIMIT.items())
    parts = [PAGE.format(limits=limits).strip()]
    for op in dict.fromkeys(row.op for row in rows):
        of_op = [row for row in rows if row.op == op]
        parts += [f"## {op}", kernels(of_op), configurations(of_op)]
    return "\n\n".join(parts) + "\n"


def kernels(rows: Sequence[Row]) -> str:
    """What each kernel is, as its docstring says."""
    named = dict.fromkeys((re.split("[< ]", row.kernel)[0], row.what) for row in rows)
    return "\n".join(f"- `{name}`{': ' if what else ''}{what}" for name, what in named)


def configurations(rows: Sequence[Row]) -> str:
    compilers = list(dict.fromkeys(row.compiler for row in rows))
    lines = [["call", "kernel", "arch", *compilers], ["---"] * (3 + len(compilers))]
    for call, kernel, arch in dict.fromkeys((row.call, row.kernel, row.arch) for row in rows):
        same = {row.compiler: row for row in rows if (row.call, row.kernel, row.arch) == (call, kernel, arch)}
        cells = [cell(same[compiler]) if compiler in same else "–" for compiler in compilers]
        lines.append([call, f"`{kernel}`", arch, *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def cell(row: Row) -> str:
    facts = [str(row.registers), f"{row.shared / 1024:.0f} KiB", f"{row.blocks_per_sm * row.warps} w", row.matrix]
    stack = [f"{row.stack} B stack"] if row.stack else []
    return " · ".join([fact for fact in facts if fact] + stack)
