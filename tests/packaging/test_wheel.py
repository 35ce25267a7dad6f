"""The files `make test` built and installed: is the wheel complete, and is it what this test run imports?"""

import os
import tarfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

import dynfocus
import dynfocus_ops

SOURCE = os.environ.get("DYNFOCUS_SOURCE")
pytestmark = pytest.mark.skipif(SOURCE is None, reason="looks at the wheel that make test builds")


def built(pattern: str) -> Path:
    assert SOURCE is not None
    (path,) = (Path(SOURCE) / "build" / "dist").glob(pattern)
    return path


def package_files() -> set[str]:
    """The files of both packages in the source tree, as a wheel names them."""
    assert SOURCE is not None
    folders = [Path(SOURCE) / name for name in ("dynfocus", "dynfocus_ops")]
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    made = ("__pycache__", "lib")  # by Python and by the build
    names = [path.relative_to(SOURCE) for path in found]
    return {name.as_posix() for name in names if name.suffix != ".so" and not any(part in made for part in name.parts)}


def test_the_packages_under_test_are_the_installed_ones() -> None:
    for package in (dynfocus, dynfocus_ops):
        assert package.__file__ is not None
        assert "site-packages" in Path(package.__file__).parts
        assert not Path(package.__file__).is_relative_to(Path(str(SOURCE)) / package.__name__)


def test_wheel_holds_every_file_of_the_packages() -> None:
    names = set(zipfile.ZipFile(built("*.whl")).namelist())
    assert package_files() - names == set()
    native = {"dynfocus_ops/lib/libdynfocus_native.so", "dynfocus_ops/lib/NOT_BUILT.txt"}
    assert len(names & native) == 1, "either the library or why there is none"
    assert [name for name in names if name.startswith(("tests/", "csrc/", "benchmarks/"))] == []


def test_sdist_holds_what_a_build_and_a_test_need() -> None:
    with tarfile.open(built("*.tar.gz")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert package_files() - names == set()
    assert {"setup.py", "CMakeLists.txt", "Makefile", "LICENSE", "constraints.txt", "csrc/registration.cpp"} <= names
    assert {"csrc/cpu/ops.h", "csrc/cpu/dpc_knn.cpp", "csrc/cuda/dpc_knn.cu", "tests/conftest.py"} <= names
    assert {"csrc/cuda/ops.h", "csrc/cuda/dpc_knn.cu", "csrc/cuda/cluster_frames.cuh", "tests/cuda/emulator.h"} <= names
    assert [name for name in names if name.endswith((".so", ".pyc"))] == []


def test_metadata() -> None:
    metadata = distribution("dynfocus").metadata
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert any(script.name == "dynfocus" for script in distribution("dynfocus").entry_points)
