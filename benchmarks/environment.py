"""What a run's JSON says of where it ran: the machine, the versions, the commit."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from cpuinfo import get_cpu_info

from benchmarks.half_ops import left_out
from dynfocus_ops import native

LOAD_AT_START = os.getloadavg()[0]  # of others: at the end it is our own
VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE", "LD_PRELOAD")
PACKAGES = ("torch", "numpy", "faiss-cpu", "scikit-learn", "pykeops")


def describe_machine() -> dict[str, Any]:
    build = _native_build()
    cpu = get_cpu_info()
    return {
        "cpu": f"{cpu.get('brand_raw', platform.processor())} (family {cpu.get('family')}, model {cpu.get('model')})",
        "cores": os.cpu_count(),
        "caches": _caches(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "instruction_sets": list(build["runnable_instruction_sets"]),
        "compiler": build["compiler"],
        "threads": torch.get_num_threads(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "load": LOAD_AT_START,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
        "left_out": left_out(),
    }


def describe_commit(commit: dict[str, Any]) -> dict[str, Any]:
    """Of what pytest-benchmark found: which commit, of when, and whether the tree had changes on top of it."""
    kept = {name: commit.get(name) for name in ("id", "time", "dirty")}
    commit.clear()
    return kept


def _native_build() -> dict[str, Any]:
    try:
        return native.build_info()
    except native.NativeUnavailable as unavailable:
        return {"runnable_instruction_sets": [], "compiler": f"no native kernels: {unavailable}"}


def _caches() -> dict[str, str]:
    """Size by level, of the first core; empty where Linux does not say."""
    caches = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")
    read = {path: [(path / name).read_text().strip() for name in ("level", "type", "size")] for path in sorted(caches)}
    return {f"L{level}": size for level, kind, size in read.values() if kind != "Instruction"}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
