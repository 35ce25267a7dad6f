"""Each dialect against a stand-in written in it: same seed, same labels and centres."""

import pytest
import torch

from dynfocus_ops import backends, use_backend
from dynfocus_ops.dropin import clustering, hot, missrec, tcformer

from .forms import FORMS, IN_FLOAT32, MASKED, agreement, ours, peer, seeded
from .peers.formula import noisy_density, peak_score

every_dialect = pytest.mark.parametrize("dialect", FORMS)

SHAPES = {  # B, N, C, clusters, neighbours: as the projects call it, where that is small
    "events": (1, 16, 64, 4, 7),
    "few tokens": (1, 5, 8, 2, 3),
    "one cluster": (2, 12, 16, 1, 3),
    "every token": (1, 9, 8, 9, 4),
    "masked frames": (4, 32, 512, 8, 3),
    "patches": (2, 256, 64, 64, 5),
    "frame": (1, 144, 1024, 72, 7),
}


def same(dialect, *args, seed=11, **kw):
    (labels, centers), state = seeded(FORMS[dialect], ours(dialect), *args, seed=seed, **kw)
    (expected, expected_centers), expected_state = seeded(FORMS[dialect], peer(dialect), *args, seed=seed)
    assert labels.dtype == torch.int64 and not labels.requires_grad
    assert torch.equal(labels, expected)
    assert (centers is None) == (expected_centers is None)
    assert centers is None or torch.equal(centers, expected_centers)
    assert torch.equal(state, expected_state), "another use of torch's generator"


@every_dialect
@pytest.mark.parametrize("shape", SHAPES)
def test_labels_and_centres(dialect, shape):
    b, n, c, num, k = SHAPES[shape]
    same(dialect, torch.randn(b, n, c), num, k)


def test_of_hundreds_of_centres_only_those_swap_whose_scores_are_a_rounding_apart():
    swaps = 0
    for _ in range(4):
        x = torch.randn(1, 784, 64)
        (mine, theirs), _ = zip(*(seeded(FORMS["hot"], side("hot"), x, 196, 5) for side in (ours, peer)), strict=True)
        assert agreement(mine[0], theirs[0]) == 1
        torch.manual_seed(11)
        noise = torch.rand(1, 784).double()
        points = x.double()
        distance = (points.unsqueeze(2) - points.unsqueeze(1)).norm(dim=-1) / 8
        density = noisy_density(distance, 5, None, draw=lambda shape, dtype, noise=noise: noise)
        score = peak_score(distance, density)[0]
        gap = (score[mine[1][0]] / score[theirs[1][0]] - 1).abs()
        assert gap.max() < 1e-5
        swaps += int((mine[1] != theirs[1]).sum())
    assert swaps <= 16


@every_dialect
def test_without_a_native_kernel(dialect):
    with use_backend("reference"):
        same(dialect, torch.randn(2, 40, 16), 6, 5)


@every_dialect
def test_where_the_noise_ranks_the_tokens(dialect):
    """exp(-mean d^2) underflows to 0, or is of the order of the noise."""
    same(dialect, 40 * torch.randn(4, 40, 16), 6, 5)
    same(dialect, 3.2 * torch.randn(4, 40, 16), 6, 5)


@pytest.mark.parametrize("dialect", MASKED)
def test_empty_tokens(dialect):
    x, mask = torch.randn(3, 40, 16), (torch.rand(3, 40) > 0.4).int()
    mask[:, :8] = 1
    same(dialect, x, 6, 5, mask)
    same(dialect, 40 * x, 6, 5, mask)
    with use_backend("reference"):
        same(dialect, x, 6, 5, mask)


@pytest.mark.parametrize("dialect", MASKED)
def test_fewer_tokens_than_neighbours_or_clusters(dialect):
    """Then the fill of the mask, the largest distance of the whole batch, is among the neighbours, and empty tokens are
    centres."""
    x, place = torch.randn(4, 40, 16), torch.arange(40)
    mask = torch.stack([place < 33, place < 3, place == 7, place < 0]).int()
    same(dialect, x, 6, 5, mask)
    same(dialect, x, 8, 5, (place >= 35).int().expand(4, -1))
    for tenth in range(10, 30):  # on the way the fill sinks the densities below the noise
        same(dialect, tenth / 10 * x, 6, 6, (place < 4).int().expand(4, -1))


@pytest.mark.parametrize("dialect", IN_FLOAT32)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_in_float32(dialect, dtype):
    same(dialect, torch.randn(2, 40, 16).to(dtype), 6, 5)
    same(dialect, (40 * torch.randn(2, 40, 16)).to(dtype), 6, 5)


@every_dialect
def test_half_precision_under_autocast(dialect):
    """There cdist, and so the noise, is in float32."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same(dialect, (40 * torch.randn(2, 256, 16)).bfloat16(), 40, 5)


@every_dialect
def test_half_precision_draws_as_much_as_the_original(dialect):
    """The original runs through a matrix product in half precision or not at all: its numbers are no measure."""
    x = torch.randn(2, 40, 16).bfloat16()
    (labels, _), state = seeded(FORMS[dialect], ours(dialect), x, 6, 5)
    torch.manual_seed(11)
    torch.rand(2, 40, dtype=torch.float32 if dialect in IN_FLOAT32 else torch.bfloat16)
    assert torch.equal(state, torch.get_rng_state())
    in_float32, _ = seeded(FORMS[dialect], ours(dialect), x.float(), 6, 5)
    assert torch.equal(labels, in_float32[0])


@every_dialect
def test_float64(dialect):
    same(dialect, torch.randn(2, 40, 16).double(), 6, 5)


@every_dialect
def test_without_noise_the_generator_is_left_alone(dialect):
    x = torch.randn(2, 40, 16)
    before = torch.get_rng_state()
    labels, _ = FORMS[dialect](ours(dialect), x, 6, 5, noise=False)
    assert torch.equal(torch.get_rng_state(), before)
    again, _ = FORMS[dialect](ours(dialect), x, 6, 5, noise=False)
    assert torch.equal(labels, again)


@every_dialect
def test_no_gradient_through_the_choice(dialect):
    labels, _ = FORMS[dialect](ours(dialect), torch.randn(2, 40, 16, requires_grad=True), 6, 5)
    assert not labels.requires_grad


@every_dialect
def test_strides_and_numbers_that_are_no_ints(dialect):
    x = torch.randn(16, 40, 2).permute(2, 1, 0)
    (labels, _), _ = seeded(FORMS[dialect], ours(dialect), x, 6, 5)
    assert torch.equal(labels, seeded(FORMS[dialect], ours(dialect), x.contiguous(), 6, 5)[0][0])
    assert torch.equal(labels, seeded(FORMS[dialect], ours(dialect), x, torch.tensor(6), torch.tensor(5))[0][0])


@every_dialect
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_would_come_out_as_garbage_is_refused(dialect, bad):
    x = torch.randn(2, 40, 16)
    x[1, 3, 2] = bad
    with pytest.raises(ValueError, match=r"x has NaN or infinity"):
        FORMS[dialect](ours(dialect), x, 6, 5)
    with use_backend("reference"), pytest.raises(ValueError, match=r"x has NaN or infinity"):
        FORMS[dialect](ours(dialect), x, 6, 5)


@every_dialect
def test_more_clusters_or_neighbours_than_tokens_are_refused(dialect):
    for backend in ("auto", "reference"):
        with use_backend(backend):
            with pytest.raises(ValueError, match="num_clusters is 9"):
                FORMS[dialect](ours(dialect), torch.randn(1, 8, 4), 9, 5)
            with pytest.raises(ValueError, match="k is 9"):
                FORMS[dialect](ours(dialect), torch.randn(1, 8, 4), 5, 9)


@pytest.mark.parametrize("shape", [(2, 25, 16), (2, 26, 16), (1, 40, 3584), (3, 70, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_distances_are_cdist_s_to_the_bit(shape, dtype):
    x = torch.randn(shape).to(dtype)
    points = x if dtype == torch.float64 else x.float()
    expected = torch.cdist(points, points) / shape[-1] ** 0.5
    assert torch.equal(clustering.distances(x), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(clustering.distances(x), expected)


def test_excluded_centres():
    x = torch.randn(3, 40, 16)
    for excluded in (0, 17, [2, 5, 30], slice(8, 12), torch.tensor([1, 39])):
        for backend in ("auto", "reference"):
            with use_backend(backend):
                (centers, labels), state = seeded(hot.cluster_dpc_knn_center, x, 9, 5, excluded)
            expected, expected_state = seeded(peer("hot").cluster_dpc_knn_center, x, 9, 5, excluded)
            assert torch.equal(centers, expected[0]) and torch.equal(labels, expected[1])
            assert torch.equal(state, expected_state)


def test_excluded_centres_and_empty_tokens():
    x, mask = torch.randn(2, 40, 16), torch.arange(40).expand(2, -1) < 30
    for excluded in range(40):
        mine, _ = seeded(hot.cluster_dpc_knn_center, x, 9, 5, excluded, mask)
        expected, _ = seeded(peer("hot").cluster_dpc_knn_center, x, 9, 5, excluded, mask)
        assert torch.equal(mine[0], expected[0]) and torch.equal(mine[1], expected[1])


@pytest.mark.parametrize("dialect", ["sparsevlm", "lightcompress"])
@pytest.mark.parametrize("shape", [(1, 33, 256, 4), (2, 83, 128, 9), (1, 7, 8, 7)])
def test_cluster_and_merge(dialect, shape):
    b, n, c, num = shape
    x = torch.randn(b, n, c)
    merged, state = seeded(ours(dialect).cluster_and_merge, x, num)
    expected, expected_state = seeded(peer(dialect).cluster_and_merge, x, num)
    assert torch.equal(state, expected_state)
    if dialect == "lightcompress":
        assert torch.equal(merged[1], expected[1])
        merged, expected = merged[0], expected[0]
    torch.testing.assert_close(merged, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cluster_and_merge_in_half_precision(dtype):
    """The original's densities tie, and its noise is lost: so that its ties choose, each step rounds as its does."""
    x = torch.randn(1, 33, 256).to(dtype)
    (merged, centers), state = seeded(ours("lightcompress").cluster_and_merge, x, 4)
    (expected, expected_centers), expected_state = seeded(peer("lightcompress").cluster_and_merge, x, 4)
    assert torch.equal(centers, expected_centers) and torch.equal(state, expected_state)
    assert merged.dtype == expected.dtype == dtype
    torch.testing.assert_close(merged, expected, rtol=3e-2, atol=3e-2)  # the original sums in x.dtype


def test_missrec():
    x, weight = torch.randn(300, 64), torch.rand(300)
    for args in ((x, 30), (x, 30, 7), (x, 30, 5, weight), (x, 30, 5, None, "cpu")):
        before = torch.get_rng_state()
        labels, centroids = missrec.cluster_dpc_knn(*args)
        assert torch.equal(torch.get_rng_state(), before)
        expected, expected_centroids = peer("missrec").cluster_dpc_knn(*args)
        assert torch.equal(labels, expected)
        torch.testing.assert_close(centroids, expected_centroids, rtol=1e-5, atol=1e-6)


def test_missrec_lets_duplicates_and_vanishing_densities_tie():
    for x in (torch.randn(60, 16).repeat(2, 1), 40 * torch.randn(60, 16)):
        labels, _ = missrec.cluster_dpc_knn(x, 12)
        assert torch.equal(labels, peer("missrec").cluster_dpc_knn(x, 12)[0])


# Mutual nearest neighbours (k = 2) and duplicates tie: there the noise, and cdist's rounding, choose.
DEGENERATE = {
    "two neighbours": (lambda: torch.randn(2, 81, 64), 27, 2),
    "one neighbour": (lambda: torch.randn(2, 48, 64), 3, 1),
    "duplicates": (lambda: torch.randn(2, 20, 32).repeat(1, 4, 1), 10, 5),
    "near duplicates": (lambda: torch.randn(2, 20, 32).repeat(1, 4, 1) + 0.01 * torch.randn(2, 80, 32), 10, 5),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_as_close_to_the_original_as_it_is_to_itself(case):
    make, num, k = DEGENERATE[case]
    ours_to_it, it_to_itself = [], []
    for seed in range(12):
        x = make()
        it, _ = seeded(FORMS["prunevid"], peer("prunevid"), x, num, k, seed=seed)
        again, _ = seeded(FORMS["prunevid"], peer("prunevid"), x, num, k, seed=seed + 100)
        mine, _ = seeded(FORMS["prunevid"], ours("prunevid"), x, num, k, seed=seed)
        it_to_itself.append(agreement(it[0], again[0]))
        ours_to_it.append(agreement(it[0], mine[0]))
    assert sum(ours_to_it) >= sum(it_to_itself)


def test_the_dictionary_is_left_as_it_was():
    tokens = {"x": torch.randn(2, 40, 16), "idx_token": torch.arange(40).expand(2, -1), "mask": None}
    before = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in tokens.items()}
    tcformer.cluster_dpc_knn(tokens, 6)
    assert list(tokens) == list(before) and torch.equal(tokens["x"], before["x"])


def test_what_a_backend_refuses_runs_by_the_original_formula(monkeypatch):
    """As on a GPU, whose kernels take so many neighbours and clusters and no more."""
    run = backends.BACKENDS["cpu"]
    monkeypatch.setitem(
        backends.BACKENDS, "cpu", lambda op, x, **sizes: "k is large" if sizes.get("k", 0) > 5 else run(op, x, **sizes)
    )
    x = torch.randn(2, 20, 16)
    found, expected = (seeded(module("sparsevlm").cluster_and_merge, x, 6)[0] for module in (ours, peer))
    torch.testing.assert_close(found, expected)
    centers, distance = ours("holitom").cluster_dpc_knn(None, x, 6, 7, noise=False)
    assert (centers.shape, distance.shape) == ((2, 6), (2, 20, 20))
