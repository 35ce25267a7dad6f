import weakref

import pytest
import torch
from torch.autograd import gradcheck

from dynfocus_ops import cluster_mean, dpc_knn

from .support import DEVICE, assert_same_bits, backends, golden, gradients

every_backend = pytest.mark.parametrize("backend", backends("cluster_mean"))


def plain(
    x: torch.Tensor, assignment: torch.Tensor, num_clusters: int, weight: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """The definition, in float64, cluster by cluster."""
    means = torch.zeros(len(x), num_clusters, x.shape[2], dtype=torch.float64)
    for b in range(len(x)):
        for m in range(num_clusters):
            members = assignment[b] == m
            if weight[b, members].sum() != 0:
                w = weight[b, members].double().unsqueeze(1)
                means[b, m] = (x[b, members].double() * w).sum(0) / (w.sum() + epsilon)
    return means


@every_backend
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 17, 5, 4), (3, 40, 300, 40), (2, 256, 33, 7)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("epsilon", [0, 0.3])
def test_equals_the_definition(backend: str, shape: tuple[int, ...], weighted: bool, epsilon: float) -> None:
    B, N, C, num_clusters = shape
    x, assignment = torch.randn(B, N, C) + 3, torch.randint(-1, num_clusters, (B, N))
    weight = torch.rand(B, N) if weighted else None
    result = cluster_mean(x, assignment, num_clusters, weight, epsilon=epsilon, backend=backend)
    expected = plain(x, assignment, num_clusters, torch.ones(B, N) if weight is None else weight, epsilon)
    torch.testing.assert_close(result.double(), expected, rtol=2e-5, atol=2e-5)


@every_backend
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("needs", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_gradient_equals_autograd_of_the_definition(
    backend: str, weighted: bool, needs: tuple[bool, bool], epsilon: float
) -> None:
    if not weighted and not needs[0]:
        needs = (True, False)
    x = torch.randn(2, 30, 9, requires_grad=needs[0])
    weight = (torch.rand(2, 30) + 0.1).requires_grad_(needs[1]) if weighted else None
    assignment = torch.randint(-1, 6, (2, 30))
    one_hot = torch.nn.functional.one_hot(assignment + 1, 7)[..., 1:].double()
    w = one_hot * (1.0 if weight is None else weight.double().unsqueeze(-1))
    expected = torch.einsum("bnm,bnc->bmc", w, x.double()) / (w.sum(1).unsqueeze(-1) + epsilon)
    wanted = [leaf for leaf in (x, weight) if leaf is not None and leaf.requires_grad]
    projection = torch.randn(2, 6, 9)
    result = cluster_mean(x, assignment, 6, weight, epsilon=epsilon, backend=backend)
    for actual, exact in zip(
        torch.autograd.grad((result * projection).sum(), wanted),
        torch.autograd.grad((expected * projection).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(actual, exact, rtol=2e-5, atol=2e-5)


def test_gradcheck() -> None:
    x = torch.randn(2, 12, 3, dtype=torch.float64, requires_grad=True)
    weight = (torch.rand(2, 12, dtype=torch.float64) + 0.1).requires_grad_()
    assignment = torch.randint(-1, 4, (2, 12))
    for epsilon in (0.0, 0.3):
        assert gradcheck(lambda x, w: cluster_mean(x, assignment, 5, w, epsilon=epsilon), (x, weight))  # noqa: B023
        assert gradcheck(lambda x: cluster_mean(x, assignment, 5, epsilon=epsilon), (x,))  # noqa: B023


@every_backend
def test_nobody_and_empty_clusters(backend: str) -> None:
    x = torch.randn(1, 6, 4)
    assignment = torch.tensor([[-1, 2, 2, -1, 0, 2]])
    weight = torch.tensor([[1.0, 0.0, 0.0, 1.0, 2.0, 0.0]])
    for w in (None, weight):
        result = cluster_mean(x, assignment, 4, w, backend=backend)
        assert (result[0, 1] == 0).all() and (result[0, 3] == 0).all()
        assert torch.equal(result[0, 0], x[0, 4])
        grad_x, *grad_w = gradients(
            lambda x, *w: cluster_mean(x, assignment, 4, *w, backend=backend), (x,) if w is None else (x, w)
        )
        assert (grad_x[0, [0, 3]] == 0).all() and grad_x.isfinite().all() and all(g.isfinite().all() for g in grad_w)
    assert (cluster_mean(x, assignment, 4, weight, backend=backend)[0, 2] == 0).all()


@every_backend
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 3e38])
def test_points_in_no_mean_change_no_bit(backend: str, value: float) -> None:
    """Those of nobody, and those of a cluster without weight: whatever they hold, forward and backward."""
    x, weight = torch.randn(1, 6, 4), torch.tensor([[1.0, 0.0, 2.0, 1.0, 3.0, 0.0]])
    assignment = torch.tensor([[-1, 2, 0, -1, 0, 2]])
    changed_x, changed_weight = x.clone(), weight.clone()
    changed_x[0, [0, 1, 3, 5]], changed_weight[0, [0, 3]] = value, value

    def mean(x, *w):
        return cluster_mean(x, assignment, 4, *w, backend=backend)

    assert_same_bits(mean(changed_x, changed_weight), mean(x, weight))
    grads = gradients(mean, (changed_x, changed_weight))
    assert_same_bits(grads, gradients(mean, (x, weight)))
    assert all((grad[0, [0, 1, 3, 5]] == 0).all() for grad in grads)
    assert_same_bits(gradients(mean, (changed_x,)), gradients(mean, (x,)))


@every_backend
@pytest.mark.parametrize("name", ["dpc_knn_small", "dpc_knn_odd", "dpc_knn_frame", "dpc_knn_masked"])
def test_golden_means(backend: str, name: str) -> None:
    """The research code adds 1e-6 to each cluster's weight, and masked points are in its cluster 0."""
    tensors, metadata = golden(name)
    num_clusters = int(metadata["num_clusters"])
    assignment = tensors["assignment"].long()
    for weight, merged in ((None, tensors["merged_mean"]), (tensors["weight"], tensors["merged_weighted"])):
        result = cluster_mean(tensors["x"], assignment, num_clusters, weight, epsilon=1e-6, backend=backend)
        torch.testing.assert_close(result, merged, rtol=1e-5, atol=1e-6)


@every_backend
def test_golden_means_of_our_own_clusters(backend: str) -> None:
    tensors, metadata = golden("dpc_knn_frame")
    num_clusters, k = int(metadata["num_clusters"]), int(metadata["k"])
    assignment = dpc_knn(tensors["x"], num_clusters, k).assignment
    result = cluster_mean(tensors["x"], assignment, num_clusters, backend=backend)
    torch.testing.assert_close(result, tensors["merged_mean"], rtol=1e-5, atol=1e-5)


@every_backend
def test_sums_of_many_halves_are_made_in_float32(backend: str) -> None:
    x = torch.ones(1, 5000, 2, dtype=torch.bfloat16)  # in bfloat16 itself the sum would stop at 256
    assert_same_bits(cluster_mean(x, torch.zeros(1, 5000, dtype=torch.int64), 1, backend=backend), x[:, :1])


@every_backend
def test_weight_may_have_another_dtype(backend: str) -> None:
    x, assignment = torch.randn(1, 9, 2), torch.randint(0, 3, (1, 9))
    weight = torch.rand(1, 9).bfloat16().requires_grad_()
    result = cluster_mean(x, assignment, 3, weight, backend=backend)
    assert_same_bits(result, cluster_mean(x, assignment, 3, weight.detach().float(), backend=backend))
    assert torch.autograd.grad(result.sum(), weight)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_float64_weight_is_computed_with_in_float64(dtype: torch.dtype) -> None:
    x, assignment = torch.randn(2, 40, 3).to(dtype), torch.randint(0, 3, (2, 40))
    weight = torch.rand(2, 40, dtype=torch.float64) * 1e-60  # 0 in float32
    assert_same_bits(cluster_mean(x, assignment, 3, weight), cluster_mean(x.double(), assignment, 3, weight).to(dtype))
    grad_x, grad_weight = gradients(lambda x, w: cluster_mean(x, assignment, 3, w), (x, weight))
    assert grad_x.dtype == dtype and grad_weight.dtype == torch.float64 and grad_x.abs().sum() > 0


@pytest.mark.skipif(DEVICE is not None, reason="it is a copy of the points that is kept")
@every_backend
@pytest.mark.parametrize("weighted", [False, True])
def test_points_are_kept_for_the_gradient_of_weight_alone(backend: str, weighted: bool) -> None:
    x, weight = torch.randn(1, 9, 2, requires_grad=True) * 2, torch.rand(1, 9, requires_grad=weighted)
    kept = weakref.ref(x)
    result = cluster_mean(x, torch.zeros(1, 9, dtype=torch.int64), 1, weight, backend=backend)
    del x
    assert (kept() is not None) == weighted
    result.sum().backward()


X = torch.zeros(2, 6, 3)
ASSIGNMENT = torch.zeros(2, 6, dtype=torch.int64)


@every_backend
@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, r"x has shape \[6, 3\], it must be \[B, N, C\]", {"x": X[0]}),
        (TypeError, "assignment is torch.int32, it must be torch.int64", {"assignment": ASSIGNMENT.int()}),
        (ValueError, r"assignment has shape \[2, 5\], it must be \[B, N\] of x", {"assignment": ASSIGNMENT[:, :5]}),
        (
            ValueError,
            r"assignment has values from 0 to 4, .* \[-1, 4\)",
            {"assignment": ASSIGNMENT + torch.arange(6) % 5},
        ),
        (ValueError, r"assignment has values from -2 to -2", {"assignment": ASSIGNMENT - 2}),
        (ValueError, "num_clusters is 0", {"num_clusters": 0}),
        (TypeError, "weight is torch.int64", {"weight": ASSIGNMENT}),
        (ValueError, "epsilon is -1e-06, it must be a number that is not negative", {"epsilon": -1e-6}),
        (ValueError, "epsilon is nan", {"epsilon": torch.nan}),
        (TypeError, "epsilon is a str, it must be a float", {"epsilon": "1e-6"}),
        (ValueError, r"weight has shape \[2, 6, 3\], it must be \[B, N\]", {"weight": X}),
    ],
)
def test_errors_name_the_argument(backend: str, error: type, message: str, arguments: dict) -> None:
    with pytest.raises(error, match=message):
        cluster_mean(**{"x": X, "assignment": ASSIGNMENT, "num_clusters": 4, "backend": backend, **arguments})
