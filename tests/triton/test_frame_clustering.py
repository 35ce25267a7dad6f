"""Clustering of many small samples: where a block of rows, peaks or centres is not enough, and at the limits."""

import math

import pytest
import torch
from torch import Tensor

from dynfocus_ops.triton.dpc_knn import dpc_knn
from dynfocus_ops.triton.frame_clustering import MOST_POINTS, cluster_frames, density_kernel, select_kernel, takes
from dynfocus_ops.triton.launch import record
from tests.ops.staged import check_dpc_knn
from tests.ops.support import assert_same_bits, poisoned_memory

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


def cluster(x: Tensor, num_clusters: int, k: int, mask: Tensor | None = None, noise: Tensor | None = None):
    return cluster_frames(x, num_clusters, k, mask, float(x.shape[-1]), noise)


@every_dtype
@pytest.mark.parametrize("points", [33, 129])
def test_more_peaks_than_a_block_of_them(dtype: torch.dtype, points: int) -> None:
    """With k = 1 each point is its only neighbour, so a peak."""
    x = torch.randn(1, points, 5).to(dtype)
    check_dpc_knn(x, cluster(x, 3, 1), 3, 1)


def test_more_centers_than_a_block_of_them() -> None:
    """Every point three times: also with two equal centres for a point, in different blocks."""
    x = torch.randn(2, 27, 6).repeat(1, 3, 1)
    for num_clusters in (16, 17, 37, 60, 81):
        check_dpc_knn(x, cluster(x, num_clusters, 3), num_clusters, 3)


@every_dtype
@pytest.mark.parametrize("offset", [3.0, 30.0, 1000.0])
def test_more_points_within_rounding_than_neighbors_wanted(dtype: torch.dtype, offset: float) -> None:
    """Heaps of 24, in which products of points far from the origin cannot tell near from nearest."""
    x = torch.randn(1, 2, 40).repeat_interleave(24, 1) + 0.03 * torch.randn(1, 48, 40) + offset
    x = x.to(dtype)
    check_dpc_knn(x, cluster(x, 5, 4), 5, 4)


@every_dtype
def test_masks_noise_and_strides_with_poisoned_memory(dtype: torch.dtype) -> None:
    x, noise = torch.randn(3, 67, 37).to(dtype), 1e-6 * torch.rand(3, 67)
    mask = torch.rand(3, 67) > 0.3
    mask[1] = True
    expected = cluster(x, 9, 4, mask, noise)
    check_dpc_knn(x, expected, 9, 4, mask=mask, noise=noise)
    filled = x.masked_fill(~mask.unsqueeze(-1), torch.nan)
    strided = filled.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert strided.stride() == (67, 1, 3 * 67)
    with poisoned_memory():
        assert_same_bits(cluster(strided, 9, 4, mask.T.contiguous().T, noise.T.contiguous().T), expected)


@pytest.mark.parametrize("stride", [(2**30 + 8, 5, 1), (5, 2**29 + 8, 1), (5, 1, 2**29 + 8)])
def test_offsets_beyond_31_bits(stride: tuple[int, ...]) -> None:
    """Of the last sample, point or channel, from strides that fit 31 bits."""
    x = torch.randn(3, 5, 5).bfloat16()
    far = torch.empty(2**31 + 128, dtype=torch.bfloat16).as_strided(x.shape, stride)  # a few pages of it are touched
    if stride[0] == 5:  # samples overlap
        x, far = x[:1], far[:1]
    far.copy_(x)
    for num_clusters in (2, 5):
        assert_same_bits(cluster(far, num_clusters, 2), cluster(x, num_clusters, 2))


def test_a_sample_that_is_not_finite_is_left_out() -> None:
    x = torch.randn(4, 20, 6)
    expected = cluster(x, 4, 3)
    x[1, 7, 2], x[2, 3, 0] = torch.nan, torch.inf
    assignment, centers, log_density, _ = cluster(x, 4, 3)
    assert (assignment[[1, 2]] == -1).all() and log_density[1, 7].isnan() and log_density[2, 3].isnan()
    assert ((centers >= 0) & (centers < 20)).all()
    assert_same_bits([part[[0, 3]] for part in cluster(x, 4, 3)], [part[[0, 3]] for part in expected])


def test_fewer_valid_points_than_wanted_crash_nothing() -> None:
    """On a GPU nobody looks at the mask's values."""
    x, mask = torch.randn(2, 19, 4), torch.zeros(2, 19, dtype=torch.bool)
    mask[0, 5] = True
    assignment, centers, _, _ = cluster(x, 4, 3, mask)
    assert ((assignment >= -1) & (assignment < 4)).all() and ((centers >= 0) & (centers < 19)).all()


@every_dtype
@pytest.mark.parametrize("capability", [80, 90])
def test_a_video_is_two_launches(dtype: torch.dtype, capability: int) -> None:
    x = torch.empty(3600, 256, 1408, dtype=dtype, device="meta")
    with record(capability) as launches:
        dpc_knn(x, 16, 8, None, 1408.0, None)
    density, select = launches
    rows = density.constants["ROWS"]
    assert density.kernel is density_kernel and density.grid == (3600 * 256 // rows,)
    assert select.kernel is select_kernel and select.grid == (3600,)


def test_which_samples_are_clustered_here() -> None:
    """However many they are: a sample has the same bits alone."""
    assert takes(torch.empty(1, MOST_POINTS, 4)) and not takes(torch.empty(1000, MOST_POINTS + 1, 4))
    with record(90) as launches:
        dpc_knn(torch.empty(2, MOST_POINTS + 1, 64, device="meta"), 4, 3, None, 64.0, None)
    assert density_kernel not in [launch.kernel for launch in launches]


def test_one_sample_of_long_rows_is_split_over_the_gpu() -> None:
    """A video of few frames: two programs would read all of it."""
    video = torch.empty(1, 64, 22528, dtype=torch.bfloat16, device="meta")
    with record(90) as launches:
        dpc_knn(video, 25, 8, None, 22528.0, None)
    assert max(math.prod(launched.grid) for launched in launches) >= 16
