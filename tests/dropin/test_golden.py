"""The numbers that the projects' own code computed, with its noise after a seed and with noise zero."""

import pytest
import torch

from tests.ops.support import golden, threads

from .forms import FORMS, ours, seeded

GOLDEN, SETTINGS = golden("dropin_B2_N60")
X, MASK = GOLDEN["x"], GOLDEN["mask"]
NUM, K, SEED = (int(SETTINGS[name]) for name in ("num_clusters", "k", "noise_seed"))

noises = pytest.mark.parametrize("noise", ["zero", "seeded"])


def expected(name, noise, what):
    return GOLDEN[f"{name}.{noise}.{what}"]


def run(function, *args, noise):
    return seeded(function, *args, seed=SEED, noise=noise == "seeded")[0]


@noises
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dialect", ["tcformer", "chat_univi", "hbi", "prunevid", "ermvp", "dynfocus"])
def test_labels(dialect, masked, noise):
    labels, _ = run(FORMS[dialect], ours(dialect), X, NUM, K, MASK if masked else None, noise=noise)
    assert torch.equal(labels, expected("tcformer_masked" if masked else "tcformer", noise, "labels"))
    if not masked:
        assert torch.equal(labels, expected("prunevid", noise, "labels"))


@noises
def test_hot(noise):
    centers, labels = run(ours("hot").cluster_dpc_knn, X, NUM, K, noise=noise)
    assert torch.equal(centers, expected("hot", noise, "centers"))
    assert torch.equal(labels, expected("hot", noise, "labels"))


@noises
def test_hot_with_an_excluded_centre(noise):
    excluded = int(SETTINGS["hot_center_excludes"])
    centers, labels = run(ours("hot").cluster_dpc_knn_center, X, NUM, K, excluded, noise=noise)
    assert torch.equal(centers, expected("hot_center", noise, "centers"))
    assert torch.equal(labels, expected("hot_center", noise, "labels"))


@noises
@pytest.mark.parametrize("masked", [False, True])
def test_flashvid(masked, noise):
    labels, centers = run(ours("flashvid").dpc_knn, X, NUM, K, MASK.bool() if masked else None, noise=noise)
    name = "flashvid_masked" if masked else "flashvid"
    assert torch.equal(centers, expected(name, noise, "centers"))
    assert torch.equal(labels, expected(name, noise, "labels"))


@noises
def test_holitom(noise):
    centers, distance = run(ours("holitom").cluster_dpc_knn, None, X, NUM, K, noise=noise)
    assert torch.equal(centers, expected("holitom", noise, "centers"))
    torch.testing.assert_close(distance, expected("holitom", noise, "dist"), rtol=1e-5, atol=2e-3)  # cdist's diagonal


@noises
@pytest.mark.parametrize("dialect", ["sparsevlm", "lightcompress"])
def test_sparsevlm(dialect, noise):
    merged = run(ours(dialect).cluster_and_merge, X, NUM, noise=noise)
    merged = merged if dialect == "sparsevlm" else merged[0]
    torch.testing.assert_close(merged, expected("sparsevlm", noise, "merged"), rtol=1e-5, atol=1e-6)


def first_tokens(x):
    b, n, _ = x.shape
    return {
        "x": x,
        "token_num": n,
        "map_size": [n, 1],
        "init_grid_size": [n, 1],
        "idx_token": torch.arange(n).expand(b, -1),
        "agg_weight": x.new_ones(b, n, 1),
        "mask": None,
    }


def check_merged(merged, name):
    torch.testing.assert_close(merged["x"], GOLDEN[f"{name}.x"], rtol=1e-5, atol=1e-6)
    assert torch.equal(merged["idx_token"], GOLDEN[f"{name}.idx_token"])
    torch.testing.assert_close(merged["agg_weight"], GOLDEN[f"{name}.agg_weight"], rtol=1e-6, atol=1e-7)


def test_weighted_merge():
    labels = expected("tcformer", "seeded", "labels")
    merged = ours("tcformer").merge_tokens(first_tokens(X), labels, NUM, GOLDEN["token_score"].exp())
    check_merged(merged, "tcformer.merge")
    assert list(merged) == ["x", "token_num", "map_size", "init_grid_size", "idx_token", "agg_weight"]


def test_chat_univi_ctm():
    labels, _ = run(FORMS["chat_univi"], ours("chat_univi"), X, NUM, K, noise="seeded")
    merged = ours("chat_univi").merge_tokens(first_tokens(X), labels, NUM, torch.ones(2, 60, 1))
    check_merged(merged, "chatunivi.ctm")
    assert list(merged) == ["x", "token_num", "idx_token", "agg_weight", "mask"] and merged["mask"] is None


def test_missrec_is_tcformer_without_noise():
    for sample in range(2):
        labels, centroids = ours("missrec").cluster_dpc_knn(X[sample], NUM, K)
        assert torch.equal(labels, expected("tcformer", "zero", "labels")[sample])
        members = torch.stack([X[sample][labels == c].sum(0) / ((labels == c).sum() + 1e-4) for c in range(NUM)])
        torch.testing.assert_close(centroids, members, rtol=1e-5, atol=1e-6)


def test_same_on_any_number_of_threads():
    for number in (1, 2, 4):
        with threads(number):
            labels, _ = run(FORMS["tcformer"], ours("tcformer"), X, NUM, K, noise="seeded")
            assert torch.equal(labels, expected("tcformer", "seeded", "labels"))
