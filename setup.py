"""Builds the native part with CMake and ninja; everything else about the package is in pyproject.toml.

DYNFOCUS_BUILD chooses: `cpu`, `cuda` (the CPU's kernels and the GPU's) or `none`. Unset, it is `none` where no C++
compiler is found (CXX, or c++, g++, clang++ on the path): the ops then run in plain torch. Else it is `cuda` where
torch was built with CUDA and nvcc is found (CUDACXX, or nvcc on the path), and `cpu` where not. A compiler that is
found and fails stops it.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import SetupError

PACKAGE = "dynfocus_ops"


def find_compiler() -> str | None:
    """The C++ compiler: CXX as it stands, so that a wrong one fails aloud, else the first on the path."""
    return os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


def find_nvcc() -> str | None:
    """The CUDA compiler, 12.0 or later: CUDACXX as it stands, else nvcc on the path."""
    return os.environ.get("CUDACXX") or shutil.which("nvcc")


def builds_cuda() -> bool:
    wanted = os.environ.get("DYNFOCUS_BUILD")
    if wanted:
        return wanted == "cuda"
    import torch

    return torch.version.cuda is not None and find_nvcc() is not None


def reason_not_to_build() -> str | None:
    """None, or why this install comes without the native part."""
    wanted = os.environ.get("DYNFOCUS_BUILD", "")
    if wanted not in ("", "none", "cpu", "cuda"):
        raise SetupError(f"DYNFOCUS_BUILD is {wanted!r}, it must be none, cpu or cuda")
    if wanted == "none":
        return "installed with DYNFOCUS_BUILD=none"
    if find_compiler() is None:
        if wanted:
            raise SetupError(
                f"DYNFOCUS_BUILD={wanted}: no C++ compiler found (no CXX, and no c++, g++ or clang++ on the path)"
            )
        return "no C++ compiler was found when the package was installed"
    if wanted == "cuda" and find_nvcc() is None:
        raise SetupError("DYNFOCUS_BUILD=cuda: no CUDA compiler found (no CUDACXX, and no nvcc on the path)")
    return None


NOT_BUILT = reason_not_to_build()


def write_note(package: Path, note: str | None, name: str) -> None:
    """Leaves lib/<name> with why something was not built, for dynfocus_ops.native; or takes an old one away."""
    path = package / "lib" / name
    path.unlink(missing_ok=True)
    if note is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(note + "\n")
        print(f"dynfocus_ops: {note}", file=sys.stderr)


class BuildPython(build_py):
    """Also takes away what an earlier build left, where this one builds nothing."""

    def run(self) -> None:
        super().run()
        package = Path(PACKAGE if self.editable_mode else Path(self.build_lib) / PACKAGE)
        if NOT_BUILT is not None:
            for old in (*package.glob("_C.*"), *package.glob("lib/*.so")):
                old.unlink()
        write_note(package, NOT_BUILT, "NOT_BUILT.txt")


class BuildNative(build_ext):
    """Runs CMake once for the shared library of ops and the module `_C`."""

    def run(self) -> None:
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        module = Path(self.get_ext_fullpath(self.extensions[0].name)).resolve()
        header = Path(sysconfig.get_path("include")) / "Python.h"
        with_module = header.is_file()
        self.run_tool("cmake", "-S", ".", "-B", str(build), "-G", "Ninja", *self.definitions(with_module))
        self.run_tool("cmake", "--build", str(build))

        package = module.parent
        (package / "lib").mkdir(parents=True, exist_ok=True)
        replace(build / "libdynfocus_native.so", package / "lib" / "libdynfocus_native.so")
        for old in package.glob("_C.*.so"):
            old.unlink()
        if with_module:
            replace(build / module.name, module)
        lacking = f"not built, there is no {header} (on Debian and Ubuntu: apt install python3-dev)"
        write_note(package, None if with_module else lacking, "NO_MODULE.txt")

    def definitions(self, with_module: bool) -> list[str]:
        try:
            import torch
        except ImportError as error:
            raise SetupError(
                "building the native ops needs torch >= 2.10: install it first and use pip's --no-build-isolation, "
                f"or set DYNFOCUS_BUILD=none ({error})"
            ) from error
        definitions = {
            "CMAKE_CXX_COMPILER": find_compiler(),
            "CMAKE_BUILD_TYPE": "Release",
            "DYNFOCUS_VERSION": self.distribution.get_version(),
            "DYNFOCUS_PYTHON_MODULE": "ON" if with_module else "OFF",
            "TORCH_ROOT": Path(torch.__file__).parent,
            "TORCH_VERSION": torch.__version__,
        }
        definitions["DYNFOCUS_CUDA"] = "ON" if builds_cuda() else "OFF"  # said each time: CMake remembers
        if builds_cuda():
            definitions["CMAKE_CUDA_COMPILER"] = find_nvcc()
        if with_module:
            import pybind11

            definitions |= {"Python_EXECUTABLE": sys.executable, "pybind11_DIR": pybind11.get_cmake_dir()}
        return [f"-D{name}={value}" for name, value in definitions.items()]

    def run_tool(self, *command: str) -> None:
        """Runs cmake (ninja beside it), from this environment where it is installed there."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        tool = shutil.which(command[0], path=path)
        if tool is None or shutil.which("ninja", path=path) is None:
            raise SetupError("building the native ops needs cmake and ninja; or set DYNFOCUS_BUILD=none")
        result = subprocess.run([tool, *command[1:]], env=os.environ | {"PATH": path}, text=True, capture_output=True)
        print(result.stdout, result.stderr)
        if result.returncode != 0:
            compilers = f"{find_compiler()} and {find_nvcc()}" if builds_cuda() else find_compiler()
            raise SetupError(
                f"building the native ops with the compiler {compilers} failed; "
                "mend it, or set DYNFOCUS_BUILD=none:\n" + "\n".join((result.stdout + result.stderr).splitlines()[-30:])
            )

    def get_outputs(self) -> list[str]:
        package = Path(self.get_ext_fullpath(self.extensions[0].name)).parent
        return [str(path) for path in (*package.glob("_C.*.so"), *package.glob("lib/*"))]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


def replace(source: Path, target: Path) -> None:
    """Puts a new file in the target's place, never writing into one that a running process has mapped."""
    new = target.with_suffix(".new")
    shutil.copyfile(source, new)
    new.replace(target)


setup(
    ext_modules=[] if NOT_BUILT is not None else [Extension(f"{PACKAGE}._C", sources=[])],
    cmdclass={"build_py": BuildPython, "build_ext": BuildNative},
)
