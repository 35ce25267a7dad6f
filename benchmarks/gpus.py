"""What GPUs can do by their makers' datasheets, and what a run measured of one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.counts import Cost

LAUNCH_SECONDS = 2e-6  # of a kernel with nothing to do inside a CUDA graph: assumed, until a run has measured it


@dataclass(frozen=True)
class GPU:
    name: str
    bytes_per_s: float
    flops_per_s: Mapping[str, float]  # of dense matrix products by dtype; fp32 as three products in tf32
    source: str
    launch_seconds: float = LAUNCH_SECONDS

    def seconds(self, cost: Cost, dtype: str) -> tuple[float, float]:
        """Of moving its bytes, and of computing its products."""
        return cost.nbytes / self.bytes_per_s, cost.flops / self.flops_per_s[dtype]

    def floor(self, costs: Sequence[Cost], dtype: str) -> float:
        """Seconds that steps one after the other take at the least: each the longer of its two times."""
        return sum(max(self.seconds(cost, dtype)) for cost in costs)

    def is_memory_bound(self, costs: Sequence[Cost], dtype: str) -> bool:
        """Whether more of the floor is bytes than products."""
        times = [self.seconds(cost, dtype) for cost in costs]
        return sum(moving for moving, computing in times if moving >= computing) >= sum(
            computing for moving, computing in times if computing > moving
        )


def datasheet(name: str, gb_per_s: float, bf16_tflops: float, tf32_tflops: float, source: str) -> GPU:
    return GPU(name, gb_per_s * 1e9, {"bf16": bf16_tflops * 1e12, "fp32": tf32_tflops * 1e12 / 3}, source)


# Rates without sparsity. Products of random numbers reach less: power, not arithmetic, is the limit there.
GPUS = (
    datasheet("A100", 2039, 312, 156, "NVIDIA A100 Tensor Core GPU datasheet, 80 GB SXM"),
    datasheet(
        "H100", 3350, 989.4, 494.7, "NVIDIA H100 Tensor Core GPU datasheet, SXM5, half of the rates with sparsity"
    ),
    datasheet(
        "H200", 4800, 989.4, 494.7, "NVIDIA H200 Tensor Core GPU datasheet, SXM, half of the rates with sparsity"
    ),
)


def measured(gpu: GPU, rows: Sequence[Mapping[str, Any]]) -> GPU:
    """`gpu` with the copy bandwidth, the rates of products and the launch that a run found, where it did."""

    def value(key: str, **wanted: str) -> float | None:
        found = (row for row in rows if all(row.get(name) == text for name, text in wanted.items()))
        return next((float(row[key]) for row in found if row.get(key)), None)

    bandwidth = value("gb_per_s", name="copy bandwidth")
    bf16, tf32 = (value("tflops", name="matmul", dtype=dtype) for dtype in ("bf16", "tf32"))
    launch = value("median_us", name="empty launch in a graph")
    rates = {"bf16": bf16 and bf16 * 1e12, "fp32": tf32 and tf32 * 1e12 / 3}
    found = {name: rate for name, rate in rates.items() if rate}
    return replace(
        gpu,
        bytes_per_s=bandwidth * 1e9 if bandwidth else gpu.bytes_per_s,
        flops_per_s={**gpu.flops_per_s, **found},
        source="measured in the run" if bandwidth and found else gpu.source,
        launch_seconds=launch * 1e-6 if launch else gpu.launch_seconds,
    )
