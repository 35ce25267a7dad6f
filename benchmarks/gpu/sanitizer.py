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
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if tool is None and not stage.rehearsed:
        stage.add("compute-sanitizer", "skipped", why="compute-sanitizer is not on the path")
        return
    commands = {}
    for name, backends in TOOLS.items():
        for backend in backends:
            call = [sys.executable, "-m", "benchmarks.gpu.sanitizer", backend]
            wrapped = [
                tool or "",
                "--tool",
                name,
                "--error-exitcode",
                str(FOUND),
                *OPTIONS,
                *KERNELS.get(backend, []),
                *call,
            ]
            commands[f"{name}-{backend}"] = call if stage.rehearsed else wrapped
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "OMP_NUM_THREADS": "1", **stage.described()}
    jobs = 1 if stage.rehearsed else max(1, (os.cpu_count() or 2) // 2)
    for ended in together(commands, dict.fromkeys(commands, environment), stage.out, stage.deadline, jobs):
        add(stage, ended)


def add(stage: Stage, ended: Ended) -> None:
    name, backend = ended.name.split("-")
    said = ended.said(100_000)
    row = {"backend": backend, "calls": len(re.findall(r"^called ", said, re.MULTILINE))}
    unable = next((line for line in said.splitlines() if any(reason in line for reason in UNABLE)), None)
    if ended.code is None:
        stage.add(name, "skipped", why="not done within its time box", **row)
    elif unable is not None:
        stage.add(name, "skipped", why=f"the tool cannot: {unable.strip()[:200]}", **row)
    elif ended.code != 0:
        stage.add(name, "failed", why=f"ended with {ended.code}: {first_errors(said)}", **row)
    elif row["calls"] == 0:
        stage.add(name, "skipped", why="no op has this backend here", **row)
    else:
        stage.add(name, "passed", **({"how": "the calls alone, without the tool"} if stage.rehearsed else {}), **row)


def first_errors(said: str) -> str:
    """The first lines of the tool's that name a fault, or the end of what was said."""
    lines = [line for line in said.splitlines() if line.startswith("=====") and "COMPUTE-SANITIZER" not in line]
    return "\n".join(lines[:8])[:900] if lines else said[-900:]


def small_calls(backend: str, device: str, most: int) -> None:
    """A few calls of every op that has the backend, forward and backward."""
    for op, draw_call in OPS.items():
        if refusal(op, backend, easy_points(device)) is not None:
            continue
        called = 0
        for index in range(12):
            call = draw_call(Draw(op, index, most))
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
    small_calls(sys.argv[1], stage.device, REHEARSED_MOST if stage.rehearsed else MOST)
