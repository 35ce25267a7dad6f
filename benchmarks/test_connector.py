"""The whole connector (vision tower excluded) at the paper's settings, and where its time goes."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import dynfocus_ops
from benchmarks import counts, oracle, research, vectorised
from benchmarks.cases import Case
from benchmarks.contest import Contest
from benchmarks.floors import Work
from benchmarks.test_pack_frame_tokens import in_order
from dynfocus.connector import ConnectorSettings, DynFocusConnector, frame_rows
from dynfocus_ops.ops.dpc_knn_varlen import DPCKNNVarlen

TEXT_CHANNELS, NUM_QUERIES = 768, 32  # the Q-Former's
SCENE = 40  # frames


@dataclass(frozen=True, kw_only=True)
class VideoCase(Case):
    t: int
    n: int = 256
    c: int = 1408
    hidden: int = 4096

    @property
    def shape(self) -> str:
        return f"t{self.t}"

    def at(self, depth: str) -> "VideoCase":
        return VideoCase(used_by=self.used_by, t=40, n=36, c=16, hidden=32) if depth == "smoke" else self


CASES = [VideoCase(used_by="DynFocus", t=t, depth="quick") for t in (64, 256, 1000)]

Levels = Sequence[Sequence[int]]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_connector(case: VideoCase, contest: Contest, depth: str) -> None:
    small = case.at(depth)
    settings = ConnectorSettings()
    plans = [settings.plan(small.t)]
    connector = DynFocusConnector(small.c, TEXT_CHANNELS, small.hidden, settings).eval().requires_grad_(False)
    patches, text = video(small), torch.randn(1, NUM_QUERIES, TEXT_CHANNELS)
    rows = frame_rows([small.t])

    def ours() -> Tensor:
        tokens: Tensor = connector(patches, plans, text, rows).tokens
        return tokens

    with mock.patch.multiple(dynfocus_ops, **EXACT_OPS):
        exact = deepcopy(connector).double()(patches.double(), plans, text.double(), rows).tokens

    def share(_: str, tokens: Tensor) -> float:
        error = (tokens - exact).norm(dim=-1) / exact.norm(dim=-1)
        return (error < 1e-4).double().mean().item()

    text_shape = (NUM_QUERIES, TEXT_CHANNELS)
    parts = counts.connector(settings, plans[0], (small.n, small.c), text_shape, small.hidden, patches.itemsize)
    flops = sum(part.flops for part in parts.values())
    contenders = {"ours": ours}
    if depth != "quick" or case.t < 1000:  # it takes three times as long as all else here
        contenders["research ops"] = with_ops(RESEARCH_OPS, ours)
    # A near tie may rightly go either way and moves a few tokens; torch's matrix products differ by number of threads.
    contest(
        case,
        contenders,
        share,
        Work(counts.Cost(flops, read=0, written=0)),
        own_share=0.98,
        repeatable=False,
        details=lambda: {"parts": seconds_by_part(ours)},
    )


def video(case: VideoCase) -> Tensor:
    """Patches [T, N, C] of scenes one after the other: a scene keeps its objects and where they are."""
    patches = torch.randn(case.t, case.n, case.c).mul_(0.5)
    for scene in patches.split(SCENE):
        scene += torch.randn(16, case.c)[torch.randint(16, (case.n,))]
    return patches


def with_ops(ops: dict[str, Any], run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def patched() -> Tensor:
        with mock.patch.multiple(dynfocus_ops, **ops):
            return run()

    return patched


def seconds_by_part(run: Callable[[], Tensor]) -> dict[str, float]:
    """Seconds of one call by op: ours under their names, torch's under what the connector uses them for."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    parts: dict[str, float] = {}
    for event in profiler.events():
        if event.cpu_parent is None:
            part = part_of(event.name)
            parts[part] = parts.get(part, 0) + event.cpu_time_total * 1e-6
    return parts


def part_of(name: str) -> str:
    if name.startswith("dynfocus::"):
        return name.removeprefix("dynfocus::").lstrip("_")
    return {"aten::linear": "projectors", "aten::gelu": "projectors", "aten::adaptive_avg_pool2d": "pooling"}.get(
        name, "rest"
    )


def one_video(dpc_knn: Callable[..., Any]) -> Callable[..., DPCKNNVarlen]:
    """dpc_knn_varlen of a single segment by a dpc_knn of (x, num_clusters, k, distance_scale)."""

    def varlen(x: Tensor, cu_seqlens: Tensor, num_clusters: int, k: int, **settings: Any) -> DPCKNNVarlen:
        assignment, centers, log_density, delta = dpc_knn(x.unsqueeze(0), num_clusters, k, settings["distance_scale"])
        bounds = torch.tensor([0, num_clusters])
        return DPCKNNVarlen(assignment[0], centers[0], bounds, log_density[0], delta[0])

    return varlen


def exact_prototypes(x: Tensor, levels: Levels) -> tuple[Tensor, list[Tensor]]:
    prototypes, assignments = [], []
    for num_clusters, k in levels:
        assignments.append(oracle.labels(x, num_clusters, k).assignment)
        x = oracle.cluster_means(x, assignments[-1], num_clusters)
        prototypes.append(x)
    return torch.cat(prototypes, 1), assignments


RESEARCH_OPS: dict[str, Any] = {
    "dpc_knn_varlen": one_video(lambda x, clusters, k, scale: research.dpc_knn(x, clusters, k, scale=scale)),
    "cluster_mean": research.cluster_mean,
    "spatial_prototypes": research.spatial_prototypes,
    "rods_pool": lambda tokens, queries, **_: research.rods_pool(tokens, queries[0]),
    "pack_frame_tokens": lambda *parts: (research.pack_frame_tokens(*parts), None),
}
EXACT_OPS: dict[str, Any] = {
    "dpc_knn_varlen": one_video(oracle.labels),
    "cluster_mean": oracle.cluster_means,
    "spatial_prototypes": exact_prototypes,
    "rods_pool": lambda tokens, queries, **_: vectorised.rods_pool(tokens, queries[0]),
    "pack_frame_tokens": lambda fine, coarse, index: (in_order(fine, coarse, index.tolist()), None),
}
