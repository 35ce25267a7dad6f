"""Density-peaks clustering in Triton: both plans, splits, poisoned memory, cancellation, what a GPU would be sent."""

from itertools import product

import pytest
import torch
from torch import Tensor

from dynfocus_ops import density_peak_distance, dpc_knn, dpc_knn_varlen, knn_log_density, nearest_center
from dynfocus_ops.backends import TRITON_MOST_NEIGHBORS
from dynfocus_ops.triton import clustering, plans
from dynfocus_ops.triton.dpc_knn import dpc_knn as triton_dpc_knn
from dynfocus_ops.triton.dpc_knn_varlen import dpc_knn_varlen as triton_dpc_knn_varlen
from dynfocus_ops.triton.launch import Launch, record
from dynfocus_ops.triton.samples import Samples
from tests.ops.staged import check_dpc_knn
from tests.ops.support import assert_same_bits, poisoned_memory

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(params=("stored", "streamed"))
def forced_plan(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both plans on points of any number of channels, in small tiles, so that there are several."""
    channels = dict.fromkeys(DTYPES, 1) if request.param == "stored" else dict.fromkeys(DTYPES, 1 << 30)
    monkeypatch.setattr(plans, "STORED_CHANNELS", channels)
    monkeypatch.setattr(plans, "PART_CHANNELS", 20)
    small = plans.Tile(16, 16, 16, 4, 1)

    def plan(samples: Samples, keep_products: bool = True) -> plans.Plan:
        return plans.replace(plans.plan(samples, keep_products), computing=small, reading=small)

    monkeypatch.setattr(clustering, "plan", plan)
    return request.param


def points(kind: str, N: int, C: int) -> Tensor:
    if kind == "spread":
        return torch.randn(1, N, C)
    if kind == "far from 0":  # |x|^2 / d^2 is about 1000
        return torch.randn(1, N, C) + 30 * torch.randn(C).sign()
    assert kind == "duplicates"
    return torch.randn(1, N // 4 + 1, C)[:, torch.arange(N) % (N // 4 + 1)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ("spread", "far from 0", "duplicates"))
def test_each_stage_is_right(forced_plan: str, kind: str, dtype: torch.dtype) -> None:
    x = points(kind, 53, 50).to(dtype)
    mask = torch.arange(53).unsqueeze(0) % 5 != 2
    noise = 1e-3 * torch.rand(1, 53)
    with poisoned_memory():
        result = dpc_knn(x, 6, 5, mask=mask, noise=noise, distance_scale=40.0, backend="triton")
    check_dpc_knn(x, result, 6, 5, mask=mask, noise=noise, distance_scale=40.0)


@pytest.mark.parametrize("N", (15, 16, 17, 48))
def test_numbers_of_points_at_the_edges_of_tiles(forced_plan: str, N: int) -> None:
    x = torch.randn(1, N, 33)
    check_dpc_knn(x, dpc_knn(x, N, 3, backend="triton"), N, 3)


def test_splits_change_no_bit(forced_plan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = points("spread", 70, 24)
    results = []
    for programs in (1, 12, 1024):
        monkeypatch.setattr(clustering, "PROGRAMS", programs)
        results.append(dpc_knn(x, 7, 6, backend="triton"))
    for other in results[1:]:
        assert_same_bits(other, results[0])
    check_dpc_knn(x, results[0], 7, 6)


def test_parts_compose_to_the_whole(forced_plan: str) -> None:
    x, mask = points("far from 0", 40, 20), torch.arange(40).unsqueeze(0) % 7 != 3
    whole = dpc_knn(x, 6, 4, mask=mask, backend="triton")
    log_density = knn_log_density(x, 4, mask=mask, backend="triton")
    delta, parent = density_peak_distance(x, log_density, mask=mask, backend="triton")
    assert_same_bits(log_density, whole.log_density)
    torch.testing.assert_close(delta, whole.delta, rtol=1e-6, atol=0)
    assert_same_bits(nearest_center(x, whole.centers, mask=mask, backend="triton"), whole.assignment)
    expected = density_peak_distance(x.double(), log_density.double(), mask=mask, backend="reference")
    assert torch.equal(parent, expected[1])


def test_as_many_samples_at_a_time_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    x, mask, noise = torch.randn(5, 20, 64), torch.rand(5, 20) > 0.2, torch.rand(5, 20)
    expected = dpc_knn(x, 4, 3, mask=mask, noise=noise, backend="triton")
    monkeypatch.setattr(plans, "WORKSPACE", 2 * 20 * 20 * 4)
    assert plans.samples_at_once(plans.plan(Samples(x)), 20) == 2
    assert_same_bits(dpc_knn(x, 4, 3, mask=mask, noise=noise, backend="triton"), expected)


def test_any_strides() -> None:
    x = torch.randn(2, 19, 70)
    expected = dpc_knn(x, 4, 3, backend="triton")
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        back = tuple(order.index(d) for d in range(3))
        strided = torch.full((*x.permute(order).shape, 2), torch.nan)
        strided[..., 1] = x.permute(order)
        assert_same_bits(dpc_knn(strided[..., 1].permute(back), 4, 3, backend="triton"), expected)


def test_ragged_bounds_out_of_contract_read_nothing_out_of_range() -> None:
    """On a GPU nobody looks at cu_seqlens: rows there are none of are left out."""
    x = torch.randn(20, 5)
    wild = torch.tensor([-3, 9, 4, 50, 20])
    triton_dpc_knn_varlen(x, wild, [2], [2], None, 5.0, None, max_seqlen=12)


def test_too_many_neighbours_are_refused_by_name_only() -> None:
    x = torch.randn(1, 70, 4)
    most = TRITON_MOST_NEIGHBORS
    assert plans.plan(Samples(x)).scanning(64).rows and clustering.triton.next_power_of_2(most + clustering.MORE) == 64
    check_dpc_knn(x, dpc_knn(x, 3, most, backend="triton"), 3, most)
    with pytest.raises(RuntimeError, match=rf"k is {most + 1}, the Triton kernels keep at most {most} neighbours"):
        dpc_knn(x, 3, most + 1, backend="triton")
    check_dpc_knn(x, dpc_knn(x, 3, most + 1), 3, most + 1)


PRODUCTION = [(1, 1000, 22528), (1, 3600, 22528), (1, 36000, 1408), (8, 784, 320), (1, 3136, 128)]


def recorded(shape: tuple[int, ...], dtype: torch.dtype, capability: int) -> list[Launch]:
    x = torch.empty(shape, dtype=dtype, device="meta")
    with record(capability) as launches:
        assignment, centers, log_density, delta = triton_dpc_knn(x, 64, 8, None, 1.0, None)
    assert assignment.shape == log_density.shape == delta.shape == shape[:2] and centers.shape == (shape[0], 64)
    return launches


@pytest.mark.parametrize(("shape", "dtype", "capability"), product(PRODUCTION, DTYPES[:2], (80, 90)))
def test_what_a_gpu_would_be_sent(shape: tuple[int, ...], dtype: torch.dtype, capability: int) -> None:
    B, N, C = shape
    launches = recorded(shape, dtype, capability)
    kernels = [launch.kernel.__name__ for launch in launches]
    lists = ["scan_kernel", "merge_kernel", "exact_kernel"]
    stages = [
        "norms_kernel", *lists, "log_density_kernel", "peaks_kernel", *lists, "farthest_kernel",
        "exact_farthest_kernel", "delta_kernel", "centers_kernel", *lists, "assignment_kernel",
    ]  # fmt: skip
    stored = N <= 8192 and (C >= 256 or dtype == torch.float32)
    assert kernels == ["gram_kernel"] * stored + stages
    workspace = max(argument.nbytes for launch in launches for argument in launch.arguments[9:] if is_tensor(argument))
    assert workspace <= (256 << 20 if stored else 64 * B * N * 16)
    assert all(launch.grid[0] < 2**31 and all(size < 2**16 for size in launch.grid[1:]) for launch in launches)


def is_tensor(argument: object) -> bool:
    return isinstance(argument, Tensor)


def test_ragged_segments_are_recorded_without_looking_at_their_bounds() -> None:
    x, bounds = torch.empty(900, 64, device="meta"), torch.empty(11, dtype=torch.int64, device="meta")
    with record(90) as launches:
        results = triton_dpc_knn_varlen(x, bounds, [5], [3], None, 1.0, None, max_seqlen=200)
    assert len(launches) > 10 and results[1].shape == (50,)
    public = dpc_knn_varlen(torch.randn(30, 4), torch.tensor([0, 12, 30]), [2, 5], 3, max_seqlen=20, backend="triton")
    assert public.cu_clusters.tolist() == [0, 2, 7]
