"""DYNFOCUS_BUILD and what setup.py does with no compiler, or a broken one. Nothing is compiled here."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(os.environ.get("DYNFOCUS_SOURCE", Path(__file__).parents[2]))
pytestmark = pytest.mark.skipif(not (SOURCE / "setup.py").is_file(), reason="DYNFOCUS_SOURCE is not set")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what a build reads, and nothing an earlier one left."""
    tree = tmp_path / "tree"
    built = shutil.ignore_patterns("lib", "*.so", "__pycache__")
    shutil.copytree(SOURCE / "dynfocus_ops", tree / "dynfocus_ops", ignore=built)
    shutil.copytree(SOURCE / "csrc", tree / "csrc")
    for name in ("setup.py", "pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE"):
        if (SOURCE / name).is_file():
            shutil.copy(SOURCE / name, tree)
    return tree


def build(tree: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("CXX", "CUDACXX", "DYNFOCUS_BUILD")}
    return subprocess.run(
        [sys.executable, "setup.py", "build", "--build-lib", "lib"],
        cwd=tree,
        env=inherited | environment,
        capture_output=True,
        text=True,
    )


def run(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": "."}
    return subprocess.run(
        [sys.executable, *arguments], cwd=tree / "lib", env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"DYNFOCUS_BUILD": "none"}, "installed with DYNFOCUS_BUILD=none"),
        ({"PATH": "nowhere"}, "no C++ compiler was found when the package was installed"),
    ],
    ids=["none", "no compiler"],
)
def test_installs_without_the_native_part_and_says_so(tree: Path, environment: dict[str, str], reason: str) -> None:
    left_over = tree / "lib" / "dynfocus_ops" / "lib" / "libdynfocus_native.so"
    left_over.parent.mkdir(parents=True)
    left_over.touch()
    built = build(tree, **environment)
    assert built.returncode == 0, built.stderr
    assert f"dynfocus_ops: {reason}" in built.stderr
    assert list((tree / "lib").rglob("*.so")) == []

    table = run(tree, "-m", "dynfocus_ops")
    assert table.returncode == 0, table.stderr
    assert f"no: no native library at {left_over}: {reason}" in table.stdout

    code = "import torch, dynfocus_ops as o; x = torch.randn(2, 9, 3); [o.dpc_knn(x, 2, 3) for _ in range(3)]"
    used = run(tree, "-c", code)
    assert used.returncode == 0, used.stderr
    assert used.stderr.count("the ops run in plain torch: no native library") == 1
    assert reason in used.stderr


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"CXX": shutil.which("false") or "false"}, "failed; mend it, or set DYNFOCUS_BUILD=none"),
        ({"CXX": "/no/such/compiler"}, "with the compiler /no/such/compiler failed"),
        ({"DYNFOCUS_BUILD": "cpu", "PATH": "nowhere"}, "DYNFOCUS_BUILD=cpu: no C++ compiler found"),
        ({"DYNFOCUS_BUILD": "cuda", "PATH": "nowhere"}, "DYNFOCUS_BUILD=cuda: no C++ compiler found"),
        ({"DYNFOCUS_BUILD": "cuda", "CXX": "c++", "PATH": "nowhere"}, "DYNFOCUS_BUILD=cuda: no CUDA compiler found"),
        ({"DYNFOCUS_BUILD": "cuda", "CUDACXX": "/no/such/nvcc"}, " and /no/such/nvcc failed"),
        ({"DYNFOCUS_BUILD": "gpu"}, "DYNFOCUS_BUILD is 'gpu', it must be none, cpu or cuda"),
    ],
    ids=[
        "broken compiler",
        "missing compiler",
        "cpu without compiler",
        "cuda without compiler",
        "no nvcc",
        "missing nvcc",
        "unknown",
    ],
)
def test_fails_with_the_reason(tree: Path, environment: dict[str, str], reason: str) -> None:
    built = build(tree, **environment)
    assert built.returncode != 0
    assert reason in built.stderr
    assert list(tree.rglob("*.so")) == []
