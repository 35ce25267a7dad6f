"""Stage 1: the native library with its CUDA kernels; a carried one that has them is taken as it is."""

import os
import shutil
import subprocess
import sys
import time

import torch

from benchmarks.gpu.runner import SOURCE
from benchmarks.gpu.stage import Stage
from dynfocus_ops import native

LIBRARY = "native library"


def run(stage: Stage) -> None:
    """A failure is a row; the Triton kernels are looked at whatever happens here."""
    if (ops := cuda_ops()) is not None and ops:
        stage.add(LIBRARY, "passed", how="was there already", cuda_ops=ops)
        return
    if not list((SOURCE / "csrc").glob("cuda/*.cu")):
        stage.add(LIBRARY, "skipped", why="csrc/cuda has no kernels")
        return
    if missing := [tool for tool in ("nvcc", "cmake", "ninja") if shutil.which(tool) is None]:
        stage.add(LIBRARY, "skipped" if stage.rehearsed else "failed", why=f"not found: {', '.join(missing)}")
        return
    if stage.rehearsed:
        compile_alone(stage)
        return
    build(stage)


def build(stage: Stage) -> None:
    start = time.time()
    command = [sys.executable, "setup.py", "build_ext", "--inplace", "--build-temp", "build/gpu/native"]
    environment = os.environ | {"DYNFOCUS_BUILD": "cuda"}
    try:
        done = subprocess.run(
            command, cwd=SOURCE, env=environment, capture_output=True, text=True, timeout=max(1.0, stage.left())
        )
    except subprocess.TimeoutExpired:
        stage.add(LIBRARY, "failed", why="the build outlasted its time box", command=" ".join(command))
        return
    said = done.stdout + done.stderr
    (stage.out / "build-output.log").write_text(said)
    if done.returncode != 0:
        stage.add(LIBRARY, "failed", why="\n".join(said.strip().splitlines()[-15:])[-1500:])
        return
    ops = loaded_elsewhere()
    status = "passed" if ops.startswith("[") and ops != "[]" else "failed"
    stage.add(LIBRARY, status, how="built", build_seconds=round(time.time() - start, 1), cuda_ops=ops)


def compile_alone(stage: Stage) -> None:
    """The rehearsal's share of it: the first CUDA source through nvcc, to the device's code."""
    source = min((SOURCE / "csrc" / "cuda").glob("*.cu"), key=lambda path: path.stat().st_size)
    torch_include = f"{torch.__path__[0]}/include"
    command = ["nvcc", "-std=c++20", "-arch=sm_90", "-cubin", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
    command += [f"-I{SOURCE / 'csrc'}", "-isystem", torch_include]
    command += ["-o", str(stage.out / "rehearsed.cubin"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, stage.left()))
    status = "passed" if done.returncode == 0 else "failed"
    stage.add(LIBRARY, status, how=f"{source.name} alone, compiled and not run", why=done.stderr[-1500:])


def cuda_ops() -> list[str] | None:
    """The ops that have a CUDA kernel in the native library; None where it does not load."""
    try:
        native.load()
    except native.NativeUnavailable:
        return None
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("dynfocus_native::")]
    return sorted(
        name.removeprefix("dynfocus_native::")
        for name in names
        if torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA")
    )


def loaded_elsewhere() -> str:
    """What a fresh process finds in the library just built: this one has looked for it already."""
    code = "from benchmarks.gpu.build import cuda_ops; print(cuda_ops())"
    done = subprocess.run([sys.executable, "-c", code], cwd=SOURCE, capture_output=True, text=True, timeout=60)
    return (done.stdout.strip() or done.stderr.strip()[-500:]) or "nothing"
