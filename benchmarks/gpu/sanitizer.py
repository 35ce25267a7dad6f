"""Stage 3: compute-sanitizer over small calls: memcheck for all kernels, the other tools for the CUDA ones."""

import os
import re
import shutil
import sys
from pathlib import Path

import torch

from benchmarks.gpu.cases import OPS, Draw
from benchmarks.gpu.ours import easy_points, is_refusal, refusal
from benchmarks.gpu.processes import Ended, together
from benchmarks.gpu.properties import forward_and_backward, shipped
from benchmarks.gpu.stage import Stage

TOOLS = {"memcheck": ("cuda", "triton"), "racecheck": ("cuda",), "synccheck": ("cuda",), "initcheck": ("cuda",)}
FOUND = 9  # the exit code that compute-sanitizer is asked for where it finds errors
KERNELS = {"cuda": ["--kernel-name", "kns=dynfocus"]}  # torch's own kernels are not looked at; Triton's have any name
OPTIONS = ["--target-processes", "application-only"]  # not ptxas, which Triton starts
UNABLE = ("Device not supported", "not supported on this device", "Failed to initialize", "unable to load")
CALLS = 2  # of each op
MOST = 80  # of any size
REHEARSED_MOST = 6


def run(stage: Stage) -> None:
    """Each tool, backend and op is a process of its own: under the tools it is the start that takes long."""
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if tool is None and not stage.rehearsed:
        stage.add("compute-sanitizer", "skipped", why="compute-sanitizer is not on the path")
        return
    commands = {}
    for name, backends in TOOLS.items():
        for backend in backends:
            ops = [op for op in OPS if refusal(op, backend, easy_points(stage.device)) is None]
            if not ops:
                stage.add(name, "skipped", backend=backend, why="no op has this backend here")
            # A rehearsal has no tool, and one process for all.
            for group in [[op] for op in ops] if not stage.rehearsed else [ops] * bool(ops):
                call = [sys.executable, "-m", "benchmarks.gpu.sanitizer", backend, *group]
                wrapped = [
                    tool or "",
                    "--tool",
                    name,
                    "--error-exitcode",
                    str(FOUND),
                    *OPTIONS,
                    *KERNELS.get(backend, []),
                ]
                commands["-".join((name, backend, group[0]))] = call if stage.rehearsed else [*wrapped, *call]
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "OMP_NUM_THREADS": "1", **stage.described()}
    jobs = 1 if stage.rehearsed else os.cpu_count() or 1
    for ended in together(commands, dict.fromkeys(commands, environment), stage.out, stage.deadline, jobs):
        add(stage, ended)


def add(stage: Stage, ended: Ended) -> None:
    name, backend, op = ended.name.split("-")
    said = ended.said(100_000)
    row = {"op": op, "backend": backend, "calls": len(re.findall(r"^called ", said, re.MULTILINE))}
    unable = next((line for line in said.splitlines() if any(reason in line for reason in UNABLE)), None)
    if ended.code is None:
        stage.add(name, "skipped", why="not done within its time box", **row)
    elif unable is not None:
        stage.add(name, "skipped", why=f"the tool cannot: {unable.strip()[:200]}", **row)
    elif ended.code != 0 or row["calls"] == 0:
        stage.add(name, "failed", why=f"ended with {ended.code}: {first_errors(said)}", **row)
    else:
        stage.add(name, "passed", **({"how": "the calls alone, without the tool"} if stage.rehearsed else {}), **row)


def first_errors(said: str) -> str:
    """The first lines of the tool's that name a fault, or the end of what was said."""
    lines = [line for line in said.splitlines() if line.startswith("=====") and "COMPUTE-SANITIZER" not in line]
    return "\n".join(lines[:8])[:900] if lines else said[-900:]


def small_calls(op: str, backend: str, device: str, most: int) -> None:
    """A few calls, forward and backward."""
    called = 0
    for index in range(12):
        call = OPS[op](Draw(op, index, most))
        call = call.alone or call
        try:
            forward_and_backward(call, backend, [shipped(x, device) for x in call.tensors])
        except RuntimeError as error:
            if not is_refusal(error):
                raise
            continue
        print(f"called {op}", flush=True)
        called += 1
        if called == CALLS:
            break
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    stage = Stage.given(Path(__file__).stem)
    for name in sys.argv[2:]:
        small_calls(name, sys.argv[1], stage.device, REHEARSED_MOST if stage.rehearsed else MOST)
