"""Stage 2: every op on every backend: our own tests with their tensors on the GPU, and random calls against float64."""

import os
import sys
from collections import Counter
from pathlib import Path

from benchmarks.gpu import outcomes
from benchmarks.gpu.cases import OPS
from benchmarks.gpu.ours import GPU_BACKENDS
from benchmarks.gpu.processes import Ended, together
from benchmarks.gpu.runner import SOURCE
from benchmarks.gpu.stage import Stage, read_rows

TESTS = "tests/ops"
REHEARSED_TESTS = "test_pack_frame_tokens.py"
SHARDS = 2  # of each file
LONGEST_TEST = 12.0  # seconds before the deadline at which no more tests begin
NO_TESTS = 5  # pytest's exit code


def run(stage: Stage) -> None:
    """Each op and each file of tests has a process of its own: a kernel that dies takes only its own device with it."""
    groups = [list(OPS)] if stage.rehearsed else [[op] for op in OPS]
    commands = {f"fuzz-{ops[0]}": [sys.executable, "-m", "benchmarks.gpu.fuzz", *ops] for ops in groups}
    environments = {name: stage.described() for name in commands}
    for path in sorted((SOURCE / TESTS).glob(REHEARSED_TESTS if stage.rehearsed else "test_*.py")):
        shards = 1 if stage.rehearsed else SHARDS
        for shard in range(shards):
            name = f"tests-{path.stem.removeprefix('test_')}-{shard}"
            commands[name] = [sys.executable, "-m", "pytest", str(path), *OPTIONS, "-k", " or ".join(GPU_BACKENDS)]
            outcomes_of(stage, name).unlink(missing_ok=True)
            environments[name] = {
                outcomes.FILE: str(outcomes_of(stage, name)),
                outcomes.DEADLINE: str(stage.deadline - LONGEST_TEST),
                outcomes.SHARD: f"{shard}/{shards}",
                "DYNFOCUS_TEST_DEVICE": stage.device,
                "OMP_NUM_THREADS": "2",
            }
    # All at once on a GPU, each until the clock stops it: in a queue the last would not begin.
    jobs = 1 if stage.rehearsed else max(len(commands), os.cpu_count() or 1)
    for ended in together(commands, environments, stage.out, stage.deadline, jobs):
        if ended.name.startswith("tests-"):
            add_tests(stage, ended)
        elif ended.code != 0:
            stage.add("float64", "failed", op=ended.name.removeprefix("fuzz-"), why=how_it_died(ended))


OPTIONS = ["-q", "-ra", "-p", "no:cacheprovider", "-p", "benchmarks.gpu.outcomes"]


def outcomes_of(stage: Stage, name: str) -> Path:
    return stage.out / f"{name}.jsonl"


def add_tests(stage: Stage, ended: Ended) -> None:
    """One row for each backend that a file's tests name; what the clock or a crash left out is counted too."""
    op, _, shard = ended.name.removeprefix("tests-").rpartition("-")
    lines = read_rows(outcomes_of(stage, ended.name))
    if ended.code == NO_TESTS:
        stage.add("tests", "skipped", op=op, shard=shard, why="no test names a backend that runs here")
        return
    if ended.code not in (0, 1, 2):  # 2: stopped by the clock
        stage.add("tests", "failed", op=op, shard=shard, why=how_it_died(ended))
    tests = [line for line in lines if "name" in line]
    for backend in GPU_BACKENDS:
        own = [test for test in tests if backend in test["name"]]
        counts = Counter(test["outcome"] for test in own)
        if own:
            wrong = "; ".join(test["name"] for test in own if test["outcome"] == "failed")
            status = "failed" if wrong else "passed" if counts["passed"] else "skipped"
            more = {"why": wrong[:1000]} if wrong else {}
            stage.add("tests", status, op=op, shard=shard, backend=backend, counts=dict(counts), **more)
    left = sum(line.get("collected", 0) for line in lines) - len(tests)
    if left > 0:
        stage.add("tests", "skipped", op=op, shard=shard, why=f"{left} tests were not reached")


def how_it_died(ended: Ended) -> str:
    how = "killed at the deadline" if ended.code is None else f"ended with {ended.code}"
    return f"{how}; see {ended.log.name}: {ended.said(700)}"
