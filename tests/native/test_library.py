"""What is in the native library and what is not, what describes it, and how it is loaded."""

import re
import shutil
import subprocess
import sys

import pytest
import torch

from dynfocus_ops import native

needs_nm = pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm and objdump of binutils")


def undefined_symbols() -> list[str]:
    return subprocess.run(
        ["nm", "-D", "--undefined-only", str(native.LIBRARY)], capture_output=True, text=True, check=True
    ).stdout.split()


@needs_nm
def test_uses_only_the_stable_abi() -> None:
    symbols = undefined_symbols()
    assert "torch_parallel_for" in symbols
    unstable = re.compile(r"_ZNK?\d?(2at|3c10|5torch)|_ZN?K?\dc10")
    assert [symbol for symbol in symbols if unstable.search(symbol)] == []


@needs_nm
def test_has_no_python_in_it() -> None:
    assert [symbol for symbol in undefined_symbols() if re.match(r"_?Py[A-Z_]", symbol)] == []


@needs_nm
def test_wide_instructions_stay_in_the_chosen_kernels() -> None:
    """Outside the kernels picked at run time, not one AVX instruction: the library runs on any x86-64."""
    assembly = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(native.LIBRARY)], capture_output=True, text=True, check=True
    ).stdout
    if "x86-64" not in assembly[:200]:
        pytest.skip("not an x86-64 library")
    function, wide = "", set()
    for line in assembly.splitlines():
        if header := re.match(r"[0-9a-f]+ <(.*)>:", line):
            function = header[1]
        elif re.search(r"\t(v[a-z0-9]+|k(mov|and|or|test)[bwdq]) ", line):
            wide.add(function)
    kernels = "8dynfocus3cpu6vector"  # the namespace of what is compiled once per instruction set
    assert any(kernels in function and "add_rows" in function for function in wide)  # else it looks for the wrong one
    assert [function for function in wide if kernels not in function] == []


def test_build_info() -> None:
    if native.NO_MODULE.is_file():
        pytest.skip(native.NO_MODULE.read_text().strip())
    info = native.build_info()
    assert info["compiler"].split()[0] in {"GNU", "Clang", "AppleClang"}
    assert "-O3" in info["flags"]
    assert "native" not in info["flags"]
    assert info["instruction_sets"][0] == info["runnable_instruction_sets"][0] == "baseline"
    assert set(info["runnable_instruction_sets"]) <= set(info["instruction_sets"])
    assert info["cuda_archs"] in ([], ["sm_80", "sm_90", "compute_90"])
    assert bool(info["cuda_archs"]) == bool(info["cuda_compiler"])
    assert info["torch_stable_abi"] == "2.10"
    assert re.match(r"\d+\.\d+", info["torch_version"])


def test_build_info_names_the_instruction_sets_that_run(runnable_capabilities: list[str]) -> None:
    if native.NO_MODULE.is_file():
        pytest.skip(native.NO_MODULE.read_text().strip())
    assert native.build_info()["runnable_instruction_sets"] == runnable_capabilities


def test_ops_load_without_the_module() -> None:
    code = (
        "import sys; sys.modules['dynfocus_ops._C'] = None\n"
        "import torch; from dynfocus_ops import native\n"
        "native.load()\n"
        "print(torch.ops.dynfocus_native.dpc_knn(torch.zeros(1, 2, 3), 1, 1, None, 1.0, None)[0].tolist())\n"
        "try: native.build_info()\n"
        "except native.NativeUnavailable as unavailable: print(unavailable)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "[[0, 0]]" in printed
    assert "no module dynfocus_ops._C" in printed


def test_importing_loads_nothing() -> None:
    code = "import torch, dynfocus_ops; print(torch.ops.loaded_libraries)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_load_keeps_its_one_reason(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(native, "_loaded", False)
    monkeypatch.setattr(native, "_failure", None)
    broken = tmp_path / "libdynfocus_native.so"
    broken.write_text("not a library")
    monkeypatch.setattr(native, "LIBRARY", broken)
    with pytest.raises(native.NativeUnavailable, match=rf"{broken} does not load under torch") as first:
        native.load()
    broken.unlink()
    with pytest.raises(native.NativeUnavailable) as second:
        native.load()
    assert str(second.value) == str(first.value)


def test_load_refuses_an_old_torch(monkeypatch) -> None:
    monkeypatch.setattr(native, "_loaded", False)
    monkeypatch.setattr(native, "_failure", None)
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    with pytest.raises(native.NativeUnavailable, match=r"needs torch >= 2\.10, this is torch 2\.9\.1"):
        native.load()


def test_main_says_what_runs() -> None:
    printed = subprocess.run([sys.executable, "-m", "dynfocus_ops"], capture_output=True, text=True, check=True).stdout
    assert re.search(r"^backend cpu +yes: .*dpc_knn", printed, re.MULTILINE)
    assert re.search(r"^backend reference +yes", printed, re.MULTILINE)
    assert re.search(rf"^torch +{re.escape(torch.__version__)}", printed, re.MULTILINE)
