"""Where native distances could go wrong: matrix products that cancel, tiles that stream by, ties, overflow.

Up to 1,024 points all distances are kept, beyond that only near neighbours; beyond 32 points and channels they come
from products, mended by differences. test_native_screening has what else happens to many float32 points.
"""

import pytest
import torch
from torch import Tensor

from dynfocus_ops import density_peak_distance, dpc_knn, knn_log_density, nearest_center
from tests.ops.staged import check_dpc_knn
from tests.ops.support import assert_same_bits, threads

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(params=("baseline", "avx2", "avx512", "avx512_bf16"), autouse=True)
def capability(request, monkeypatch, runnable_capabilities) -> None:
    if request.param not in runnable_capabilities:
        pytest.skip(f"this CPU or this build has no {request.param}")
    monkeypatch.setenv("DYNFOCUS_CPU_CAPABILITY", request.param)


def points(kind: str, count: int, channels: int) -> Tensor:
    """[1, count, channels]: what a video's tokens may look like."""
    if kind == "spread":
        return torch.randn(1, count, channels)
    if kind == "far from 0":
        return torch.randn(1, count, channels) + 50 * torch.randn(channels)
    events = torch.randn(1, 7, channels)
    if kind == "tight events":  # |x|^2 / d^2 is 10^6 within an event: the products tell nothing
        return events[:, torch.arange(count) % 7] + 1e-3 * torch.randn(1, count, channels)
    if kind == "one tight event":
        x = torch.randn(1, count, channels)
        x[:, : count // 20] = events[:, :1] + 1e-3 * x[:, : count // 20]
        return x
    assert kind == "duplicates"
    return torch.randn(1, count // 5 + 1, channels)[:, torch.arange(count) % (count // 5 + 1)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["spread", "far from 0", "tight events", "one tight event", "duplicates"])
@pytest.mark.parametrize(("count", "channels"), [(190, 75), (1100, 45)])
def test_each_stage_is_right(count: int, channels: int, kind: str, dtype: torch.dtype) -> None:
    x = points(kind, count, channels).to(dtype)
    check_dpc_knn(x, dpc_knn(x, 20, 6, backend="cpu"), 20, 6)


@pytest.mark.parametrize("count", [190, 1100])
def test_equals_the_reference_with_mask_and_noise(count: int) -> None:
    x = points("far from 0", count, 45)
    mask = torch.rand(1, count) > 0.3
    x[~mask] = torch.nan
    noise = torch.rand(1, count) * 1e-3
    found, expected = (dpc_knn(x, 20, 6, mask=mask, noise=noise, backend=name) for name in ("cpu", "reference"))
    assert torch.equal(found.assignment, expected.assignment)
    assert torch.equal(found.centers, expected.centers)
    torch.testing.assert_close(found.log_density, expected.log_density, rtol=4e-6, atol=0)
    torch.testing.assert_close(found.delta, expected.delta, rtol=4e-6, atol=0)


@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("count", [150, 1100])
def test_ties_of_small_integers_are_ties(count: int, offset: int) -> None:
    """Points on a coarse grid have many equal distances, which float32 must give exactly: then indices decide."""
    x = torch.randint(-2, 3, (1, count, 40)).float() + offset
    found, expected = (dpc_knn(x, 30, 4, distance_scale=1.0, backend=name) for name in ("cpu", "reference"))
    assert_same_bits(found.log_density, expected.log_density)
    assert_same_bits((found.centers, found.assignment), (expected.centers, expected.assignment))
    torch.testing.assert_close(found.delta, expected.delta, rtol=2e-7, atol=0)  # a square root's last bit


@pytest.mark.parametrize("count", [300, 1100])
@pytest.mark.parametrize("kind", ["spread", "one tight event"])
def test_bits_do_not_depend_on_threads(count: int, kind: str) -> None:
    x = points(kind, count, 60)
    results = []
    for number in (1, 2, 5):
        with threads(number):
            results.append(dpc_knn(x, 20, 6, backend="cpu"))
    for other in results[1:]:
        assert_same_bits(tuple(other), tuple(results[0]))


@pytest.mark.parametrize("count", [150, 1100])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_refuses_what_is_not_finite(count: int, bad: float) -> None:
    x = points("spread", count, 40)
    x[0, count - 3, 7] = bad
    with pytest.raises(ValueError, match=rf"x has NaN or infinity at \[0, {count - 3}\]"):
        dpc_knn(x, 5, 3, backend="cpu")


@pytest.mark.parametrize("count", [150, 1100])
def test_refuses_distances_that_overflow(count: int) -> None:
    x = points("spread", count, 40)
    x[0, 5] = 1e19
    for op in (lambda: dpc_knn(x, 5, 3, backend="cpu"), lambda: density_peak_distance(x, x[..., 0], backend="cpu")):
        with pytest.raises(ValueError, match="small enough for squared distances to be finite"):
            op()


@pytest.mark.parametrize("count", [150, 1100])
def test_parts_compose_to_the_whole(count: int) -> None:
    x = points("spread", count, 50)
    whole = dpc_knn(x, 20, 6, backend="cpu")
    log_density = knn_log_density(x, 6, backend="cpu")
    delta, parent = density_peak_distance(x, log_density, backend="cpu")
    assert_same_bits(log_density, whole.log_density)
    assert_same_bits(delta, whole.delta)
    assert_same_bits(nearest_center(x, whole.centers, backend="cpu"), whole.assignment)
    assert torch.equal(parent, density_peak_distance(x, log_density, backend="reference")[1])


@pytest.mark.parametrize(("count", "k"), [(40, 40), (150, 33), (150, 150), (1100, 40)])
def test_many_neighbours(count: int, k: int) -> None:
    x = points("spread", count, 40)
    check_dpc_knn(x, dpc_knn(x, 3, k, backend="cpu"), 3, k)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["spread", "far from 0", "one tight event", "duplicates"])
@pytest.mark.parametrize(("count", "channels"), [(5, 9), (130, 75), (300, 40)])
def test_all_distances(count: int, channels: int, kind: str, dtype: torch.dtype) -> None:
    x = (
        torch.cat([points(kind, count, channels), torch.randn(1, count, channels)])
        .to(dtype)
        .transpose(0, 1)
        .contiguous()
    )
    x = x.transpose(0, 1)
    differences = x.double().unsqueeze(1) - x.double().unsqueeze(2)
    exact = differences.square().mean(-1).sqrt()
    found = torch.ops.dynfocus_native.pairwise_distances(x)
    torch.testing.assert_close(found.double(), exact, rtol=4e-6, atol=0)
    assert_same_bits(found, found.mT.contiguous())
    for number in (1, 2, 5):
        with threads(number):
            assert_same_bits(torch.ops.dynfocus_native.pairwise_distances(x), found)


@pytest.mark.parametrize("point", [3, 6])  # the other one is among those whose middle is looked at
def test_all_distances_show_what_is_not_finite(point: int) -> None:
    x = torch.randn(1, 50, 40) + 30
    x[0, point, 5] = torch.nan
    bad = ~torch.ops.dynfocus_native.pairwise_distances(x)[0].isfinite()
    others = torch.arange(50) != point
    assert bad[point, others].all()
    assert not bad[others][:, others].any()
