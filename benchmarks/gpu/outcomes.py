"""A pytest plugin (-p benchmarks.gpu.outcomes): each test's outcome is written at once, and the clock is heeded.

A kernel that takes the process with it leaves what was found before it.
"""

import json
import os
import time
from pathlib import Path

import pytest

FILE, DEADLINE, SHARD = "DYNFOCUS_GPU_OUTCOMES", "DYNFOCUS_GPU_DEADLINE", "DYNFOCUS_GPU_SHARD"


@pytest.hookimpl(trylast=True)  # after -k
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shard "i/n" has every n-th of the tests that -k selects: most of their time is Triton's compiler."""
    shard, shards = map(int, os.environ.get(SHARD, "0/1").split("/"))
    config.hook.pytest_deselected(items=[item for index, item in enumerate(items) if index % shards != shard])
    items[:] = items[shard::shards]


def pytest_collection_finish(session: pytest.Session) -> None:
    _write(collected=len(session.items))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if time.time() > float(os.environ[DEADLINE]):
        item.session.shouldstop = "no time left"
        pytest.skip("no time left")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":  # of set-up and teardown, only what went wrong
        _write(name=report.nodeid.split("::", 1)[1], outcome=report.outcome)


def _write(**line: object) -> None:
    with Path(os.environ[FILE]).open("a") as file:
        file.write(json.dumps(line) + "\n")
