from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.cases import DEPTHS
from benchmarks.contest import Contest
from benchmarks.environment import describe_commit, describe_machine


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--depth",
        choices=DEPTHS,
        default="quick",
        help="quick: the cases with targets; full: all; smoke: all, tiny and once, to test the suite",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("depth") != "quick":
        return
    by_depth: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        case: Any = item.callspec.params.get("case") if isinstance(item, pytest.Function) else None
        by_depth[case is None or case.depth == "quick"].append(item)
    items[:] = by_depth[True]
    config.hook.pytest_deselected(items=by_depth[False])


@pytest.fixture(autouse=True)
def fresh_start() -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()  # one function is compiled for more shapes than the compiler's cache takes


@pytest.fixture
def one_core() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def depth(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("depth"))


@pytest.fixture
def contest(benchmark: BenchmarkFixture, depth: str) -> Contest:
    return Contest(benchmark, depth)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info.clear()
    machine_info.update(describe_machine(), depth=config.getoption("depth"))


def pytest_benchmark_update_commit_info(config: pytest.Config, commit_info: dict[str, Any]) -> None:
    commit_info.update(describe_commit(commit_info))
