"""`python -m dynfocus_ops`: what was built, what can run here, and why not the rest."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from dynfocus_ops import native
from dynfocus_ops.backends import BACKENDS, CPU_OPS, CUDA_OPS, TRITON_OPS

OPS = {"cuda": CUDA_OPS, "triton": TRITON_OPS, "cpu": CPU_OPS}


def main() -> None:
    for label, value in (*versions(), *build(), *backends()):
        print(f"{label:<22} {value}")


def versions() -> list[tuple[str, str]]:
    try:
        dynfocus = version("dynfocus")
    except PackageNotFoundError:
        dynfocus = "run from its source tree, not installed"
    return [
        ("dynfocus", dynfocus),
        ("python", platform.python_version()),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
    ]


def build() -> list[tuple[str, str]]:
    try:
        info = native.build_info()
    except native.NativeUnavailable as unavailable:
        return [("build", f"unknown: {unavailable}")]
    missing = [name for name in info["instruction_sets"] if name not in info["runnable_instruction_sets"]]
    return [
        ("built with", f"{info['compiler']}, {info['flags']}"),
        ("built against torch", f"{info['torch_version']}, loads in {info['torch_stable_abi']} and later"),
        ("instruction sets", ", ".join(info["instruction_sets"])),
        ("this CPU lacks", ", ".join(missing) or "none of them"),
        ("CUDA archs", cuda(info)),
    ]


def cuda(info: dict[str, Any]) -> str:
    if not info["cuda_archs"]:
        return "none: built without CUDA kernels (DYNFOCUS_BUILD=cuda builds them where nvcc is found)"
    return f"{', '.join(info['cuda_archs'])}, built with {info['cuda_compiler']}"


def backends() -> list[tuple[str, str]]:
    """One line per backend, from the predicates that choose at run time, for bfloat16 points where they would lie."""
    gpu = "cuda" if torch.cuda.is_available() else "cpu"
    lines = []
    for name, can_run in BACKENDS.items():
        sample = torch.empty(1, 64, 64, dtype=torch.bfloat16, device="cpu" if name == "cpu" else gpu)
        reason = can_run("dpc_knn", sample)
        covers = f"{', '.join(sorted(OPS[name]))}" if name in OPS else "every op, device and dtype"
        lines.append((f"backend {name}", f"no: {reason}" if reason else f"yes: {covers}"))
    return lines


if __name__ == "__main__":
    main()
