"""Stage 0: what the machine is, and its two ceilings as measured: bytes through memory, and products."""

import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.gpu.stage import Stage
from benchmarks.gpu.timing import measure

PACKAGES = ("torch", "triton", "numpy", "transformers", "pytest")


def run(stage: Stage) -> None:
    if not stage.rehearsed and not torch.cuda.is_available():
        stage.add("device", "failed", why="torch sees no CUDA device; rehearse with --dry-run (make gpu DRY_RUN=1)")
        return
    stage.add("device", "measured", **device(stage))
    stage.add("versions", "measured", **versions())
    with stage.failure_is_a_row("copy bandwidth"):
        copy_bandwidth(stage)
    for dtype in (torch.bfloat16, torch.float32):
        with stage.failure_is_a_row("matmul", dtype=name_of(dtype)):
            matmul(stage, dtype)
    with stage.failure_is_a_row("empty launch"):
        x = torch.zeros(1, device=stage.device)
        stage.add("empty launch", "measured", **measure([lambda: x.add_(1)] * 2, stage.device, graph=False).row)
        stage.add("empty launch in a graph", "measured", **measure([lambda: x.add_(1)] * 2, stage.device).row)


def device(stage: Stage) -> dict[str, object]:
    if stage.rehearsed:
        return {"device": f"none, a rehearsal on {platform.processor() or platform.machine()}"}
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "driver": first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "clocks": first_line("nvidia-smi", "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader"),
    }


def versions() -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "nvcc": first_line("nvcc", "--version", line=-1),
        **{package: version_of(package) for package in PACKAGES},
    }


def copy_bandwidth(stage: Stage) -> None:
    numbers = 1 << 31 if stage.device == "cuda" else 1 << 16  # 4 GiB of bf16, read and written
    source = torch.randn(numbers, device=stage.device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    timing = measure([lambda: target.copy_(source)], stage.device)
    moved = 2 * source.nbytes
    stage.add(
        "copy bandwidth", "measured", bytes=moved, gb_per_s=round(moved / timing.median_us * 1e-3, 1), **timing.row
    )


def matmul(stage: Stage, dtype: torch.dtype) -> None:
    """bf16, and tf32 for float32: the rate of our tf32x3 products is at best a third of it."""
    size = 8192 if stage.device == "cuda" else 64
    a, b = (torch.randn(size, size, device=stage.device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        timing = measure([lambda: torch.mm(a, b, out=out)], stage.device)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    rate = 2 * size**3 / timing.median_us * 1e-6
    name = "bf16" if dtype == torch.bfloat16 else "tf32"
    stage.add("matmul", "measured", dtype=name, size=size, tflops=round(rate, 2), **timing.row)


def name_of(dtype: torch.dtype) -> str:
    return {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[dtype]


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def first_line(tool: str, *arguments: str, line: int = 0) -> str | None:
    """A line of what a tool says; None where it is not there, or fails."""
    if shutil.which(tool) is None:
        return None
    said = subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=20)
    return said.stdout.strip().splitlines()[line] if said.returncode == 0 and said.stdout.strip() else None
