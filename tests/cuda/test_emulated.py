"""The CUDA kernels' own source, run on the CPU thread by thread, against float64 in stages and against the oracle."""

import random

import pytest
import torch
from torch import Tensor

from dynfocus_ops import reference
from tests.ops.staged import check_dpc_knn
from tests.ops.support import assert_same_bits, poisoned_memory

from .emulation import Emulator

DTYPES = [torch.bfloat16, torch.float16]


def cluster(emulator: Emulator, x: Tensor, num_clusters: int, k: int, **extra: Tensor | float) -> tuple[Tensor, ...]:
    """dpc_knn of x where fresh memory is full of NaN or -1, the result checked."""
    mask, noise, scale = extra.get("mask"), extra.get("noise"), extra.get("distance_scale", float(x.shape[-1]))
    with poisoned_memory():
        result = emulator.dpc_knn(x, num_clusters, k, mask, scale, noise)
    check_dpc_knn(x, result, num_clusters, k, **extra)
    return result


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",  # B, N, C, num_clusters, k
    [
        (1, 1, 8, 1, 1),
        (2, 2, 8, 2, 2),
        (2, 17, 40, 4, 3),
        (2, 64, 64, 16, 8),
        (3, 65, 8, 6, 1),
        (1, 130, 136, 64, 16),
        (2, 192, 72, 16, 9),
        (1, 256, 256, 16, 8),
    ],
)
def test_in_stages(emulator: Emulator, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    B, N, C, num_clusters, k = shape
    cluster(emulator, torch.randn(B, N, C).to(dtype), num_clusters, k)


@pytest.mark.parametrize("seed", range(60))
def test_in_stages_on_random_cases(emulator: Emulator, seed: int) -> None:
    """Heaps near and far from the origin, duplicates, masks, noise, scales; each in an order of threads of its own."""
    draw = random.Random(seed)
    B, N, C = draw.choice([1, 1, 2]), draw.randint(1, 256), 8 * draw.randint(1, 20)
    heaps = draw.randint(1, N)
    spread = draw.choice([0.0, 1e-3, 0.05, 0.3, 1.0])
    offset = draw.choice([0.0, 0.0, 1.0, 4.0, 30.0])
    x = torch.randn(B, heaps, C)[:, torch.randint(heaps, (N,))] + spread * torch.randn(B, N, C) + offset
    extra: dict[str, Tensor | float] = {}
    fewest = N
    if draw.random() < 0.5:
        extra["mask"] = torch.rand(B, N) < draw.choice([0.2, 0.7, 0.95])
        extra["mask"][:, draw.randrange(N)] = True
        fewest = int(extra["mask"].sum(-1).min())
        x = x.masked_fill(~extra["mask"].unsqueeze(-1), torch.nan)
    if draw.random() < 0.4:
        extra["noise"] = torch.rand(B, N) * draw.choice([1.0, 1e-6])
    if draw.random() < 0.3:
        extra["distance_scale"] = draw.choice([0.5, 7.0])
    num_clusters, k = draw.randint(1, min(fewest, 64)), draw.randint(1, min(fewest, 16))
    with emulator.order(seed):
        cluster(emulator, x.to(draw.choice(DTYPES)), num_clusters, k, **extra)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_frame_of_full_size(emulator: Emulator, dtype: torch.dtype) -> None:
    """Heaps far from the origin, where |x|^2 / d^2 is about 100 within them."""
    x = (torch.randn(1, 24, 1408).repeat_interleave(11, 1)[:, :256] + 0.3 * torch.randn(1, 256, 1408) + 4).to(dtype)
    cluster(emulator, x, 16, 8)


@pytest.mark.parametrize("spread", [1.0, 0.05])
def test_where_everything_cancels(emulator: Emulator, spread: float) -> None:
    """|x|^2 / d^2 of 1000 and more for every pair."""
    x = (torch.randn(2, 8, 64).repeat_interleave(12, 1) + spread * torch.randn(2, 96, 64) + 45).half()
    cluster(emulator, x, 8, 5)


def test_equals_float64_where_nothing_is_nearly_tied(emulator: Emulator) -> None:
    x = torch.randn(3, 120, 64).bfloat16()
    result = cluster(emulator, x, 12, 5)
    exact = reference.dpc_knn(x.double(), 12, 5, None, 64.0, None)
    assert_same_bits(result[:2], exact[:2])


def test_ties_go_to_the_lower_index(emulator: Emulator) -> None:
    """Points on a small grid, where products, differences and sums are exact: equal distances in every stage."""
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        x = torch.zeros(1, 20 + 9 * seed, 8)
        x[..., : 1 + seed % 3] = torch.randint(0, 4, (1, 20 + 9 * seed, 1 + seed % 3), generator=generator).float()
        expected = reference.dpc_knn(x, 5, 4, None, 4.0, None)
        assert_same_bits(cluster(emulator, x.bfloat16(), 5, 4, distance_scale=4.0)[:2], expected[:2])


def test_duplicates_are_at_distance_zero(emulator: Emulator) -> None:
    x = (torch.randn(1, 1, 24) + 20).repeat(1, 70, 1).half()
    assignment, centers, log_density, delta = cluster(emulator, x, 3, 5)
    assert (log_density == 0).all() and (delta == 0).all()
    assert centers.tolist() == [[0, 1, 2]]
    assert assignment.tolist() == [[0, 1, 2] + [0] * 67]


@pytest.mark.parametrize("C", [8, 24, 264])
def test_strides(emulator: Emulator, C: int) -> None:
    """Frames, points and channels apart, and rows that do not begin at 16 bytes."""
    x = torch.randn(2, 40, C).bfloat16()
    expected = cluster(emulator, x, 5, 4)
    wide = torch.full((3, 40, 2 * C + 8), torch.nan, dtype=x.dtype)
    wide[1:, :, 8 : C + 8] = x
    for view in (wide[1:, :, 8 : C + 8], x.transpose(0, 1).contiguous().transpose(0, 1), x.mT.contiguous().mT):
        assert not view.is_contiguous()
        assert_same_bits(cluster(emulator, view, 5, 4), expected)
    shifted = torch.cat((x.new_zeros(1), x.flatten()))[1:].view(x.shape)
    assert shifted.data_ptr() % 16 != 0
    assert_same_bits(cluster(emulator, shifted, 5, 4), expected)
    noise, mask = torch.rand(40, 2).T, torch.rand(40, 2).T < 0.8
    masked = cluster(emulator, x, 5, 4, mask=mask, noise=noise)
    assert_same_bits(cluster(emulator, x, 5, 4, mask=mask.contiguous(), noise=noise.contiguous()), masked)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", [((16, 8), (6, 3)), ((5, 2),), ((20, 3), (7, 7), (3, 1), (1, 1)), ((64, 16),)])
@pytest.mark.parametrize("shape", [(2, 70, 24), (1, 256, 264)])
def test_prototypes_are_the_means_of_clusters(
    emulator: Emulator, shape: tuple[int, ...], levels: tuple, dtype: torch.dtype
) -> None:
    """Each level against the clustering of its own points as they came out, to the bit."""
    x = (torch.randn(shape) + torch.randn(shape[-1])).to(dtype)
    num_clusters, k = ([level[n] for level in levels] for n in (0, 1))
    with poisoned_memory():
        prototypes, assignments = emulator.spatial_prototypes(x, num_clusters, k)
    assert prototypes.dtype == dtype and assignments.dtype == torch.int64
    points = [x, *prototypes.split(num_clusters, 1)]
    joined = assignments.split([level.shape[1] for level in points[:-1]], 1)
    for level, (M, neighbors) in enumerate(levels):
        own = cluster(emulator, points[level].contiguous(), M, neighbors)
        assert_same_bits(joined[level], own[0])
        assert_same_bits(points[level + 1], means_in_order(points[level], own[0], M))


@pytest.mark.parametrize("dtype", DTYPES)
def test_members_are_added_in_the_order_of_their_index(emulator: Emulator, dtype: torch.dtype) -> None:
    """Large ones swallow the small ones before them and leave those after: the last token alone is in this mean."""
    small, large = 2.0**-12, 2.0**15
    x = torch.tensor([small, large, -large, 4 * small]).view(1, 4, 1).repeat(2, 1, 16).to(dtype)
    prototypes, _ = emulator.spatial_prototypes(x, [1], [2])
    assert (prototypes == small).all()


def means_in_order(x: Tensor, assignment: Tensor, num_clusters: int) -> Tensor:
    """Each cluster's members added up one by one in float32, the lower index first."""
    sums = torch.zeros(len(x), num_clusters, x.shape[-1])
    for b in range(len(x)):
        for i in range(x.shape[1]):
            sums[b, assignment[b, i]] += x[b, i].float()
    counts = torch.nn.functional.one_hot(assignment, num_clusters).sum(1)
    return (sums / counts.unsqueeze(-1)).to(x.dtype)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("k", [1, 4])
def test_points_that_are_not_finite_show(emulator: Emulator, value: float, k: int) -> None:
    """In their log density, or in the assignments: the caller may refuse them, and nothing is read astray."""
    x = torch.randn(3, 70, 16).bfloat16()
    x[1, 7, 2] = value
    assignment, centers, log_density, _ = emulator.dpc_knn(x, 5, k, None, 16.0, torch.rand(3, 70))
    assert not log_density[1, 7].isfinite()
    assert ((assignment >= 0) & (assignment < 5)).all() and ((centers >= 0) & (centers < 70)).all()
    prototypes, assignments = emulator.spatial_prototypes(x, [5, 2], [k, 1])
    assert (assignments[1, :70] == -1).all() and (prototypes[1, :5] == 0).all()
    expected = emulator.spatial_prototypes(x[[0, 2]], [5, 2], [k, 1])
    assert_same_bits([part[[0, 2]] for part in (prototypes, assignments)], expected)


def test_fewer_valid_points_than_asked_for_read_nothing_astray(emulator: Emulator) -> None:
    x, mask = torch.randn(1, 70, 16).half(), torch.arange(70).unsqueeze(0) < 3
    assignment, centers, _, _ = emulator.dpc_knn(x, 9, 5, mask, 16.0, None)
    assert (assignment[~mask] == -1).all()
    assert ((centers >= 0) & (centers < 70)).all()


def test_other_samples_change_no_bit(emulator: Emulator) -> None:
    x = torch.randn(3, 90, 32).half()
    expected = emulator.dpc_knn(x, 6, 5, None, 32.0, None)
    x[1:] = 100 * torch.randn(2, 90, 32)
    assert_same_bits([part[0] for part in emulator.dpc_knn(x, 6, 5, None, 32.0, None)], [part[0] for part in expected])


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("x has an unsupported dtype, it must be bfloat16 or float16", {"x": torch.zeros(1, 20, 8)}),
        ("x has 257 points, the CUDA kernel takes at most 256", {"x": torch.zeros(1, 257, 8).half()}),
        ("x has 12 channels, the CUDA kernel takes a multiple of 8", {"x": torch.zeros(1, 20, 12).half()}),
        ("num_clusters is 65, the CUDA kernel takes 1 to 64", {"x": torch.zeros(1, 90, 8).half(), "num_clusters": 65}),
        ("k is 17, the CUDA kernel takes 1 to 16", {"k": 17}),
        ("k is 0, the CUDA kernel takes 1 to 16", {"k": 0}),
        ("mask must have one value", {"mask": torch.ones(1, 19, dtype=torch.bool)}),
        ("noise must have one value", {"noise": torch.ones(1, 20).double()}),
    ],
)
def test_refuses_what_the_kernel_cannot_take(emulator: Emulator, message: str, arguments: dict) -> None:
    given = {"x": torch.zeros(1, 20, 8).half(), "num_clusters": 3, "k": 2, "mask": None, "scale": 8.0, "noise": None}
    with pytest.raises(RuntimeError, match=message):
        emulator.dpc_knn(*(given | arguments).values())


def cases(emulator: Emulator) -> list[Tensor]:
    """What every barrier of the kernels matters to: distances that cancel, and that do not."""
    generator = torch.Generator().manual_seed(1)
    apart = torch.randn(6, 70, 64, generator=generator).bfloat16()
    heaps = torch.randn(2, 8, 200, generator=generator).repeat_interleave(9, 1)[:, :70]
    close = (heaps + 0.05 * torch.randn(2, 70, 200, generator=generator) + 5).bfloat16()
    found = [emulator.dpc_knn(x, 6, 4, None, 64.0, None) for x in (apart, close)]
    return [*found[0], *found[1], *emulator.spatial_prototypes(close, [9, 3], [4, 2])]


def test_any_order_of_threads_gives_the_same_bits(emulator: Emulator) -> None:
    expected = cases(emulator)
    for seed in range(1, 9):
        with emulator.order(seed):
            assert_same_bits(cases(emulator), expected)


def test_a_missing_barrier_or_wait_shows(emulator: Emulator) -> None:
    """Each one left out: in some order of threads another result, or a read where there is no memory."""
    expected = cases(emulator)

    def shows(site: str, seed: int) -> bool:
        with emulator.order(seed, left_out=site):
            try:
                found = cases(emulator)
            except RuntimeError:
                return True
        return not all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    unseen = {site for site in emulator.sites() if not any(shows(site, seed) for seed in range(40))}
    assert len(emulator.sites()) > 8
    assert {site.split(":")[0] for site in unseen} == {"frame_mending.cuh"}  # its one barrier: it says why
