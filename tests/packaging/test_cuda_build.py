"""DYNFOCUS_BUILD=cuda: one library with the CPU's kernels and the GPU's, which loads where there is no driver.

No kernel for the GPU runs here.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SOURCE = Path(os.environ.get("DYNFOCUS_SOURCE", Path(__file__).parents[2]))
NVCC = os.environ.get("CUDACXX") or shutil.which("nvcc")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not (SOURCE / "setup.py").is_file(), reason="DYNFOCUS_SOURCE is not set"),
    pytest.mark.skipif(NVCC is None, reason="needs nvcc (CUDACXX, or on the path)"),
]


@pytest.fixture(scope="module")
def built() -> Path:
    """The packages as DYNFOCUS_BUILD=cuda builds them; the objects are kept for the next run."""
    build = SOURCE / "build" / "cuda"
    shutil.rmtree(build / "lib", ignore_errors=True)
    subprocess.run(
        [
            sys.executable,
            "setup.py",
            "build",
            "--build-lib",
            str(build / "lib"),
            "--build-temp",
            str(build / "objects"),
        ],
        cwd=SOURCE,
        env=os.environ | {"DYNFOCUS_BUILD": "cuda"},
        check=True,
        capture_output=True,
    )
    return build / "lib"


@pytest.fixture(scope="module")
def library(built: Path) -> Path:
    return built / "dynfocus_ops" / "lib" / "libdynfocus_native.so"


def run(built: Path, *arguments: str) -> str:
    hidden = {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(built)}
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(command, env=os.environ | hidden, check=True, capture_output=True, text=True).stdout


def test_loads_without_a_gpu_and_the_ops_of_the_cpu_run(built: Path) -> None:
    code = """
import torch
from dynfocus_ops import dpc_knn, native
native.load()
print(native.LIBRARY)
x = torch.randn(2, 40, 16)
ours, reference = (dpc_knn(x, 5, 4, backend=backend) for backend in ("cpu", "reference"))
print(torch.equal(ours.centers, reference.centers))
print(torch._C._dispatch_has_kernel_for_dispatch_key("dynfocus_native::dpc_knn", "CUDA"))
"""
    where, equal, has_cuda = run(built, "-c", code).split()
    assert Path(where).is_relative_to(built)
    assert equal == has_cuda == "True"


def test_asked_for_by_name_it_says_what_it_lacks(built: Path) -> None:
    code = """
import torch
from dynfocus_ops import dpc_knn
try:
    dpc_knn(torch.randn(2, 40, 16), 5, 4, backend="cuda")
except RuntimeError as error:
    print(error)
"""
    assert "x is on cpu, the CUDA kernels need a CUDA tensor" in run(built, "-c", code)


def test_says_what_it_was_built_for(built: Path) -> None:
    assert re.search(r"CUDA archs +sm_80, sm_90, compute_90, built with nvcc \d+", run(built, "-m", "dynfocus_ops"))


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm of binutils")
def test_needs_no_cuda_and_only_the_stable_abi(library: Path) -> None:
    listing = subprocess.run(["nm", "-D", str(library)], check=True, capture_output=True, text=True).stdout
    symbols = {line.split()[-1]: line.split()[-2] for line in listing.splitlines()}
    undefined = [name for name, kind in symbols.items() if kind == "U"]
    assert "torch_parallel_for" in undefined
    assert [name for name in undefined if re.search(r"_ZNK?\d?(2at|3c10|5torch)|_ZN?K?\d?c10|^_*cuda", name)] == []
    assert symbols["aoti_torch_get_current_cuda_stream"] == "w"  # of libtorch with CUDA; absent elsewhere
    assert [name for name, kind in symbols.items() if kind in "TDB" and "cuda" in name and "dynfocus" not in name] == []


def test_has_code_for_both_architectures_and_later_ones(library: Path) -> None:
    triton = find_spec("triton")
    if triton is None or triton.origin is None:
        pytest.skip("needs cuobjdump of the package triton")
    tool = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    listings = [
        subprocess.run([tool, what, library], check=True, capture_output=True, text=True).stdout
        for what in ("--list-elf", "--list-ptx")
    ]
    elf, ptx = ({name.split(".")[-2] for name in re.findall(r"\S+\.(?:cubin|ptx)", listing)} for listing in listings)
    assert elf == {"sm_80", "sm_90"} and ptx == {"sm_90"}
