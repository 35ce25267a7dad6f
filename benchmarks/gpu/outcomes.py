"""A pytest plugin (-p benchmarks.gpu.outcomes): each test's outcome is written at once, and the clock is heeded.

A kernel that takes the process with it leaves what was found before it.
"""

import json
import os
import time
from pathlib import Path

import pytest

FILE, DEADLINE = "DYNFOCUS_GPU_OUTCOMES", "DYNFOCUS_GPU_DEADLINE"


def pytest_collection_finish(session: pytest.Session) -> None:
    _write(collected=len(session.items))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if time.time() > float(os.environ[DEADLINE]):
        item.session.shouldstop = "no time left"
        pytest.skip("no time left")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        _write(name=report.nodeid.split("::", 1)[1], outcome=report.outcome)


def _write(**line: object) -> None:
    with Path(os.environ[FILE]).open("a") as file:
        file.write(json.dumps(line) + "\n")
