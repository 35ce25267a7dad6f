"""The CUDA ops on CPU tensors, their kernels run by the emulator: torch.ops.dynfocus_emulated."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

HERE = Path(__file__).parent
SOURCE = Path(os.environ.get("DYNFOCUS_SOURCE", HERE.parents[1])) / "csrc" / "cuda"


def find_compiler() -> str | None:
    return os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


def build(library: Path, compiler: str) -> None:
    torch_root = Path(torch.__file__).parent
    result = subprocess.run(
        [
            *(compiler, "-std=c++20", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Wno-unknown-pragmas"),
            # Shared memory is one thing and then another; fibres leave by longjmp, which a fortified one forbids.
            *("-fno-strict-aliasing", "-U_FORTIFY_SOURCE"),
            *("-DDYNFOCUS_EMULATED", "-DTORCH_TARGET_VERSION=0x020a000000000000"),
            *(f"-I{HERE}", f"-I{SOURCE}", "-isystem", f"{torch_root}/include"),
            *(f"{HERE}/emulated_ops.cpp", "-o", str(library)),
            *(f"{torch_root}/lib/libtorch_cpu.so", "-Wl,-Bsymbolic"),
        ],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


class Emulator:
    def __init__(self, library: Path) -> None:
        torch.ops.load_library(str(library))
        self._library = ctypes.CDLL(str(library))
        self._library.emulate.argtypes = (ctypes.c_uint64, ctypes.c_char_p)
        self._library.emulated_sites.restype = ctypes.c_char_p
        self.dpc_knn = torch.ops.dynfocus_emulated.dpc_knn
        self.spatial_prototypes = torch.ops.dynfocus_emulated.spatial_prototypes

    @contextmanager
    def order(self, seed: int, left_out: str = "") -> Iterator[None]:
        """Threads run in the order of `seed`, and as if the barrier or wait `left_out` were not there."""
        self._library.emulate(seed, left_out.encode())
        try:
            yield
        finally:
            self._library.emulate(0, b"")

    def sites(self) -> list[str]:
        """The barriers and waits that threads have come to so far."""
        sites: list[str] = self._library.emulated_sites().decode().split()
        return sites
