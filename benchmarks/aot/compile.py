"""Compiles what the launchers would launch, as Triton's runtime would for that GPU, and reads what came out.

Triton specialises a kernel for what it is called with: pointers and integers divisible by 16, integers equal to 1,
32 or 64 bits, None. So that this is its own doing and not a copy of it, its runtime is given a driver with no GPU
behind it and told to compile but not to run (`JITFunction.warmup`). Meta tensors have the address 0, aligned as those
of torch's allocator are.
"""

import argparse
import inspect
import json
import re
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from benchmarks.aot import cubin
from benchmarks.aot.offsets import overflows
from benchmarks.aot.rows import Row
from benchmarks.aot.shapes import Call, calls
from dynfocus_ops.triton.launch import Launch, record

MOVES_MUCH = 2**25  # bytes of a tensor from which on a kernel must use 16-byte accesses


@dataclass(frozen=True)
class NoGpu:
    """As much of a Triton driver as compiling takes; one device per compute capability."""

    capability: int

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0


def compiler() -> str:
    return f"triton {triton.__version__}"


def compile_call(number: int, capability: int) -> list[Row]:
    """One row for each launch of a call, in order."""
    call = calls()[number]
    driver.set_active(NoGpu(capability))
    try:
        with record(capability) as launches:
            call.run()
        return [row(call, capability, launch) for launch in launches]
    except Exception as error:
        error.add_note(f"in {call.name} for sm_{capability}")
        raise


@lru_cache(None)
def read(compiled: Any) -> cubin.Kernel:
    """Triton hands out the same object for what it has compiled before."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(compiled.asm["cubin"])
        (kernel,) = cubin.kernels(Path(file.name))
    return kernel


def row(call: Call, capability: int, launch: Launch) -> Row:
    compiled = launch.kernel.warmup(*launch.arguments, grid=launch.grid, **launch.constants)
    kernel = read(compiled)
    arguments = parameters(launch)
    integers = {name: value for name, value in arguments.items() if isinstance(value, int)}
    return Row(
        op=call.op,
        call=call.name,
        kernel=launch.kernel.__name__,
        what=(inspect.getdoc(launch.kernel.fn) or "").partition("\n\n")[0].replace("\n", " "),
        arch=f"sm_{capability}",
        compiler=compiler(),
        identity=compiled.hash,
        warps=compiled.metadata.num_warps,
        registers=kernel.registers,
        stack=kernel.stack,
        shared=compiled.metadata.shared,
        matrix=kernel.matrix,
        wide=kernel.wide,
        local=kernel.local,
        local_in_main_loop=kernel.local_in_main_loop,
        multiplies="tt.dot" in compiled.asm["ttir"],
        moves_much=any(moves_much(value) for name, value in arguments.items() if is_used(name, compiled.asm["ttir"])),
        overflows=tuple(overflows(compiled.asm["ttir"], integers, launch.grid)),
    )


def parameters(launch: Launch) -> dict[str, Any]:
    """The arguments by the names of the kernel's parameters."""
    constants = {name: value for name, value in launch.constants.items() if name in launch.kernel.arg_names}
    signature = inspect.signature(launch.kernel.fn)
    return dict(signature.bind(*launch.arguments, **constants).arguments)


def is_used(parameter: str, ttir: str) -> bool:
    """Whether the kernel reads a parameter once its constants are known."""
    return len(re.findall(rf"%{parameter}\b", ttir)) > 1


def moves_much(argument: Any) -> bool:
    """Whether an argument is a large tensor whose rows Triton knows to be aligned: of a multiple of 16 elements."""
    if not isinstance(argument, torch.Tensor) or argument.ndim == 0 or not argument.dtype.is_floating_point:
        return False
    return argument.nbytes >= MOVES_MUCH and argument.stride(-1) == 1 and argument.shape[-1] % 16 == 0


@triton.jit
def overflowing_kernel(x_ptr, columns):  # type: ignore[no-untyped-def]
    tl.store(x_ptr + tl.program_id(0) * columns, 0.0)


def check_reading(capability: int) -> None:
    """Raises RuntimeError if this Triton writes its IR so that an overflow in it is not seen."""
    x = torch.empty(1, device="meta")
    overflowing = Launch(overflowing_kernel, (2**16,), (x, 2**16 + 1), {})
    call = Call("self-check", "self-check", "", torch.float32, ())
    driver.set_active(NoGpu(capability))
    if not row(call, capability, overflowing).overflows:
        raise RuntimeError(f"offsets.py finds no overflow in what {compiler()} makes of a kernel that has one")


def distinct(rows: Iterable[Row]) -> list[Row]:
    """What is compiled the same way becomes one row, named by the first call, with the overflows of all."""
    kept: dict[str, Row] = {}
    names: dict[tuple[str, str], int] = {}
    for row in rows:
        if first := kept.get(row.identity):
            overflows = dict.fromkeys((*first.overflows, *row.overflows))
            kept[row.identity] = replace(first, overflows=tuple(overflows))
            continue
        count = names[row.name, row.arch] = names.get((row.name, row.arch), 0) + 1
        kept[row.identity] = row if count == 1 else replace(row, kernel=f"{row.kernel} {count}")
    return list(kept.values())


def main() -> None:
    """Writes the rows of the Triton that this process imports; what is done goes to stderr."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aot.compile", description=main.__doc__)
    parser.add_argument("json", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", default="", help="a part of the names of the calls to compile")
    options = parser.parse_args()
    tasks = [(n, arch) for n, call in enumerate(calls()) if options.only in call.name for arch in (80, 90)]
    if not tasks:
        parser.error(f"no call has {options.only!r} in its name")
    check_reading(90)
    found: list[Row] = []
    with ProcessPoolExecutor(options.jobs, get_context("fork")) as pool:
        for done, rows in enumerate(pool.map(compile_call, *zip(*tasks, strict=True)), 1):
            found += rows
            if sys.stderr.isatty() or done == len(tasks):
                print(f"\r{compiler()}: {done} of {len(tasks)} calls", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    options.json.write_text(json.dumps([asdict(row) for row in distinct(found)]))


if __name__ == "__main__":
    main()
