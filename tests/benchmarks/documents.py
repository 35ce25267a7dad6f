"""The JSON of a made-up run: one entry for each contender of each case."""

import json
from pathlib import Path
from typing import Any

from benchmarks.results import RunResult, load

MACHINE = {
    "cpu": "a CPU",
    "cores": 2,
    "caches": {"L2": "1024K"},
    "memory_bytes": 2**34,
    "instruction_sets": ["avx2"],
    "compiler": "GNU 12",
    "threads": 2,
    "load": 0.1,
    "system": "Linux",
    "python": "3.11",
    "versions": {"torch": "2.13.0", "pykeops": None},
    "left_out": {"KeOps": "ModuleNotFoundError: No module named 'pykeops'"},
    "depth": "quick",
}

Times = dict[tuple[str, str], dict[str, list[float]]]  # by op and case, by contender


def write_run(path: Path, times: Times, **details: Any) -> Path:
    """`details` are recorded of ours, everywhere."""
    entries = []
    for (op, case), contenders in times.items():
        for name, seconds in contenders.items():
            info: dict[str, Any] = {"op": op, "case": case, "used_by": "someone", "flops": 10**9, "bytes": 10**6}
            info["contender"] = name
            if not name.startswith("floor"):
                info |= {"share": 1.0, "peak_extra_bytes": 10**6}
            if name == "ours":
                info |= details
            entries.append(
                {"extra_info": info, "stats": {"data": seconds, "median": sorted(seconds)[len(seconds) // 2]}}
            )
    document = {
        "machine_info": MACHINE,
        "commit_info": {"id": "0123456789abcdef", "dirty": False},
        "datetime": "2026-01-02T03:04:05",
        "benchmarks": entries,
    }
    path.write_text(json.dumps(document))
    return path


def read_run(path: Path, times: Times, **details: Any) -> RunResult:
    return load(write_run(path, times, **details))
