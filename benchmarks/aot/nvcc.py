"""The kernels of csrc/cuda, read off the objects that the library is linked from."""

import re
import subprocess
import tempfile
from pathlib import Path

from benchmarks.aot import cubin
from benchmarks.aot.rows import Row

RESERVED = {"sm_80": 0, "sm_90": 1024}  # bytes of shared memory that the system takes and the cubin counts
WHAT = "CUDA C++ in csrc/cuda: clusters a frame, and averages its clusters, in one block of threads"


def rows(build: Path) -> list[Row]:
    """One row per kernel and architecture.

    Args:
        build: CMake's build folder, with the target cuda_kernels built.
    """
    compiler = compiler_of(build)
    launches = launch_sizes(compiler)
    version = re.search(r"V(\d+\.\d+)", subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout)
    if version is None:
        raise RuntimeError(f"{compiler} --version does not say its version")
    found = []
    for path in sorted((build / "CMakeFiles" / "cuda_kernels.dir").rglob("*.o")):
        for arch, reserved in RESERVED.items():
            for kernel in cubin.kernels(path, arch):
                name = demangled(kernel.name)
                threads, shared = launches[name.split("<")[0]]
                found.append(
                    Row(
                        op="CUDA C++",
                        call=f"csrc/cuda/{path.with_suffix('').name}",
                        kernel=name,
                        what=WHAT,
                        arch=arch,
                        compiler=f"nvcc {version[1]}",
                        identity=f"{path}, {kernel.name}, {arch}",
                        warps=threads // 32,
                        registers=kernel.registers,
                        stack=kernel.stack,
                        shared=kernel.shared - reserved + shared,
                        matrix=kernel.matrix,
                        wide=kernel.wide,
                        local=kernel.local,
                        local_in_main_loop=kernel.local_in_main_loop,
                        multiplies=True,
                        moves_much=True,
                        overflows=(),
                    )
                )
    if not found:
        raise FileNotFoundError(f"no CUDA objects in {build}")
    return found


def compiler_of(build: Path) -> str:
    cache = (build / "CMakeCache.txt").read_text()
    found = re.search(r"^CMAKE_CUDA_COMPILER:\w+=(.+)$", cache, re.MULTILINE)
    if found is None:
        raise ValueError(f"{build} was configured without CUDA")
    return found[1]


def launch_sizes(compiler: str) -> dict[str, tuple[int, int]]:
    """Threads and bytes of dynamic shared memory by kernel, as the launching code computes them."""
    source = Path(__file__).with_name("cuda_launch.cu")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "cuda_launch"
        subprocess.run([compiler, "-std=c++20", "-o", str(program), str(source)], check=True)
        lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    return {name: (int(threads), int(shared)) for name, threads, shared in map(str.split, lines)}


def demangled(name: str) -> str:
    """cluster_frame<BFloat16, 8>, from the mangled name."""
    full = subprocess.run(["c++filt", name], check=True, capture_output=True, text=True).stdout
    short = full.strip().removeprefix("void ").replace("dynfocus::cuda::", "")
    return re.sub(r"\(.*\)$", "", re.sub(r"\((?:int|bool)\)", "", short))
