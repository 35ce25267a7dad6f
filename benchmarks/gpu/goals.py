"""What a run is held against, as data: the goals on an H200 in bf16."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.gpu.document import Row, found

Value = Callable[[Sequence[Row]], float | None]  # None: not in the run


@dataclass(frozen=True)
class Goal:
    what: str
    value: Value
    limit: float
    unit: str  # "x", "%" or "ms"
    at_least: bool = True
    gate: bool = True  # a gate must hold, a goal is where we want to be

    def held(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value < self.limit

    def verdict(self, value: float | None) -> str:
        if value is None:
            return "not in this run"
        yes, no = ("held", "missed") if self.gate else ("reached", "not yet")
        return yes if self.held(value) else no


def checked(rows: Sequence[Row]) -> list[Row]:
    """Every goal with what the run has measured of it."""
    return [
        {
            "what": goal.what,
            "kind": "gate" if goal.gate else "goal",
            "limit": f"{'>=' if goal.at_least else '<'} {goal.limit:g} {goal.unit}",
            "measured": value,
            "unit": goal.unit,
            "verdict": goal.verdict(value),
        }
        for goal in GOALS
        for value in [goal.value(rows)]
    ]


def ours(rows: Sequence[Row], op: str, frames: int, shape: str = "", dtype: str = "bf16") -> Row | None:
    """What users get: the backend chosen where none is named."""
    wanted = {"op": op, "frames": frames, "dtype": dtype, "contender": "ours", "chosen": True, "status": "measured"}
    rows = [row for row in rows if shape in str(row.get("shape", ""))]
    return found(list(rows), **wanted)


def speedup(op: str, frames: int, over: str) -> Value:
    def value(rows: Sequence[Row]) -> float | None:
        own = ours(rows, op, frames)
        if own is None:
            return None
        peer = found(list(rows), op=op, shape=own["shape"], dtype="bf16", contender=over, status="measured")
        return None if peer is None else float(peer["median_us"] / own["median_us"])

    return value


def roofline(op: str, frames: int) -> Value:
    def value(rows: Sequence[Row]) -> float | None:
        own = ours(rows, op, frames)
        return None if own is None or own["of_roofline"] is None else 100 * float(own["of_roofline"])

    return value


def of_copy(op: str, frames: int, shape: str) -> Value:
    def value(rows: Sequence[Row]) -> float | None:
        own, copy = ours(rows, op, frames, shape), found(list(rows), name="copy bandwidth", status="measured")
        return None if own is None or copy is None else 100 * float(own["gb_per_s"] / copy["gb_per_s"])

    return value


def connector_share(frames: int) -> Value:
    def value(rows: Sequence[Row]) -> float | None:
        own = found(list(rows), name="connector", status="measured", how_run="eager", frames=frames)
        tower = found(list(rows), name="vision tower", status="measured", frames=frames)
        return None if own is None or tower is None else 100 * float(own["median_us"] / tower["median_us"])

    return value


def one_graph(frames: int) -> Value:
    def value(rows: Sequence[Row]) -> float | None:
        own = found(list(rows), name="connector", status="measured", how_run="one graph", frames=frames)
        return None if own is None else float(own["median_us"]) / 1000

    return value


GOALS = (
    Goal(
        "spatial clustering, T = 1000, over vectorised eager",
        speedup("spatial_prototypes", 1000, "vectorised"),
        20,
        "x",
    ),
    Goal("spatial clustering, T = 1000, of the roofline", roofline("spatial_prototypes", 1000), 36, "%"),
    Goal("the same", roofline("spatial_prototypes", 1000), 50, "%", gate=False),
    Goal("temporal clustering, T = 3600, over vectorised eager", speedup("dpc_knn", 3600, "vectorised"), 10, "x"),
    Goal("rods over prototypes, T = 1000, of the copy bandwidth", of_copy("rods_pool", 1000, "x 22 x"), 60, "%"),
    Goal("connector, T = 1000, share of the ViT-g's time", connector_share(1000), 2, "%", at_least=False),
    Goal("connector, T = 64, as one CUDA graph", one_graph(64), 0.5, "ms", at_least=False),
)
