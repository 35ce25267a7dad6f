"""What each op must reach (gates) and where we want it (goals), as data; the report holds every run against it."""

from dataclasses import dataclass

from benchmarks.results import OURS, CaseResult, RunResult

FLOOR, RESEARCH, COMPILED = "floor", "research", "compiled"


@dataclass(frozen=True)
class Bound:
    """On a ratio: ours over the floor, at most `limit`; or a peer's time over ours, at least `limit`."""

    against: str  # FLOOR, or a kind of contender, of which the fastest counts
    limit: float

    def measured(self, result: CaseResult) -> float | None:
        """None where the run has not got it."""
        if self.against == FLOOR:
            return result.times_floor()
        # Where compiling does not make it faster, the best that torch can do is eager.
        kinds = (COMPILED, "vectorised") if self.against == COMPILED else (self.against,)
        peer = result.fastest(*kinds)
        return None if peer is None else result.speedup(peer)

    def holds(self, measured: float) -> bool:
        return measured <= self.limit if self.against == FLOOR else measured >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.against == FLOOR else '≥'} {self.limit:g} × {self.against}"


def floor(at_most: float) -> Bound:
    return Bound(FLOOR, at_most)


def research(at_least: float) -> Bound:
    return Bound(RESEARCH, at_least)


def compiled(at_least: float) -> Bound:
    return Bound(COMPILED, at_least)


def own_fp32(at_least: float) -> Bound:
    return Bound(f"{OURS}, fp32", at_least)


@dataclass(frozen=True)
class Target:
    op: str
    case: str
    gates: tuple[Bound, ...]
    goals: tuple[Bound, ...]


TARGETS = (
    Target("spatial_prototypes", "64x256x1408-fp32", (floor(1.5), compiled(1.4)), (floor(1.2),)),
    Target("spatial_prototypes", "64x256x1408-bf16", (own_fp32(1),), (own_fp32(2),)),
    Target("dpc_knn", "1x1000x22528-25-k8-fp32", (floor(1.4),), (floor(1.15),)),
    Target("dpc_knn", "1x1000x22528-25-k8-bf16", (own_fp32(1),), (own_fp32(2),)),
    Target("dpc_knn", "4x4096x1024-64-k5-fp32", (floor(1.6), compiled(2)), (floor(1.25),)),
    Target("dpc_knn", "8x3136x128-784-k5-fp32", (research(7), compiled(4)), (research(12),)),
    Target("dpc_knn", "32x184x3584-7-k4-bf16", (research(4),), (research(10),)),
    Target("dpc_knn_varlen", "32x35..178x3584-fp32", (research(4),), (research(8),)),
    Target("dpc_knn_varlen", "32x35..178x3584-bf16", (research(4),), (research(8),)),
    Target("rods_pool", "64x256x1408-q32-fp32", (research(20), compiled(1.2)), (floor(1.3),)),
    Target("rods_pool", "64x22x1408-q32-fp32", (research(15), compiled(1.3)), (research(25),)),
    Target("perturbed_topk", "b1-l256-k128-n1000-fp32", (research(40), compiled(8)), (research(80),)),
    Target("perturbed_topk", "b8-l25-k20-n500-fp32", (research(4),), (research(8),)),
    Target("pack_frame_tokens", "t1000-k20-d4096-fp32", (research(50), compiled(1)), (floor(1.3),)),
    Target("cluster_mean", "64x256x1408-16-fp32", (research(2.5), compiled(1.3)), (floor(1.5),)),
)

# Drop-ins, on one core: products bound them where features are wide; TCFormer's copy spends most on its N x N passes.
WIDE, TCFORMER, FRAME_BY_FRAME, NEVER_SLOWER = research(2.5), research(7), research(4), research(1)
DROPIN_TARGETS = {
    "tcformer-1x3136x128-784-k5-fp32": TCFORMER,
    "tcformer-8x3136x128-784-k5-fp32": TCFORMER,
    "tcformer-8x784x320-196-k5-fp32": TCFORMER,
    "tcformer-128x784x320-196-k5-fp32": TCFORMER,
    "tcformer-8x196x512-49-k5-fp32": TCFORMER,
    "tcformer-128x196x512-49-k5-fp32": TCFORMER,
    "tcformer-32x192x512-48-k5-fp32": TCFORMER,
    "tcformer-64x192x512-48-k5-fp32": TCFORMER,
    "chat_univi-1x256x1024-64-k5-bf16": WIDE,
    "chat_univi-64x256x1024-64-k5-bf16": WIDE,
    "chat_univi-1x4096x1024-64-k5-bf16": WIDE,
    "prunevid-1x144x4096-72-k7-bf16": WIDE,
    "dynfocus-64x256x1408-16-k8-fp32": WIDE,
    "flashvid-1x178x3584-41-k7-bf16": WIDE,
    "varlen-32x35..178x3584-bf16": FRAME_BY_FRAME,
    "varlen-21x15..144x4096-bf16": FRAME_BY_FRAME,
    "varlen-16x40..196x3584-bf16": FRAME_BY_FRAME,
}

MB = 10**6


@dataclass(frozen=True)
class MemoryTarget:
    op: str
    case: str
    at_most: int  # bytes beyond inputs and results
    why: str


MEMORY_TARGETS = (
    MemoryTarget("dpc_knn_growth", "1x65536x64-64-k5-fp32", 128 * MB, "one N × N matrix would be 17 GB"),
    MemoryTarget("dpc_knn_growth", "1x16384x64-64-k5-fp32", 128 * MB, "one N × N matrix would be 1.1 GB"),
    MemoryTarget(
        "perturbed_topk", "b1-l256-k128-n1000-fp32", MB, "the noise n × L alone would be 1 MB, n × k × L 131 MB"
    ),
)

GROWTH = "dpc_knn_growth"
LARGEST_EXPONENT = 2.15  # of N in its time; a pass that leaves the cache costs a little


def missed(run: RunResult) -> list[str]:
    """One line for each gate that this run measured and that does not hold."""
    lines = []
    for target in TARGETS:
        result = run.cases.get((target.op, target.case))
        for gate in target.gates if result else ():
            measured = gate.measured(result) if result else None
            if measured is not None and not gate.holds(measured):
                lines.append(f"{target.op} {target.case}: {measured:.2f}, must be {gate}")
    for (op, case), result in run.cases.items():
        gate = DROPIN_TARGETS.get(case, NEVER_SLOWER)
        measured = gate.measured(result) if op.startswith("dropin") else None
        if measured is not None and not gate.holds(measured):
            lines.append(f"{op} {case}: {measured:.2f}, must be {gate}")
    for memory in MEMORY_TARGETS:
        result = run.cases.get((memory.op, memory.case))
        peak = result.peak_extra_bytes(OURS) if result and OURS in result.details else None
        if peak is not None and peak > memory.at_most:
            lines.append(f"{memory.op} {memory.case}: {peak / MB:.1f} MB, must be ≤ {memory.at_most / MB:g} MB")
    return lines
