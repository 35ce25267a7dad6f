"""Density-peaks clustering: in stages against float64, against plain Python loops, against the research code."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dynfocus_ops import density_peak_distance, dpc_knn, knn_log_density, nearest_center, reference, use_backend
from dynfocus_ops.ops.dpc_knn import dpc_knn_eagerly
from dynfocus_ops.reference.dpc_knn import BLOCK, rows_per_block

from .staged import check_dpc_knn
from .support import LargestTensor, assert_same_bits, backends, golden

every_backend = pytest.mark.parametrize("backend", backends("dpc_knn"))

SHAPES = [  # B, N, C, num_clusters, k
    (1, 1, 1, 1, 1),
    (2, 2, 1, 2, 2),
    (1, 3, 2, 1, 1),
    (2, 17, 5, 4, 3),
    (3, 33, 64, 33, 33),
    (2, 65, 7, 6, 1),
    (1, 130, 96, 16, 8),
    (1, 257, 31, 10, 5),
    (1, 70, 1408, 16, 8),
]


def plain(x: list, num_clusters: int, k: int, mask: list, scale: float):
    """dpc_knn of one sample as a definition: loops over Python floats, ties by comparing (value, index)."""
    valid = [i for i in range(len(x)) if mask[i]]
    d2 = {(i, j): sum((a - b) ** 2 for a, b in zip(x[i], x[j], strict=True)) / scale for i in valid for j in valid}
    log_rho = {i: -sum(sorted(d2[i, j] for j in valid)[:k]) / k for i in valid}
    order = sorted(valid, key=lambda i: (-log_rho[i], i))
    delta = {order[0]: math.sqrt(max(d2.values()))}
    parent = {order[0]: order[0]}
    for place, i in enumerate(order[1:], 1):
        squared, parent[i] = min((d2[i, j], j) for j in order[:place])
        delta[i] = math.sqrt(squared)
    score = {i: log_rho[i] + math.log(delta[i]) if delta[i] > 0 else -math.inf for i in valid}
    centers = sorted(valid, key=lambda i: (-score[i], i))[:num_clusters]
    assignment = [-1] * len(x)
    for i in valid:
        assignment[i] = centers.index(i) if i in centers else min((d2[i, c], m) for m, c in enumerate(centers))[1]
    return assignment, centers, log_rho, delta, parent


@every_backend
@pytest.mark.parametrize("seed", range(20))
def test_ties_as_in_the_definition(backend: str, seed: int) -> None:
    """Points on a small grid: many ties of each kind, and exact arithmetic but for roots and logarithms."""
    generator = torch.Generator().manual_seed(seed)
    N, C, num_clusters, k = 4 + seed, 1 + seed % 3, 1 + seed % 4, (1, 2, 4)[seed % 3]
    x = torch.randint(0, 4, (1, N, C), generator=generator).float()
    mask = torch.rand(1, N, generator=generator) > 0.2
    mask[:, :4] = True
    result = dpc_knn(x, num_clusters, k, mask=mask, distance_scale=4.0, backend=backend)
    assignment, centers, log_rho, delta, parent = plain(x[0].tolist(), num_clusters, k, mask[0].tolist(), 4.0)
    assert result.centers[0].tolist() == centers
    assert result.assignment[0].tolist() == assignment
    valid = mask[0].nonzero().flatten().tolist()
    for i in valid:
        assert result.log_density[0, i].item() == pytest.approx(log_rho[i], rel=1e-6)
        assert result.delta[0, i].item() == pytest.approx(delta[i], rel=1e-6)
    _, parents = density_peak_distance(x, result.log_density, mask=mask, distance_scale=4.0)
    assert parents[0].tolist() == [parent.get(i, -1) for i in range(N)]


@every_backend
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_in_stages(backend: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    B, N, C, num_clusters, k = shape
    x = torch.randn(B, N, C).to(dtype)
    check_dpc_knn(x, dpc_knn(x, num_clusters, k, backend=backend), num_clusters, k)


@every_backend
@pytest.mark.parametrize("offset", [0.0, 30.0])  # far from the origin: |x|^2 / d^2 is about 900
@pytest.mark.parametrize("spread", [1.0, 0.01])  # near-duplicates: eight heaps
def test_in_stages_where_cancellation_would_hurt(backend: str, offset: float, spread: float) -> None:
    x = torch.randn(2, 8, 48).repeat_interleave(12, 1) + spread * torch.randn(2, 96, 48) + offset
    check_dpc_knn(x, dpc_knn(x, 8, 5, backend=backend), 8, 5)


@every_backend
@pytest.mark.parametrize("duplicates", [2, 5])
def test_in_stages_with_duplicates_masks_and_noise(backend: str, duplicates: int) -> None:
    x = torch.randn(3, 12, 9).repeat(1, duplicates, 1)
    mask = torch.rand(3, 12 * duplicates) > 0.3
    mask[:, :10] = True
    noise = torch.rand(3, 12 * duplicates) * 1e-6
    for extra in ({}, {"mask": mask}, {"noise": noise}, {"mask": mask, "noise": noise, "distance_scale": 2.5}):
        check_dpc_knn(x, dpc_knn(x, 10, 4, backend=backend, **extra), 10, 4, **extra)


@every_backend
def test_every_valid_point_a_center(backend: str) -> None:
    """Duplicates among the centres, each of which joins itself, and scores of -inf, as masked-out points have."""
    x = torch.randn(2, 6, 3).repeat(1, 4, 1)
    mask = torch.arange(24).expand(2, 24) >= 7
    result = dpc_knn(x, 17, 3, mask=mask, backend=backend)
    check_dpc_knn(x, result, 17, 3, mask=mask)
    for b in range(2):
        assert sorted(result.centers[b].tolist()) == list(range(7, 24))
        assert result.assignment[b, result.centers[b]].tolist() == list(range(17))


@every_backend
def test_equals_float64_where_nothing_is_nearly_tied(backend: str) -> None:
    x = torch.randn(8, 120, 64)
    result, exact = dpc_knn(x, 12, 5, backend=backend), dpc_knn(x.double(), 12, 5, backend="reference")
    assert exact.delta.dtype == torch.float64
    assert torch.equal(result.centers, exact.centers)
    assert torch.equal(result.assignment, exact.assignment)
    check_dpc_knn(x.double(), exact, 12, 5)


@every_backend
@pytest.mark.parametrize("name", ["dpc_knn_small", "dpc_knn_odd", "dpc_knn_frame", "dpc_knn_masked"])
def test_golden_assignment(backend: str, name: str) -> None:
    tensors, metadata = golden(name)
    mask = tensors["token_mask"].bool() if "token_mask" in tensors else None
    num_clusters, k = int(metadata["num_clusters"]), int(metadata["k"])
    result = dpc_knn(tensors["x"], num_clusters, k, mask=mask, backend=backend)
    expected = tensors["assignment"].long()
    if mask is not None:
        expected = expected.masked_fill(~mask, -1)
    assert torch.equal(result.assignment, expected)


@every_backend
def test_masked_out_points_change_no_bit(backend: str) -> None:
    """Whatever they hold, NaN included, and compared with not being there at all."""
    x = torch.randn(2, 50, 6)
    mask = torch.ones(2, 50, dtype=torch.bool)
    mask[:, ::3] = False
    expected = dpc_knn(x[mask].view(2, -1, 6), 5, 4, backend=backend)
    for value in (0.0, 1e30, torch.nan, torch.inf):
        result = dpc_knn(x.masked_fill(~mask.unsqueeze(-1), value), 5, 4, mask=mask, backend=backend)
        kept = mask[0].nonzero().flatten()
        assert_same_bits(kept[expected.centers], result.centers)
        assert_same_bits(result.assignment[mask].view(2, -1), expected.assignment)
        assert_same_bits(result.log_density[mask].view(2, -1), expected.log_density)
        assert_same_bits(result.delta[mask].view(2, -1), expected.delta)


@every_backend
def test_other_samples_change_no_bit(backend: str) -> None:
    x = torch.randn(4, 60, 20)
    mask = torch.rand(4, 60) > 0.2
    expected = dpc_knn(x, 6, 5, mask=mask, backend=backend)
    x[1:] = 1e4 * torch.randn(3, 60, 20)
    mask[1:] = True
    result = dpc_knn(x, 6, 5, mask=mask, backend=backend)
    assert_same_bits([part[0] for part in result], [part[0] for part in expected])


@every_backend
def test_noise_is_added_to_the_density(backend: str) -> None:
    x = torch.randn(2, 30, 4)
    noise = torch.rand(2, 30)
    plain_density = dpc_knn(x, 3, 5, backend=backend).log_density
    noisy = dpc_knn(x, 3, 5, noise=noise, backend=backend).log_density
    torch.testing.assert_close(noisy.exp(), plain_density.exp() + noise)
    assert_same_bits(dpc_knn(x, 3, 5, noise=torch.zeros(2, 30), backend=backend).log_density, plain_density)


@every_backend
def test_noise_decides_where_the_density_underflows(backend: str) -> None:
    x = 1e3 * torch.randn(1, 20, 4)  # exp(log rho) is 0 in any precision
    noise = torch.rand(1, 20)
    torch.testing.assert_close(dpc_knn(x, 3, 5, noise=noise, backend=backend).log_density, noise.log())


def test_parts_make_the_whole() -> None:
    x, mask = torch.randn(2, 40, 8), torch.rand(2, 40) > 0.2
    noise = torch.rand(2, 40) * 1e-4
    with use_backend("reference"):
        whole = dpc_knn(x, 5, 4, mask=mask, noise=noise, distance_scale=3.0)
        log_density = knn_log_density(x, 4, mask=mask, noise=noise, distance_scale=3.0)
        delta, _ = density_peak_distance(x, log_density, mask=mask, distance_scale=3.0)
        assignment = nearest_center(x, whole.centers, mask=mask)
    assert_same_bits((log_density, delta, assignment), (whole.log_density, whole.delta, whole.assignment))


def test_the_reference_holds_a_few_rows_of_distances_at_a_time() -> None:
    x = torch.randn(1, 1200, 8)
    with LargestTensor() as largest:
        reference.dpc_knn(x, 10, 5, None, 8.0, None)
    assert x.numel() <= largest.numbers <= BLOCK < 1200 * 1200


def test_blocks_are_large_where_each_is_a_launch() -> None:
    frame = torch.empty(256, 1408, device="meta")
    assert 256 / rows_per_block(frame) <= 2
    assert rows_per_block(frame) * frame.nbytes <= 256 << 20


@every_backend
def test_outputs_are_not_differentiable(backend: str) -> None:
    result = dpc_knn(torch.randn(1, 9, 3, requires_grad=True), 2, 3, backend=backend)
    assert not any(part.requires_grad for part in result)


@every_backend
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("k", [1, 4])
def test_refuses_points_that_are_not_finite(backend: str, value: float, k: int) -> None:
    x = torch.randn(2, 10, 3)
    x[1, 7, 2] = value
    with pytest.raises(ValueError, match=r"x has NaN or infinity at \[1, 7\], it must be finite"):
        dpc_knn(x, 2, k, backend=backend)


@every_backend
def test_refuses_distances_that_overflow(backend: str) -> None:
    with pytest.raises(ValueError, match=r"x has values up to 1\.\d*e\+20, it must be small enough"):
        dpc_knn(torch.tensor([[[0.0], [1.5e20], [3.0]]]), 2, 3, backend=backend)


@every_backend
@pytest.mark.parametrize("noise", [None, torch.full((1, 3), 0.5)])
def test_refuses_distances_that_overflow_between_far_points(backend: str, noise: torch.Tensor | None) -> None:
    """Nobody's neighbours: only delta shows it."""
    x = torch.tensor([[[0.0], [1.0], [3e20]]])
    with pytest.raises(ValueError, match=r"x has values up to [23]\.\d*e\+20, it must be small enough"):
        dpc_knn(x, 2, 1, noise=noise, backend=backend)
    masked = dpc_knn(x, 1, 1, mask=torch.tensor([[True, True, False]]), backend=backend)
    assert masked.delta.tolist() == [[1, 1, 0]]


@every_backend
def test_noise_in_float64_is_computed_with_in_float64(backend: str) -> None:
    x, noise = 20 * torch.randn(1, 30, 4), 1e-60 * torch.rand(1, 30, dtype=torch.float64)  # 0 in float32
    if backend == "cpu":
        with pytest.raises(RuntimeError, match=r"float64, the native CPU kernels take"):
            dpc_knn(x, 3, 5, noise=noise, backend=backend)
        return
    exact = dpc_knn(x.double(), 3, 5, noise=noise)
    assert_same_bits(dpc_knn(x, 3, 5, noise=noise), exact)
    assert_same_bits(knn_log_density(x, 5, noise=noise), exact.log_density)


@every_backend
def test_noise_of_masked_out_points_does_not_matter(backend: str) -> None:
    x, noise, mask = torch.randn(1, 9, 3), torch.rand(1, 9), torch.arange(9).view(1, -1) < 6
    expected = dpc_knn(x, 2, 3, mask=mask, noise=noise, backend=backend)
    for value in (torch.nan, torch.inf, -1.0):
        result = dpc_knn(x, 2, 3, mask=mask, noise=noise.masked_fill(~mask, value), backend=backend)
        assert_same_bits(result, expected)


X = torch.zeros(2, 10, 3)


@every_backend
@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (TypeError, "x is a list, it must be a tensor", {"x": [[1.0]]}),
        (ValueError, r"x has shape \[10, 3\], it must be \[B, N, C\]", {"x": X[0]}),
        (ValueError, r"x has shape \[2, 0, 3\], no dimension may be 0", {"x": X[:, :0]}),
        (TypeError, "x is torch.int64, it must be torch.float32 or", {"x": X.long()}),
        (ValueError, "num_clusters is 0, it must be at least 1", {"num_clusters": 0}),
        (ValueError, "num_clusters is 11, it must be at most 10, the number of points", {"num_clusters": 11}),
        (TypeError, "num_clusters is a float, it must be an int", {"num_clusters": 2.0}),
        (ValueError, "k is 11, it must be at most 10", {"k": 11}),
        (TypeError, "mask is torch.float32, it must be torch.bool", {"mask": torch.ones(2, 10)}),
        (ValueError, r"mask has shape \[10\], it must be \[B, N\]", {"mask": torch.ones(10).bool()}),
        (ValueError, r"mask has shape \[1, 10\], it must be \[B, N\] of x = \[2, 10\]", {"mask": X[:1, :, 0] == 0}),
        (
            ValueError,
            r"k is 3, .* number of valid points, here 2",
            {"k": 3, "num_clusters": 1, "mask": torch.arange(10).expand(2, 10) < 2},
        ),
        (
            ValueError,
            r"num_clusters is 3, .* number of valid points, here 2",
            {"mask": torch.arange(10).expand(2, 10) < 2},
        ),
        (ValueError, "distance_scale is 0, it must be a positive number", {"distance_scale": 0}),
        (TypeError, "distance_scale is a str", {"distance_scale": "1"}),
        (ValueError, r"noise is -1.0 at \[0, 0\], it must be finite and at least 0", {"noise": -torch.ones(2, 10)}),
        (ValueError, r"noise is nan at \[0, 0\]", {"noise": torch.full((2, 10), torch.nan)}),
        (ValueError, r"noise is inf at \[0, 0\]", {"noise": torch.full((2, 10), torch.inf)}),
        (ValueError, "mask is on meta, it must be on the device of x, cpu", {"mask": (X[..., 0] == 0).to("meta")}),
    ],
)
def test_errors_name_the_argument(backend: str, error: type, message: str, arguments: dict) -> None:
    with pytest.raises(error, match=message):
        dpc_knn(**{"x": X, "num_clusters": 3, "k": 2, "backend": backend, **arguments})


def test_parts_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"log_density has shape \[2, 9\], it must be \[B, N\] of x = \[2, 10\]"):
        density_peak_distance(X, torch.zeros(2, 9))
    with pytest.raises(ValueError, match=r"centers has values from 0 to 10, they must be in \[0, 10\)"):
        nearest_center(X, torch.tensor([[0, 1], [2, 10]]))
    with pytest.raises(TypeError, match=r"centers is torch\.int32, it must be torch\.int64"):
        nearest_center(X, torch.zeros(2, 2, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"centers has shape \[1, 2\], it must be \[B, M\] with B of x"):
        nearest_center(X, torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="k is 11"):
        knn_log_density(X, 11)
    with pytest.raises(ValueError, match=r"noise is inf at \[0, 0\]"):
        knn_log_density(X, 2, noise=torch.full((2, 10), torch.inf))


CENTERS = torch.tensor([[0, 1], [2, 3]])
PARTS = {
    "knn_log_density": lambda x, mask=None: knn_log_density(x, 2, mask=mask),
    "density_peak_distance": lambda x, mask=None: density_peak_distance(x, torch.zeros(2, 10), mask=mask)[0],
    "nearest_center": lambda x, mask=None: nearest_center(x, CENTERS, mask=mask),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_parts_refuse_points_that_are_not_finite(part: str, value: float) -> None:
    x, mask = torch.randn(2, 10, 3), torch.ones(2, 10, dtype=torch.bool)
    mask[1, 7] = False
    expected = PARTS[part](x, mask)
    x[1, 7, 2] = value
    with pytest.raises(ValueError, match=r"x has NaN or infinity at \[1, 7\], it must be finite"):
        PARTS[part](x)
    assert_same_bits(PARTS[part](x, mask), expected)


def test_density_peak_distance_refuses_distances_that_overflow() -> None:
    with pytest.raises(ValueError, match=r"x has values up to [23]\.\d*e\+20, it must be small enough"):
        density_peak_distance(torch.tensor([[[0.0], [1.0], [3e20]]]), torch.zeros(1, 3))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_density_peak_distance_refuses_a_log_density_that_is_not_finite(value: float) -> None:
    x, log_density, mask = torch.randn(2, 10, 3), torch.randn(2, 10), torch.ones(2, 10, dtype=torch.bool)
    mask[1, 7] = False
    expected = density_peak_distance(x, log_density, mask=mask)
    log_density[1, 7] = value
    with pytest.raises(ValueError, match=r"log_density has NaN or infinity at \[1, 7\], it must be finite"):
        density_peak_distance(x, log_density)
    assert_same_bits(density_peak_distance(x, log_density, mask=mask), expected)


def test_nearest_center_refuses_centers_that_are_none() -> None:
    with pytest.raises(ValueError, match=r"centers has values from -1 to 3, they must be in \[0, 10\)"):
        nearest_center(X, torch.tensor([[0, -1], [2, 3]]))
    with pytest.raises(ValueError, match=r"centers is \[3, 2, 3\] in row 1, it must not repeat a point"):
        nearest_center(X, torch.tensor([[0, 1, 2], [3, 2, 3]]))
    mask = torch.arange(10).expand(2, 10) < 3
    with pytest.raises(ValueError, match=r"centers is \[2, 3\] in row 1, it must not name points that mask leaves out"):
        nearest_center(X, CENTERS, mask=mask)


def test_called_past_the_dispatcher_it_is_the_op_where_something_traces():
    def centers(x):
        return dpc_knn_eagerly(x, 4, 3, backend="reference").centers

    x = torch.randn(2, 30, 16)
    expected = dpc_knn(x, 4, 3, backend="reference").centers
    assert_same_bits(centers(x), expected)
    assert_same_bits(torch.compile(centers, backend="eager", fullgraph=True)(x), expected)
    with FakeTensorMode():
        assert centers(torch.empty(2, 30, 16)).shape == (2, 4)
