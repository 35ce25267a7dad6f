"""The timing of make gpu, with a clock in the place of the GPU: how often it repeats, what it rotates and reports."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import timing


class Device:
    """Calls take the time they say; a graph remembers the call it captured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, l2: int = 50_000_000):
        self.now = 0.0
        device = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = device.now

            def elapsed_time(self, end: "Event") -> float:
                return (end.at - self.at) * 1e3

        class Graph:
            def __enter__(self) -> None:
                device.capturing = self

            def __exit__(self, *_: object) -> None:
                device.capturing = None

            def replay(self) -> None:
                for seconds in self.taken:
                    device.now += seconds

        self.capturing: Graph | None = None
        nothing = SimpleNamespace(wait_stream=lambda other: None)
        for name, fake in {
            "Event": Event,
            "CUDAGraph": Graph,
            "graph": lambda graph: graph,
            "Stream": lambda: nothing,
            "current_stream": lambda: nothing,
            "stream": lambda stream: pytest.MonkeyPatch.context(),
            "synchronize": lambda: None,
            "get_device_properties": lambda index: SimpleNamespace(L2_cache_size=l2),
        }.items():
            monkeypatch.setattr(torch.cuda, name, fake)

    def call(self, seconds: float, log: list[float]):
        def run() -> None:
            log.append(seconds)
            if self.capturing is not None:
                self.capturing.taken = [seconds]
            else:
                self.now += seconds

        return run


@pytest.mark.parametrize("graph", [True, False])
def test_the_median_of_all_inputs(graph: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    device, log = Device(monkeypatch), []
    calls = [device.call(seconds, log) for seconds in (1e-3, 3e-3, 2e-3)]
    found = timing.measure(calls, "cuda", graph)
    assert found.median_us == pytest.approx(2000) and found.again_us == pytest.approx(2000)
    assert found.how == ("graph" if graph else "eager") and found.samples == timing.SAMPLES
    assert found.row["spread"] == 0
    assert graph == (len(log) == 3 * 4)  # once, twice to warm up, once captured: then only replayed


def test_a_short_call_is_repeated_within_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    device, log = Device(monkeypatch), []
    found = timing.measure([device.call(1e-6, log)], "cuda", graph=False)
    assert found.median_us == pytest.approx(1)
    assert len(log) > timing.SAMPLES * 150


def test_a_long_call_is_measured_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    device, log = Device(monkeypatch), []
    assert timing.measure([device.call(2.0, log)], "cuda").samples == timing.FEWEST


@pytest.mark.parametrize(("nbytes", "sets"), [(1_000_000_000, 2), (30_000_000, 4), (10, timing.MOST_SETS)])
def test_inputs_outgrow_the_cache(nbytes: int, sets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    Device(monkeypatch)
    assert timing.number_of_sets(nbytes, "cuda") == sets
