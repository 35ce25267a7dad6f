"""The suite's judge, judged: the reference passes, and each kind of mistake does not."""

import pytest
import torch
from torch import Tensor

from benchmarks import oracle, research, vectorised
from benchmarks.cases import clustered
from dynfocus_ops import cluster_mean, dpc_knn

CLUSTERS, K = 5, 4


@pytest.fixture
def x() -> Tensor:
    return clustered((2, 60, 16), CLUSTERS)


def answer(x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
    return [part.clone() for part in dpc_knn(x, CLUSTERS, K, mask=mask, backend="reference")]


def test_the_reference_is_right(x: Tensor) -> None:
    assert oracle.Clustering(x, CLUSTERS, K).share(tuple(answer(x))) == 1


def test_the_reference_is_right_where_masked(x: Tensor) -> None:
    mask = torch.arange(60) < torch.tensor([[60], [35]])
    assert oracle.Clustering(x, CLUSTERS, K, mask).share(tuple(answer(x, mask))) == 1


def test_distances_that_are_not_kept_say_the_same(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "KEPT", 0)
    monkeypatch.setattr(oracle, "BLOCK", 700)  # eleven rows at a time
    assert oracle.Clustering(x, CLUSTERS, K).share(tuple(answer(x))) == 1


@pytest.mark.parametrize("function", [research.dpc_knn, vectorised.dpc_knn])
def test_the_peers_compute_the_same(x: Tensor, function: object) -> None:
    assert oracle.Clustering(x, CLUSTERS, K).share(function(x, CLUSTERS, K)) == 1  # type: ignore[operator]


@pytest.mark.parametrize("part", range(4), ids=["assignment", "centers", "log_density", "delta"])
def test_a_mistake_in_each_part_is_seen(x: Tensor, part: int) -> None:
    result = answer(x)
    if part == 0:
        other = next(i for i in range(60) if i not in result[1][0])
        result[0][0, other] = (result[0][0, other] + 1) % CLUSTERS
    elif part == 1:
        result[1][0] = result[1][0].flip(0)
    else:
        result[part][0, 7] *= 1.01
    assert oracle.Clustering(x, CLUSTERS, K).share(tuple(result)) < 1


def test_centers_out_of_the_mask_are_wrong(x: Tensor) -> None:
    mask = torch.arange(60) < torch.tensor([[60], [35]])
    result = answer(x, mask)
    result[1][1, -1] = 59
    assert oracle.Clustering(x, CLUSTERS, K, mask).share(tuple(result)) == pytest.approx(60 / 95)


def test_labels_are_the_references_in_float64(x: Tensor) -> None:
    expected = dpc_knn(x.double(), CLUSTERS, K)
    found = oracle.labels(x, CLUSTERS, K)
    assert torch.equal(found.assignment, expected.assignment)
    assert torch.equal(found.centers, expected.centers)
    torch.testing.assert_close(found.log_density, expected.log_density)
    torch.testing.assert_close(found.delta, expected.delta)


def test_density_share_counts_points(x: Tensor) -> None:
    log_density = answer(x)[2]
    assert oracle.Clustering(x, CLUSTERS, K).density_share(log_density) == 1
    log_density[1, :30] *= 1.001
    assert oracle.Clustering(x, CLUSTERS, K).density_share(log_density) == pytest.approx(0.75)


def test_cluster_means_are_the_references() -> None:
    x, assignment = torch.randn(2, 9, 3), torch.randint(4, (2, 9))
    expected = cluster_mean(x.double(), assignment, 5)
    torch.testing.assert_close(oracle.cluster_means(x, assignment, 5), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_closeness_is_that_of_the_dtype(dtype: torch.dtype) -> None:
    exact = torch.rand(1000, dtype=torch.float64) + 1
    assert oracle.close_share(exact.to(dtype), exact) == 1
    off = exact.to(dtype) * (1 + 64 * torch.finfo(dtype).eps)
    assert oracle.close_share(off, exact) == 0
    with pytest.raises(AssertionError, match="must be"):
        oracle.close_share(exact[:5].to(dtype), exact)
