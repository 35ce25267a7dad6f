"""The suite itself, run small: pytest-benchmark's JSON of it makes a page."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.memory import peak_extra_bytes
from benchmarks.report import main
from benchmarks.results import load

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_smoke_run(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "benchmarks", "--depth=smoke", "--benchmark-enable", "--benchmark-only",
         f"--benchmark-json={tmp_path / 'run.json'}", "-k", "32x184x3584 or machine", "-q"],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    result = load(tmp_path / "run.json")
    case = result.cases["dpc_knn", "32x184x3584-7-k4-bf16"]
    assert {"ours", "research", "vectorised", "floor: product", "floor: fresh copy"} <= set(case.seconds)
    assert case.details["ours"]["share"] == 1
    main([str(tmp_path / "run.json"), "--out", str(tmp_path)])
    assert "A smoke run" in (tmp_path / "benchmarks.md").read_text()


def test_peak_memory_is_what_a_call_holds_beyond_its_results() -> None:
    def run() -> torch.Tensor:
        return (torch.ones(8, 2**20) * 2).sum(0)  # 32 MiB twice; then a result of 4 MiB, which is taken off

    peak = peak_extra_bytes(run)
    if peak is None:
        pytest.skip("this system does not say")
    assert 55 * 2**20 < peak < 70 * 2**20
