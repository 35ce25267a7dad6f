import pytest
import torch
from torch.autograd import gradcheck

from dynfocus_ops import cluster_mean, dpc_knn, spatial_prototypes

from .support import assert_same_bits, backends, golden, gradients

every_backend = pytest.mark.parametrize("backend", backends("spatial_prototypes"))


def composed(x: torch.Tensor, levels: tuple, backend: str):
    prototypes, assignments = [], []
    for num_clusters, k in levels:
        assignments.append(dpc_knn(x, num_clusters, k, backend=backend).assignment)
        x = cluster_mean(x, assignments[-1], num_clusters, backend=backend)
        prototypes.append(x)
    return torch.cat(prototypes, 1), assignments


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("levels", [((16, 8), (6, 3)), ((5, 2),), ((20, 3), (7, 7), (3, 1), (1, 1)), ((30, 30),)])
def test_identical_to_composing_the_ops(backend: str, dtype: torch.dtype, levels: tuple) -> None:
    x = torch.randn(2, 30, 7).to(dtype)
    assert_same_bits(spatial_prototypes(x, levels, backend=backend), composed(x, levels, backend))
    actual, expected = (
        gradients(lambda x, f=f: f(x)[0], (x,))[0]
        for f in (
            lambda x: spatial_prototypes(x, levels, backend=backend),
            lambda x: composed(x, levels, backend),
        )
    )
    torch.testing.assert_close(actual, expected)


@every_backend
def test_golden_levels(backend: str) -> None:
    tensors, metadata = golden("spatial_frame")
    levels = [(int(metadata[f"K{level}"]), int(metadata[f"k{level}"])) for level in (1, 2)]
    prototypes, assignments = spatial_prototypes(tensors["x"], levels, backend=backend)
    assert torch.equal(assignments[0], tensors["level1.assignment"].long())
    assert torch.equal(assignments[1], tensors["level2.assignment"].long())
    expected = torch.cat((tensors["level1.prototypes"], tensors["level2.prototypes"]), 1)
    torch.testing.assert_close(prototypes, expected, rtol=1e-5, atol=1e-5)


def test_gradcheck() -> None:
    x = torch.randn(2, 14, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: spatial_prototypes(x, ((6, 3), (3, 2)))[0], (x,))


@every_backend
def test_gradient_of_the_last_level_reaches_x_through_the_first(backend: str) -> None:
    x = torch.randn(1, 12, 4, requires_grad=True)
    prototypes, assignments = spatial_prototypes(x, ((5, 3), (2, 2)), backend=backend)
    (grad,) = torch.autograd.grad(prototypes[0, 5, 0], x)
    member = assignments[1][0][assignments[0][0]] == 0  # of the last level's first prototype
    assert (
        (grad[0, member, 0] > 0).all()
        and (grad[0, ~member] == 0).all()
        and grad[0, :, 0].sum().item() == pytest.approx(1)
    )


@every_backend
@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        (r"x has shape \[9, 2\], it must be \[T, N, C\]", {"x": torch.zeros(9, 2)}),
        ("levels is empty", {"levels": ()}),
        ("num_clusters of levels is 10, it must be at most 9", {"levels": ((10, 2),)}),
        ("k of levels is 5, it must be at most 4, the number of points of the level", {"levels": ((4, 2), (2, 5))}),
        (r"x has NaN or infinity at \[0, 0\]", {"x": torch.full((2, 9, 2), torch.inf)}),
    ],
)
def test_errors_name_the_argument(backend: str, message: str, arguments: dict) -> None:
    with pytest.raises(ValueError, match=message):
        spatial_prototypes(**{"x": torch.zeros(2, 9, 2), "levels": ((4, 2), (2, 2)), "backend": backend, **arguments})
