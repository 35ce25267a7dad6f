"""How long a call takes on the device: a CUDA graph of it, replayed over inputs that no cache holds."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

Run = Callable[[], Any]

SAMPLES = 30
SECONDS = 0.35  # of one measurement, if that leaves the fewest samples
FEWEST = 5
SHORTEST = 200e-6  # a sample repeats a shorter call: events resolve about half a microsecond
MOST_SETS = 32


@dataclass(frozen=True)
class Timing:
    median_us: float
    again_us: float  # the same, measured a second time: what is less apart than the two is noise
    samples: int
    how: str  # "graph", "eager" or "wall clock"

    @property
    def row(self) -> dict[str, Any]:
        spread = abs(self.again_us - self.median_us) / self.median_us
        return {
            "median_us": round(self.median_us, 2),
            "again_us": round(self.again_us, 2),
            "spread": round(spread, 4),
            "samples": self.samples,
            "how": self.how,
        }


def number_of_sets(nbytes: int, device: str) -> int:
    """How many inputs of so many bytes to rotate among so that they are more than twice the L2."""
    if device == "cpu":
        return 1
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(2, min(MOST_SETS, 2 * cache // max(1, nbytes) + 1))


def measure(calls: Sequence[Run], device: str, graph: bool = True) -> Timing:
    """Args:
        calls: the same work on different inputs; the timing goes round them.
        graph: capture each as a CUDA graph, which leaves launches out; False for what cannot be captured.

    Raises:
        RuntimeError: if a call cannot be captured, because it waits for the device.
    """
    if device == "cpu":  # a rehearsal
        seconds = [_wall_clock(call) for call in calls]
        return Timing(median(seconds) * 1e6, seconds[-1] * 1e6, len(seconds), "wall clock")
    for call in calls:
        call()
    torch.cuda.synchronize()
    runs: Sequence[Run] = [captured(call).replay for call in calls] if graph else calls
    once = _events(runs, 1, 2)[-1]
    repeats = max(1, round(SHORTEST / once))
    samples = int(min(SAMPLES, max(FEWEST, SECONDS / (once * repeats))))
    first, second = (median(_events(runs, repeats, samples)) * 1e6 for _ in range(2))
    return Timing(first, second, samples, "graph" if graph else "eager")


def captured(call: Run) -> torch.cuda.CUDAGraph:
    """The call as a CUDA graph, after a warm-up on another stream."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        graph.result = call()  # type: ignore[attr-defined]  # its memory stays the graph's
    return graph


def peak_bytes(call: Run, device: str) -> int | None:
    """The most memory a call holds beyond what was there, its result included."""
    if device == "cpu":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def _events(runs: Sequence[Run], repeats: int, samples: int) -> list[float]:
    """Seconds of one call, by samples of `repeats` calls each."""
    pairs = []
    position = 0
    for _ in range(samples):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            runs[position % len(runs)]()
            position += 1
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize()
    return [start.elapsed_time(end) * 1e-3 / repeats for start, end in pairs]


def _wall_clock(call: Run) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
