"""torch.ops.dynfocus_native.dpc_knn against a float64 oracle, on every instruction set this CPU runs."""

import pytest
import torch
from torch import Tensor

from tests.native import oracle

CAPABILITIES = ("baseline", "avx2", "avx512", "avx512_bf16")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = [  # B, N, C, num_clusters, k: odd ones, more and less than a tile of 128 x 64 points and 64 channels
    (2, 1, 3, 1, 1),
    (3, 5, 1, 2, 3),
    (2, 37, 5, 4, 3),
    (2, 130, 64, 70, 8),
    (1, 200, 131, 16, 5),
]


def dpc_knn(x, num_clusters, k, mask=None, scale=None, noise=None):
    scale = float(x.shape[-1]) if scale is None else scale
    return torch.ops.dynfocus_native.dpc_knn(x, num_clusters, k, mask, scale, noise)


@pytest.fixture(params=CAPABILITIES)
def capability(request, monkeypatch, runnable_capabilities) -> str:
    if request.param not in runnable_capabilities:
        pytest.skip(f"this CPU or this build has no {request.param}")
    monkeypatch.setenv("DYNFOCUS_CPU_CAPABILITY", request.param)
    return request.param


def assert_equals_oracle(x, num_clusters, k, mask, noise, found) -> None:
    """Discrete results equal, the others to a few float32 roundings. No near-ties: k >= 3 and random points."""
    assignment, centers, log_density, delta = found
    for b in range(len(x)):
        valid = torch.arange(x.shape[1]) if mask is None else mask[b].nonzero().squeeze(1)
        noise_b = None if noise is None else noise[b, valid]
        expected = oracle.dpc_knn(x[b, valid], num_clusters, k, x.shape[-1], noise_b)
        torch.testing.assert_close(log_density[b, valid].double(), expected[2], rtol=2e-6, atol=1e-7)
        torch.testing.assert_close(delta[b, valid].double(), expected[3], rtol=2e-6, atol=1e-7)
        assert torch.equal(centers[b], valid[expected[1]])
        assert torch.equal(assignment[b, valid], expected[0])
        masked = torch.ones(x.shape[1], dtype=torch.bool).index_fill(0, valid, False)
        assert (assignment[b, masked] == -1).all()
        assert (log_density[b, masked] == -torch.inf).all()
        assert (delta[b, masked] == 0).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_oracle(capability: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    b, n, c, num_clusters, k = shape
    x = (torch.randn(b, n, c) + 3).to(dtype)
    assert_equals_oracle(x, num_clusters, k, None, None, dpc_knn(x, num_clusters, k))


def test_mask_and_noise(capability: str) -> None:
    x = torch.randn(3, 90, 33)
    mask = torch.rand(3, 90) > 0.4
    noise = torch.rand(3, 90) * 0.1
    x[~mask] = torch.nan  # whatever masked points hold must reach nothing
    assert_equals_oracle(x, 7, 4, mask, noise, dpc_knn(x, 7, 4, mask, noise=noise))


def test_masked_points_change_no_bit() -> None:
    x = torch.randn(1, 150, 20)
    mask = torch.rand(1, 150) > 0.5
    with_mask = dpc_knn(x, 5, 3, mask)
    alone = dpc_knn(x[:, mask[0]], 5, 3)
    assert torch.equal(with_mask[0][mask], alone[0][0])
    assert torch.equal(with_mask[1][0], mask[0].nonzero().squeeze(1)[alone[1][0]])
    assert torch.equal(with_mask[2][mask], alone[2][0])
    assert torch.equal(with_mask[3][mask], alone[3][0])


def test_no_noise_changes_no_bit() -> None:
    x = torch.randn(2, 40, 9)
    for found, expected in zip(dpc_knn(x, 4, 3, noise=torch.zeros(2, 40)), dpc_knn(x, 4, 3), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("spread", [0.05, 1, 10, 40])
@pytest.mark.parametrize("largest", [1e-12, 1e-6, 1e-3, 0.1])
def test_noise_costs_no_more_than_the_last_rounding(spread: float, largest: float) -> None:
    x, noise = spread * torch.randn(2, 200, 9), largest * torch.rand(2, 200)
    plain = dpc_knn(x, 4, 5)[2].double()
    expected = torch.logaddexp(plain, noise.double().log())  # near 0, where the two nearly cancel
    torch.testing.assert_close(dpc_knn(x, 4, 5, noise=noise)[2].double(), expected, rtol=2**-23, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strides(capability: str, dtype: torch.dtype) -> None:
    x = torch.randn(2, 70, 67).to(dtype)
    strided = torch.empty(67, 2, 140, dtype=dtype).permute(1, 2, 0)[:, ::2]
    strided.copy_(x)
    for found, expected in zip(dpc_knn(strided, 5, 4), dpc_knn(x, 5, 4), strict=True):
        assert torch.equal(found, expected)


def test_duplicates_tie_by_index(capability: str) -> None:
    # Three copies of one point and a far one: the copies have log rho 0, the first of them is the densest.
    x = torch.tensor([[[9.0], [1.0], [1.0], [1.0]]])
    assignment, centers, log_density, delta = dpc_knn(x, 3, 2, scale=1.0)
    assert log_density.tolist() == [[-32.0, 0.0, 0.0, 0.0]]
    assert delta.tolist() == [[8.0, 8.0, 0.0, 0.0]]
    assert centers.tolist() == [[1, 0, 2]]  # then score -inf: lower index first
    assert assignment.tolist() == [[1, 0, 2, 0]]  # centre 2 joins itself, point 3 the earlier of two equal centres


def test_large_offset_keeps_neighbours(capability: str) -> None:
    """||x||^2 / d^2 is about 1e6: ||x||^2 + ||y||^2 - 2 x.y would lose every digit."""
    x = torch.randn(1, 100, 16) + 1000
    assert_equals_oracle(x, 6, 4, None, None, dpc_knn(x, 6, 4))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("k", [1, 3])
def test_non_finite_shows_in_log_density(capability: str, bad: float, k: int) -> None:
    x = torch.randn(2, 140, 70)
    x[1, 77, 5] = bad
    log_density = dpc_knn(x, 4, k)[2]
    assert log_density[0].isfinite().all()
    assert log_density[1, 77].isnan()


def test_half_precision_is_read_exactly(capability: str) -> None:
    """The distance of finite float16 to 0, subnormals among them, is what it is in float64."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    values = bits.view(torch.float16)
    values = values[values.isfinite()][::31]
    x = torch.zeros(len(values), 2, 9, dtype=torch.float16)
    x[:, 1] = values[:, None]
    log_density = dpc_knn(x, 1, 2, scale=9.0)[2]
    squared = values.double().square() / 2
    torch.testing.assert_close(-log_density[:, 0].double(), squared, rtol=1e-6, atol=1e-45)


def test_flushing_of_subnormals_loses_no_bfloat16(capability: str) -> None:
    """Two bfloat16s packed in a float's place look subnormal where the second is 0."""
    x = torch.randn(1, 70, 40).bfloat16()
    x[..., 1::2] = 0
    expected = dpc_knn(x, 4, 3)
    assert torch.set_flush_denormal(True)
    try:
        found = dpc_knn(x, 4, 3)
    finally:
        torch.set_flush_denormal(False)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_bitwise_repeatable_on_any_threads(capability: str) -> None:
    x = torch.randn(3, 300, 40)
    mask = torch.rand(3, 300) > 0.2
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(dpc_knn(x, 9, 5, mask))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for found, expected in zip(other, results[0], strict=True):
            assert torch.equal(found, expected)


def test_batch_mates_change_no_bit(capability: str) -> None:
    x = torch.randn(4, 150, 30)
    together = dpc_knn(x, 6, 4)
    for b in range(4):
        for found, expected in zip(dpc_knn(x[b : b + 1], 6, 4), together, strict=True):
            assert torch.equal(found[0], expected[b])


def test_empty_batch() -> None:
    assignment, centers, log_density, delta = dpc_knn(torch.empty(0, 4, 2), 2, 1)
    assert assignment.shape == log_density.shape == delta.shape == (0, 4)
    assert centers.shape == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_clusters": 5, "k": 1}, "num_clusters=5"),
        ({"num_clusters": 1, "k": 5}, "k=5"),
        ({"num_clusters": 2, "k": 2, "mask": torch.tensor([[True, False, False, False]])}, "sample 0 has 1 valid"),
        ({"num_clusters": 0, "k": 1}, "at least 1"),
        ({"num_clusters": 1, "k": 1, "scale": 0.0}, "distance_scale"),
        ({"num_clusters": 1, "k": 1, "noise": torch.zeros(1, 3)}, "noise"),
    ],
)
def test_refuses(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        dpc_knn(torch.randn(1, 4, 3), **arguments)


def test_refuses_float64() -> None:
    with pytest.raises(RuntimeError, match="float32, bfloat16 or float16"):
        dpc_knn(torch.randn(1, 4, 3, dtype=torch.float64), 1, 1)


def test_refuses_an_unknown_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNFOCUS_CPU_CAPABILITY", "avx3")
    with pytest.raises(RuntimeError, match=r"DYNFOCUS_CPU_CAPABILITY is 'avx3'.*baseline"):
        dpc_knn(torch.randn(1, 4, 3), 1, 1)


def test_memory_stays_linear() -> None:
    """20,000 points: N x N float32 would be 1.6 GB; the process may grow by 64 MB."""
    import resource

    x = torch.randn(1, 20_000, 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assignment: Tensor = dpc_knn(x, 4, 5)[0]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert assignment.unique().numel() == 4
    assert grown < 64 * 1024, f"peak memory grew by {grown} KiB"
