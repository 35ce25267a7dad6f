"""Stage 4: ours and the peers, op by op; the cases with goals first, whatever the clock leaves of the rest."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.document import Row, found
from benchmarks.gpu.facts import name_of
from benchmarks.gpu.ours import GPU_BACKENDS, chosen, is_refusal, refusal
from benchmarks.gpu.races import TINY, Race, Sizes, races
from benchmarks.gpu.stage import Stage
from benchmarks.gpu.timing import Run, measure, number_of_sets, peak_bytes

COMPILED = {
    ("spatial_prototypes", 1000),
    ("dpc_knn", 3600),
    ("rods_pool", 1000),
}  # compiling takes ten seconds and more
OURS = "ours"


def run(stage: Stage) -> None:
    sizes = TINY if stage.rehearsed else Sizes()
    ceilings = Ceilings.of(stage.earlier_rows())
    seen = set()
    for race in races(sizes, stage.device):
        what: dict[str, Any] = {"op": race.op, "frames": race.frames, "shape": race.shape, "dtype": name_of(race.dtype)}
        if (race.op, race.shape, race.dtype) in seen:  # what does not depend on T
            continue
        seen.add((race.op, race.shape, race.dtype))
        if not stage.enough_time(race.op, 4, **what):
            continue
        with stage.failure_is_a_row(race.op, **what):
            run_race(stage, race, what, ceilings)
        if stage.device == "cuda":
            torch.cuda.empty_cache()


class Ceilings:
    """The rates that stage 0 measured; None where it did not."""

    def __init__(self, bytes_per_s: float | None, flops_per_s: dict[str, float]):
        self.bytes_per_s = bytes_per_s
        self.flops_per_s = flops_per_s

    @classmethod
    def of(cls, rows: list[Row]) -> "Ceilings":
        copy = found(rows, name="copy bandwidth", status="measured")
        products = {row["dtype"]: row["tflops"] * 1e12 for row in rows if row["name"] == "matmul" and "tflops" in row}
        rates = {"bf16": products.get("bf16"), "fp32": products["tf32"] / 3 if "tf32" in products else None}
        return cls(copy["gb_per_s"] * 1e9 if copy else None, {name: rate for name, rate in rates.items() if rate})

    def floor_us(self, race: Race) -> float | None:
        """The longer of moving the bytes and computing the products (fp32: three tf32 products each)."""
        rate = self.flops_per_s.get(name_of(race.dtype))
        if self.bytes_per_s is None or rate is None:
            return None
        return max(race.cost.nbytes / self.bytes_per_s, race.cost.flops / rate) * 1e6


def run_race(stage: Stage, race: Race, what: dict[str, Any], ceilings: Ceilings) -> None:
    sets = [race.draw() for _ in range(number_of_sets(race.cost.nbytes, stage.device))]
    for backend in GPU_BACKENDS:
        details = {**what, "contender": OURS, "backend": backend}
        if (why := refusal(race.op, backend, sets[0][0])) is not None:
            stage.add(race.op, "skipped", why=why, **details)
            continue
        details["chosen"] = chosen(race.op, sets[0][0]) == backend
        with stage.failure_is_a_row(race.op, **details):
            try:
                calls = [partial(race.ours, *tensors, backend=backend) for tensors in sets]
                timed(stage, race, calls, True, ceilings, details)
            except RuntimeError as error:
                if not is_refusal(error):
                    raise
                stage.add(race.op, "skipped", why=str(error)[:300], **details)
    for name, peer in race.peers.items():
        details = {**what, "contender": name}
        function = peer.run
        if peer.compiles:
            if not stage.rehearsed and (race.op, race.frames) not in COMPILED:
                continue
            function = torch.compile(function, dynamic=False, backend="eager" if stage.rehearsed else "inductor")
        if not stage.enough_time(race.op, 40 if peer.compiles and not stage.rehearsed else 3, **details):
            continue
        # A peer that cannot (memory, capture) is no fault of ours.
        try:
            timed(stage, race, [partial(function, *tensors) for tensors in sets], peer.graph, ceilings, details)
        except Exception as error:
            stage.add(race.op, "skipped", why=f"{type(error).__name__}: {str(error)[:300]}", **details)


def timed(
    stage: Stage, race: Race, calls: Sequence[Run], graph: bool, ceilings: Ceilings, details: dict[str, Any]
) -> None:
    timing = measure(calls, stage.device, graph)
    seconds = timing.median_us * 1e-6
    floor = ceilings.floor_us(race)
    stage.add(
        race.op,
        "measured",
        **details,
        **timing.row,
        bytes=race.cost.nbytes,
        flops=race.cost.flops,
        gb_per_s=round(race.cost.nbytes / seconds * 1e-9, 1),
        tflops=round(race.cost.flops / seconds * 1e-12, 2),
        floor_us=None if floor is None else round(floor, 2),
        of_roofline=None if floor is None else round(floor / timing.median_us, 4),
        peak_bytes=peak_bytes(calls[0], stage.device),
    )
