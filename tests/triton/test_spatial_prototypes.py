"""Prototypes of several levels: how they are launched, and what they do where a frame cannot be clustered."""

import pytest
import torch

from dynfocus_ops.triton.launch import record
from dynfocus_ops.triton.spatial_prototypes import spatial_prototypes
from tests.ops.support import assert_same_bits, poisoned_memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_averages_against_float64(dtype: torch.dtype) -> None:
    x = (torch.randn(2, 131, 77) + 4).to(dtype)
    prototypes, assignments = spatial_prototypes(x, [7, 3], [5, 2])
    for level, points, means in ((slice(0, 131), x, slice(0, 7)), (slice(131, 138), prototypes[:, :7], slice(7, 10))):
        joined = torch.nn.functional.one_hot(assignments[:, level]).double()
        exact = joined.mT @ points.double() / joined.sum(1).unsqueeze(-1)
        error = (prototypes[:, means].double() - exact).abs() / exact.abs().amax()
        assert error.max() <= 0.5 * torch.finfo(dtype).eps + 8 * torch.finfo(torch.float32).eps


def test_poisoned_memory_and_strides_change_no_bit() -> None:
    x = torch.randn(3, 50, 19)
    expected = spatial_prototypes(x, [9, 4], [4, 2])
    with poisoned_memory():
        assert_same_bits(spatial_prototypes(x.mT.contiguous().mT, [9, 4], [4, 2]), expected)


def test_a_frame_that_is_not_finite_has_no_assignment_and_touches_no_other() -> None:
    x = torch.randn(3, 20, 6)
    expected = spatial_prototypes(x, [5, 2], [3, 2])
    x[1, 4, 4] = torch.nan
    prototypes, assignments = spatial_prototypes(x, [5, 2], [3, 2])
    assert (assignments[1, :20] == -1).all() and (prototypes[1] == 0).all()
    assert_same_bits((prototypes[[0, 2]], assignments[[0, 2]]), [part[[0, 2]] for part in expected])


def test_frames_of_more_points_than_fit_a_tile() -> None:
    x = torch.randn(1, 260, 8)
    prototypes, assignments = spatial_prototypes(x, [6, 3], [4, 2])
    member = assignments[0, :260] == 2
    torch.testing.assert_close(prototypes[0, 2], x[0, member].mean(0))


@pytest.mark.parametrize("capability", [80, 90])
def test_launches_of_a_video(capability: int) -> None:
    with record(capability) as launches:
        x = torch.empty(3600, 256, 1408, dtype=torch.bfloat16, device="meta")
        prototypes, assignments = spatial_prototypes(x, [16, 6], [8, 3])
    assert prototypes.shape == (3600, 22, 1408) and assignments.shape == (3600, 272)
    one_level = ["density_kernel", "select_kernel", "member_lists_kernel", "cluster_mean_kernel"]
    assert [launch.kernel.__name__ for launch in launches] == 2 * one_level
