"""Where the CPU multiplies bytes, float32 samples are screened: bytes bound the distances, few are computed.

Those come from differences, all others of a sample from products; so the same points, clustered by the instruction set
without such a multiplication, tell by their last bits whether they were screened.
"""

import pytest
import torch
from torch import Tensor

from dynfocus_ops import density_peak_distance, dpc_knn, knn_log_density, nearest_center
from dynfocus_ops.ops.dpc_knn import DPCKNN
from tests.ops.staged import check_dpc_knn
from tests.ops.support import assert_same_bits, threads


@pytest.fixture(autouse=True)
def needs_bytes(runnable_capabilities, monkeypatch) -> None:
    if "avx512_bf16" not in runnable_capabilities:
        pytest.skip("this CPU or this build multiplies no bytes")
    monkeypatch.setenv("DYNFOCUS_CPU_CAPABILITY", "avx512_bf16")


def clustered(x: Tensor, num_clusters: int, k: int, monkeypatch: pytest.MonkeyPatch, **other) -> tuple[DPCKNN, bool]:
    """The result, and whether x was screened."""
    found = dpc_knn(x, num_clusters, k, backend="cpu", **other)
    monkeypatch.setenv("DYNFOCUS_CPU_CAPABILITY", "avx512")
    unscreened = dpc_knn(x, num_clusters, k, backend="cpu", **other)
    monkeypatch.setenv("DYNFOCUS_CPU_CAPABILITY", "avx512_bf16")
    return found, not torch.equal(found.log_density, unscreened.log_density)


def points(kind: str, count: int, channels: int) -> Tensor:
    """[1, count, channels]: what may be hard to round to bytes."""
    x = torch.randn(1, 40, channels)[:, torch.arange(count) % 40] + 0.4 * torch.randn(1, count, channels)
    if kind == "far from 0":
        x += 30 * torch.randn(channels)
    elif kind == "one large channel":  # the step of the bytes is that channel's
        x[..., 3] *= 50
    elif kind == "one large token":
        x[:, count // 2] *= 1000
    elif kind == "large last token":
        x[:, -1] *= 1000
    elif kind == "any length":
        x *= torch.randn(1, count, 1).exp()
    elif kind == "duplicates":
        x[:, count // 2 :] = x[:, : count - count // 2]
    elif kind == "few values":
        x = small_integers(count, channels)
    elif kind == "signs":  # bytes are as good as exact; of the zeros, to the last bit
        x = torch.randn(1, 40, channels).sign()[:, torch.arange(count) % 40]
        x = torch.where(torch.rand_like(x) < 0.15, -x, x)
        x[:, ::49] = 0
        x *= 0.3
    elif kind == "bytes":  # rounding them takes nothing away, and groups differ in a few last bits
        x = (40 * torch.randn(1, 25, channels)).round().clamp(-126, 126)[:, torch.arange(count) % 25]
        x += torch.randn_like(x).sign() * (torch.rand_like(x) < 3 / channels)
        x[..., 0] = 127
        x *= 0.0137
    elif kind == "small":
        x *= 1e-10
    elif kind == "large":
        x *= 1e15
    else:
        assert kind == "objects"
    return x


def small_integers(count: int, channels: int) -> Tensor:
    """Differences are exact, and many sums of their squares equal; of products, the last channel rounds all sums."""
    x = torch.randint(-2, 3, (1, count, channels)).float()
    x[..., -1] = 0.1
    return x


KINDS = ("objects", "far from 0", "one large channel", "one large token", "any length", "duplicates", "few values")


SIZES = [(490, 140, 5), (1026, 45, 3)]  # all bounds are kept; two squares of pairs, the last shorter than a list


@pytest.mark.parametrize(
    ("count", "channels", "k", "kind"),
    [
        *((*size, kind) for size in SIZES for kind in (*KINDS, "small", "large")),
        (2100, 34, 6, "any length"),  # three squares a side
        (128, 517, 5, "objects"),  # the fewest points, and more channels than are packed at a time
        (480, 140, 5, "objects"),  # whole panels
        (193, 512, 5, "far from 0"),  # few points beyond whole panels, and those are rows: as few as can be,
        (196, 512, 5, "any length"),
        (196, 512, 5, "large last token"),
        (200, 400, 5, "objects"),  # and as many
        (201, 400, 5, "objects"),
        (210, 400, 5, "any length"),  # more than half a panel
        (1024, 128, 5, "objects"),
        (500, 2048, 5, "bytes"),
        (490, 140, 5, "signs"),
        (1100, 500, 5, "bytes"),
        (300, 1030, 2, "any length"),  # more channels than are summed at a time
        (900, 170, 16, "objects"),  # the longest lists of those whose bounds are all kept
        (2112, 33, 32, "objects"),
    ],
)
def test_each_stage_is_right(count: int, channels: int, k: int, kind: str, monkeypatch) -> None:
    x = points(kind, count, channels)
    found, screened = clustered(x, 30, k, monkeypatch)
    # The steps of one large channel leave little of the others; the nearest of bytes come from differences anyway.
    assert screened or kind in ("one large channel", "bytes")
    check_dpc_knn(x, found, 30, k)


@pytest.mark.parametrize(
    ("count", "far", "pair"),
    [(490, 100, (200, 201)), (1100, 100, (200, 201)), (484, 482, (200, 201)), (484, 100, (200, 483))],
)
def test_the_farthest_pair_is_found_though_bytes_make_it_nearer(
    count: int, far: int, pair: tuple[int, int], monkeypatch
) -> None:
    x = points("objects", count, 140)
    x[0, far, 3] = 300  # bytes tell little of its other channels
    one, other = pair
    x[0, one] = torch.randn(140).sign() * 1.15 * 300 / 2 / 140**0.5
    x[0, one, 3] = 0
    x[0, other] = -x[0, one]  # these two are nearly as far from each other as from the first
    distances = torch.cdist(x.double(), x.double())[0]
    assert distances[far].max() > distances[one, other]
    found, screened = clustered(x, 30, 5, monkeypatch)
    assert screened
    check_dpc_knn(x, found, 30, 5)


@pytest.mark.parametrize(("count", "channels"), [(150, 500), (510, 150), (2100, 75)])
def test_mask_and_noise(count: int, channels: int, monkeypatch) -> None:
    x = points("far from 0", count, channels)
    mask = torch.rand(1, count) > 0.1
    x[~mask] = torch.nan
    noise = torch.rand(1, count) * 1e-3
    found, screened = clustered(x, 20, 6, monkeypatch, mask=mask, noise=noise)
    expected = dpc_knn(x, 20, 6, mask=mask, noise=noise, backend="reference")
    assert screened
    assert torch.equal(found.assignment, expected.assignment)
    assert torch.equal(found.centers, expected.centers)
    torch.testing.assert_close(found.log_density, expected.log_density, rtol=4e-6, atol=0)
    torch.testing.assert_close(found.delta, expected.delta, rtol=4e-6, atol=0)


@pytest.mark.parametrize(("count", "channels"), [(500, 140), (700, 40), (2100, 40)])
def test_ties_of_small_integers_are_ties(count: int, channels: int, monkeypatch) -> None:
    x = small_integers(count, channels)
    found, screened = clustered(x, 30, 4, monkeypatch, distance_scale=1.0)
    assert screened
    expected = dpc_knn(x, 30, 4, distance_scale=1.0, backend="reference")
    assert_same_bits(found.log_density, expected.log_density)
    assert_same_bits((found.centers, found.assignment), (expected.centers, expected.assignment))
    torch.testing.assert_close(found.delta, expected.delta, rtol=2e-7, atol=0)  # a square root's last bit
    parents = (density_peak_distance(x, found.log_density, backend=name)[1] for name in ("cpu", "reference"))
    assert_same_bits(*parents)


@pytest.mark.parametrize(("count", "channels"), [(130, 520), (196, 400), (490, 140), (700, 60), (1030, 60), (2100, 60)])
def test_bits_do_not_depend_on_threads_or_batch_mates(count: int, channels: int, monkeypatch) -> None:
    x = points("objects", count, channels)
    found, screened = clustered(x, 20, 6, monkeypatch)
    assert screened
    batch = torch.cat([torch.randn_like(x), x, *(x[:, torch.randperm(count)] for _ in range(6))])
    for number in (1, 2, 5):
        with threads(number):
            assert_same_bits(tuple(dpc_knn(x, 20, 6, backend="cpu")), tuple(found))
            mates = dpc_knn(batch, 20, 6, backend="cpu")
            assert_same_bits(tuple(part[1:2] for part in mates), tuple(found))


@pytest.mark.parametrize(("count", "channels"), [(490, 140), (2100, 50)])
def test_parts_compose_to_the_whole(count: int, channels: int) -> None:
    x = points("objects", count, channels)
    whole = dpc_knn(x, 20, 6, backend="cpu")
    log_density = knn_log_density(x, 6, backend="cpu")
    assert_same_bits(log_density, whole.log_density)
    assert_same_bits(density_peak_distance(x, log_density, backend="cpu")[0], whole.delta)
    assert_same_bits(nearest_center(x, whole.centers, backend="cpu"), whole.assignment)


@pytest.mark.parametrize(
    ("count", "channels", "k", "kind", "dtype"),
    [
        (127, 900, 5, "objects", torch.float32),  # few points
        (500, 127, 5, "objects", torch.float32),  # few channels
        (600, 32, 5, "objects", torch.float32),
        (200, 300, 5, "objects", torch.float32),  # few numbers
        (900, 170, 17, "objects", torch.float32),  # many neighbours
        (600, 140, 60, "objects", torch.float32),
        (600, 140, 5, "objects", torch.float16),
        (130, 3000, 5, "noise", torch.float32),  # all distances nearly equal: bytes tell them apart no more
        (600, 140, 5, "overflow", torch.float32),  # the squares of bytes' lengths would
    ],
)
def test_what_is_not_screened(count: int, channels: int, k: int, kind: str, dtype: torch.dtype, monkeypatch) -> None:
    kinds = {
        "noise": lambda: torch.randn(1, count, channels),
        "overflow": lambda: points("large", count, channels) * 3e2,
    }
    x = kinds.get(kind, lambda: points(kind, count, channels))().to(dtype)
    found, screened = clustered(x, 20, k, monkeypatch)
    assert not screened
    check_dpc_knn(x, found, 20, k)


def test_flushing_of_subnormals_loses_no_neighbour() -> None:
    """The squares of the steps are subnormal, and flushed: lengths of rounded points would be 0."""
    count, channels, k, near = 600, 13_000, 5, 570
    signs = torch.randn(40, channels).sign()[torch.arange(count) % 40]
    signs[:near] *= (torch.rand(near, channels) < 0.774).float() * 2 - 1  # of a group, correlated by 0.3
    signs[near:] = torch.randn(30, channels).sign()
    x = signs * torch.where(torch.arange(count) < near, 1.40e-17, 1.37e-17).unsqueeze(1)
    x[-1] *= 100  # else all pairs are nearly as far apart as any, and none is screened
    exact = torch.cdist(x.double(), x.double()).square().sort(-1).values[:, :k].mean(-1) / channels
    assert torch.set_flush_denormal(True)
    try:
        with threads(1):
            log_density = knn_log_density(x[None], k, backend="cpu")[0]
    finally:
        torch.set_flush_denormal(False)
    torch.testing.assert_close(-log_density.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 3e19])
def test_refuses_what_is_not_finite(bad: float) -> None:
    x = points("objects", 600, 140)
    x[0, 400, 7] = bad
    with pytest.raises(ValueError, match=r"x has|small enough for squared distances to be finite"):
        dpc_knn(x, 5, 3, backend="cpu")
