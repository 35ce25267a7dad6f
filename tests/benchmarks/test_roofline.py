"""The cost model: counts against what a plain computation does, units, what grows, the page and its plots."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import counts
from benchmarks.counts import Cost
from benchmarks.gpus import GPUS, measured
from benchmarks.launches import forward_and_backward, launches
from benchmarks.roofline import Run, gpus, load, main, row
from benchmarks.roofline_lines import LEVELS, Line, lines
from dynfocus.connector import ConnectorSettings, DynFocusConnector
from dynfocus_ops import reference
from dynfocus_ops.backends import TRITON_OPS

T, N, C, Q, M = 3, 12, 8, 5, 4


class Counted(float):
    """A number whose multiplications and additions are counted; 0 is where a sum begins, which adds one to each."""

    flops = 0

    def __mul__(self, other: float) -> "Counted":
        Counted.flops += 1
        return Counted(float(self) * float(other))

    def __add__(self, other: float) -> "Counted":
        Counted.flops += 1
        return Counted(float(self) + float(other))

    __radd__ = __add__


def flops_of(run: Callable[[], Any]) -> int:
    Counted.flops = 0
    run()
    return Counted.flops


def numbers(rows: int, columns: int) -> list[list[Counted]]:
    return [[Counted(1 + i + j) for j in range(columns)] for i in range(rows)]


def product(a: Sequence[Counted], b: Sequence[Counted]) -> Counted:
    return sum((x * y for x, y in zip(a, b, strict=True)), Counted(0))


def column(rows: Sequence[Sequence[Counted]], j: int) -> list[Counted]:
    return [row[j] for row in rows]


def means(x: Sequence[Sequence[Counted]], clusters: int) -> None:
    """Sums of clusters that take turns; the divisions are not counted."""
    for m in range(clusters):
        for j in range(C):
            sum(column(x[m::clusters], j), Counted(0))


def square_tiles(x: Sequence[Sequence[Counted]], tile: int) -> None:
    for i in range(len(x)):
        for j in range((i // tile + 1) * tile):
            product(x[i], x[j])


@pytest.mark.parametrize("tile", [1, 2, 4, 12])
def test_products_of_points_in_tiles(tile: int) -> None:
    x = numbers(N, C)
    assert counts.gram_flops(N, C, tile) == flops_of(lambda: square_tiles(x, tile))
    assert counts.gram_flops(N, C) == N * N * C  # half of the whole
    assert counts.dpc_knn(T, N, C, M, 2, tile).flops == T * flops_of(lambda: square_tiles(x, tile))


def test_spatial_prototypes() -> None:
    def levels() -> None:
        x, below = numbers(N, C), numbers(M, C)
        for points, clusters in ((x, M), (below, 2)):
            square_tiles(points, 2)
            means(points, clusters)

    assert counts.spatial_prototypes(T, N, C, ((M, 3), (2, 2)), 2, tile=2).flops == T * flops_of(levels)


def test_cluster_mean() -> None:
    assert counts.cluster_mean(T, N, C, M, 2).flops == T * flops_of(lambda: means(numbers(N, C), M))


def rods(gradient: bool) -> None:
    """One frame: logits [Q, M], mean weights p [M], two outputs; or the gradients. What softmax does is not counted."""
    tokens, queries, p, grad = numbers(M, C), numbers(Q, C), numbers(1, M)[0], numbers(2, C)
    for query in queries:
        for token in tokens:
            product(query, token)
    if not gradient:
        for j in range(C):
            product(p, column(tokens, j))
            sum(column(tokens, j), Counted(0))
        return
    grad_logits = numbers(Q, M)
    for token in tokens:
        product(grad[0], token)  # of p
    for m in range(M):
        for j in range(C):
            own = product(column(grad_logits, m), column(queries, j))
            own + p[m] * grad[0][j] + grad[1][j]
    for q in range(Q):
        for j in range(C):
            product(grad_logits[q], column(tokens, j))


@pytest.mark.parametrize("rows", [1, T])
def test_rods_pool(rows: int) -> None:
    forward, backward = (function(T, M, C, Q, 2, rows) for function in (counts.rods_pool, counts.rods_pool_backward))
    assert forward.flops == T * flops_of(lambda: rods(False))
    assert backward.flops == T * flops_of(lambda: rods(True))


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape).bfloat16() for shape in shapes]


def nbytes(*parts: Tensor) -> int:
    return sum(part.nbytes for part in parts)


def assert_bytes(cost: Cost, read: Sequence[Tensor], written: Sequence[Tensor]) -> None:
    assert (cost.read, cost.written) == (nbytes(*read), nbytes(*written))


def test_bytes_are_those_of_the_tensors() -> None:
    """Of each op's inputs and results, as the oracle has them."""
    (x,) = tensors((T, N, C))
    assignment = torch.arange(N).expand(T, N).contiguous() % M
    clusters = reference.dpc_knn(x, M, 3, None, 1.0, None)
    assert_bytes(counts.dpc_knn(T, N, C, M, 2), [x], clusters)
    assert_bytes(counts.dpc_knn_varlen([N] * T, C, [M] * T, 2), [x], clusters)
    prototypes, assignments = reference.spatial_prototypes(x, [M, 2], [3, 2])
    assert_bytes(counts.spatial_prototypes(T, N, C, ((M, 3), (2, 2)), 2), [x], [prototypes, assignments])
    average = reference.cluster_mean(x, assignment, M, None)
    assert_bytes(counts.cluster_mean(T, N, C, M, 2), [x, assignment], [average])
    assert_bytes(counts.cluster_mean_backward(T, N, C, M, 2), [average, assignment], [x])
    queries = tensors((T, Q, C))[0]
    pooled = reference.rods_pool(x, queries, torch.arange(T), None, 1.0)
    assert_bytes(counts.rods_pool(T, N, C, Q, 2, T), [x, queries], [pooled])
    assert_bytes(counts.rods_pool_backward(T, N, C, Q, 2, T), [pooled, x, queries], [x, queries])
    fine, coarse = tensors((2, 5, C), (T, 2, C))
    key_index = torch.tensor([0, 2])
    packed = reference.pack_frame_tokens(fine, coarse, key_index)
    assert_bytes(counts.pack_frame_tokens(T, 2, 5, C, 2), [fine, coarse, key_index], packed)
    assert_bytes(counts.pack_frame_tokens_backward(T, 2, 5, C, 2), [packed[0], key_index], [fine, coarse])
    scores = torch.rand(T, N)
    indicators = reference.perturbed_topk(scores, M, 4, 0.1, torch.tensor(0), None, False)
    assert_bytes(counts.perturbed_topk(T, N, M), [scores], [indicators])
    assert_bytes(counts.perturbed_topk_backward(T, N, M), [indicators, scores], [scores])


def test_the_connector_is_the_sum_of_its_parts() -> None:
    """FLOPs of its linear layers are those that torch counts."""
    settings = ConnectorSettings(num_events=6, pool_size=2, spatial_levels=((4, 3), (2, 2)))
    plan = settings.plan(12)
    parts = counts.connector(settings, plan, (16, 24), (5, 12), 20, 2)
    connector = DynFocusConnector(24, 12, 20, settings)
    with FlopCounterMode(display=False) as counter:
        connector.projectors.cones(torch.randn(plan.num_key_frames, 4, 24), torch.randn(plan.num_key_frames, 6, 24))
        connector.projectors.rods(torch.randn(12, 2, 24))
        connector.rods._queries(torch.randn(1, 5, 12))
    linear = sum(part.flops for name, part in parts.items() if name.startswith(("projector", "queries")))
    assert linear == counter.get_total_flops()
    assert parts["spatial prototypes"] == counts.spatial_prototypes(12, 16, 24, settings.spatial_levels, 2)
    assert parts["packing"].written == plan.num_tokens * 20 * 2 + 13 * 8


A100, H100, H200 = GPUS


@pytest.fixture(scope="module")
def some_lines() -> list[Line]:
    return list(lines((64, 256), 1000))


def test_floors_in_seconds() -> None:
    moving, computing = Cost(0, 10**12, 1039 * 10**9), Cost(312 * 10**12, 0, 0)
    assert A100.floor([moving], "bf16") == A100.floor([computing], "bf16") == pytest.approx(1)
    assert A100.floor([computing], "fp32") == pytest.approx(6)  # three products in tf32, at half the rate of bf16
    assert A100.floor([moving + computing], "bf16") == pytest.approx(1)  # both at once
    assert A100.floor([moving, computing], "bf16") == pytest.approx(2)  # one after the other
    assert A100.is_memory_bound([moving], "bf16") and not A100.is_memory_bound([computing], "bf16")


def test_floors_grow_with_frames_and_fall_with_the_gpu(some_lines: list[Line]) -> None:
    few, many = ([line for line in some_lines if line.frames == frames] for frames in (64, 256))
    assert [line.op for line in few] == [line.op for line in many] and len(few) > 20
    for a, b in zip(few, many, strict=True):
        floors = [gpu.floor(a.parts, a.dtype) for gpu in GPUS]
        assert floors == sorted(floors, reverse=True)
        assert all(gpu.floor(a.parts, a.dtype) < gpu.floor(b.parts, b.dtype) for gpu in GPUS)
    wider = {(line.op, line.frames): line.cost.nbytes for line in some_lines if line.dtype == "fp32"}
    for line in some_lines:
        if line.dtype == "bf16":
            assert line.cost.nbytes < wider[line.op, line.frames] <= 2 * line.cost.nbytes


def test_spatial_clustering_as_in_the_plan(some_lines: list[Line]) -> None:
    """Of 64 frames: 62.5 % of 184.5 MFLOP a frame on the first level, 46 MB of patches and 22 tokens a frame."""
    (line,) = (line for line in some_lines if (line.op, line.frames, line.dtype) == ("spatial_prototypes", 64, "bf16"))
    assert line.cost.flops == pytest.approx(64 * 0.625 * 184.5e6, rel=0.02)
    assert line.cost.nbytes == 64 * (256 + 22) * 1408 * 2 + 64 * (256 + 16) * 8
    assert A100.floor(line.parts, "bf16") == pytest.approx(24.6e-6, rel=0.01)


ROWS: list[dict[str, Any]] = [
    {"name": "device", "device": "NVIDIA H200"},
    {"name": "copy bandwidth", "gb_per_s": 4300.0},
    {"name": "matmul", "dtype": "bf16", "tflops": 790.0},
    {"name": "empty launch in a graph", "median_us": 1.5},
    {"op": "cluster_mean", "shape": "64 x 256 x 1408, 16 clusters", "dtype": "bf16", "contender": "ours",
     "backend": "triton", "chosen": True, "median_us": 20.0, "bytes": 1, "flops": 1},
    {"op": "cluster_mean", "shape": "64 x 256 x 1408, 16 clusters", "dtype": "bf16", "contender": "research",
     "median_us": 2.0},
    {"op": "dpc_knn", "shape": "1 x 64 x 22528", "dtype": "bf16", "median_us": 30.0},
    {"op": "dpc_knn", "shape": "1 x 64 x 22528", "dtype": "fp32"},
    {"name": "connector", "how_run": "one graph", "frames": 64, "median_us": 400.0},
    {"op": "unheard of", "shape": "?", "dtype": "bf16", "median_us": 1.0},
]  # fmt: skip


def write(path: Path, **document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def test_a_run_replaces_the_rates_it_measured(tmp_path: Path) -> None:
    run = load(write(tmp_path / "run.json", rows=ROWS))
    h100, h200 = gpus(run)[1:]
    assert (run.gpu, h100) == ("H200", H100)
    assert h200.bytes_per_s == 4.3e12 and h200.launch_seconds == 1.5e-6
    assert h200.flops_per_s == {"bf16": 790e12, "fp32": H200.flops_per_s["fp32"]}
    assert measured(H200, []) == H200


def test_what_was_measured_stands_beside_its_floor(tmp_path: Path, some_lines: list[Line]) -> None:
    run = load(write(tmp_path / "run.json", rows=ROWS))
    took = {
        (line.op, line.frames, line.dtype): seconds for line in some_lines if (seconds := run.seconds(line)) is not None
    }
    assert took == {
        ("cluster_mean", 64, "bf16"): pytest.approx(20e-6),
        ("dpc_knn of frames, stored", 64, "bf16"): pytest.approx(30e-6),
        ("connector", 64, "bf16"): pytest.approx(400e-6),
    }
    means = next(line for line in some_lines if line.op == "cluster_mean")
    assert row(means, gpus(run), run)[-2:] == ["20.0 µs", f"{means.cost.nbytes / 4.3e12 / 20e-6:.0%}"]
    assert row(means, GPUS, Run())[-2:] == ["–", "–"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"benchmarks": []}, "must be the JSON of a GPU run"),
        ({"rows": ROWS, "rehearsed": True}, "is a rehearsal"),
        ({"rows": ROWS[1:]}, "is of no device, it must be of one of"),
    ],
)
def test_another_json_is_refused_in_one_line(tmp_path: Path, document: dict[str, Any], message: str) -> None:
    with pytest.raises(SystemExit, match=f"benchmarks.roofline: .*{message}"):
        main([str(write(tmp_path / "run.json", **document)), "--out", str(tmp_path)])


@pytest.mark.parametrize("rows", [None, ROWS], ids=["nothing measured", "a run"])
def test_the_page_and_its_plots(
    tmp_path: Path, rows: list[dict[str, Any]] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(write(tmp_path / "run.json", rows=rows))] if rows else []
    main([*given, "--out", str(tmp_path / "docs"), "--frames", "64", "256"])
    text = (tmp_path / "docs" / "roofline.md").read_text()
    assert ("Nothing here was measured on a GPU" in text) is (rows is None)
    assert ("Measured on NVIDIA H200." in text) is (rows is not None)
    for name in ("floors", "intensity"):
        assert f"](roofline-{name}.png)" in text
        assert (tmp_path / "docs" / f"roofline-{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "spatial_prototypes" in capsys.readouterr().out


def test_launches_are_counted_with_those_of_torch(some_lines: list[Line]) -> None:
    def run() -> None:
        x = torch.empty(4, 3, device="meta")
        (x.t() @ x).view(-1)[1:].add_(1)  # one product, one sum

    pytest.importorskip("triton")
    assert launches(run, []) == 2
    x = torch.empty(4, 3, device="meta")
    assert launches(forward_and_backward(lambda x: x * 2, x), []) == 2  # forward and backward
    assert launches(run, ["no such op"]) is None
    for line in some_lines:
        if line.op.split(",")[0] in TRITON_OPS:
            assert line.launches is not None and line.launches > 0


def test_the_levels_are_the_papers() -> None:
    assert LEVELS == ((16, 8), (6, 3))
