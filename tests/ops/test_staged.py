"""The checker itself: it takes a right clustering and refuses every corrupted one, for the stage that was corrupted."""

import pytest
import torch

from dynfocus_ops import reference

from .staged import check_dpc_knn

MASKED = 17  # the last points of each sample


def right_answer(dtype: torch.dtype = torch.float32):
    x = torch.randn(2, 40, 8).to(dtype)
    mask = torch.arange(40).expand(2, 40) < 40 - MASKED
    noise = torch.rand(2, 40) * 1e-3
    result = [part.clone() for part in reference.dpc_knn(x, 5, 4, mask, 8.0, noise)]
    return x, result, mask, noise


def check(x, result, mask, noise):
    check_dpc_knn(x, tuple(result), 5, 4, mask=mask, noise=noise)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_takes_a_right_answer(dtype: torch.dtype) -> None:
    check(*right_answer(dtype))


def test_refuses_a_density_off_by_a_hundred_thousandth() -> None:
    x, result, mask, noise = right_answer()
    result[2][1, 3] *= 1 + 1e-5
    with pytest.raises(AssertionError, match=r"^density"):
        check(x, result, mask, noise)


def test_refuses_another_k() -> None:
    x, _, mask, noise = right_answer()
    with pytest.raises(AssertionError, match=r"^density"):
        check(x, reference.dpc_knn(x, 5, 5, mask, 8.0, noise), mask, noise)


def test_refuses_a_delta_to_a_point_that_is_not_denser() -> None:
    x, result, mask, noise = right_answer()
    densest = result[2][0].argmax()
    result[3][0, densest] = torch.cdist(x[0, densest].unsqueeze(0), x[0, : 40 - MASKED]).sort().values[0, 1] / 8**0.5
    with pytest.raises(AssertionError, match=r"^delta"):
        check(x, result, mask, noise)


@pytest.mark.parametrize("change", ["swap", "next", "twice"])
def test_refuses_other_centers(change: str) -> None:
    x, result, mask, noise = right_answer()
    centers = result[1]
    if change == "swap":
        centers[0, :2] = centers[0, :2].flip(0)
    elif change == "next":
        centers[0, 4] = next(i for i in range(40 - MASKED) if i not in centers[0].tolist())
    else:
        centers[0, 4] = centers[0, 3]
    with pytest.raises(AssertionError, match=r"^centers"):
        check(x, result, mask, noise)


def test_refuses_the_higher_index_of_equal_scores() -> None:
    x = torch.tensor([[[0.0], [0.0], [4.0], [4.0], [9.0]]])  # k = 1: all equally dense
    result = [part.clone() for part in reference.dpc_knn(x, 4, 1, None, 1.0, None)]
    check_dpc_knn(x, tuple(result), 4, 1)
    assert result[1].tolist() == [[0, 4, 2, 1]]  # 1 and 3 duplicate a denser point: score -inf both
    result[1][0, 3] = 3
    with pytest.raises(AssertionError, match=r"^centers: of equal"):
        check_dpc_knn(x, tuple(result), 4, 1)


def test_refuses_a_farther_center() -> None:
    x, result, mask, noise = right_answer()
    point = next(i for i in range(40 - MASKED) if i not in result[1][0].tolist())
    result[0][0, point] = (result[0][0, point] + 1) % 5
    with pytest.raises(AssertionError, match=r"^assignment: not"):
        check(x, result, mask, noise)


def test_refuses_a_center_that_joins_another() -> None:
    x, result, mask, noise = right_answer()
    result[0][0, result[1][0, 2]] = 0
    with pytest.raises(AssertionError, match=r"^assignment: a centre"):
        check(x, result, mask, noise)


def test_refuses_the_later_of_equal_centers() -> None:
    x = torch.tensor([[[0.0], [0.0], [0.0], [9.0]]])
    result = [part.clone() for part in reference.dpc_knn(x, 3, 1, None, 1.0, None)]
    check_dpc_knn(x, tuple(result), 3, 1)
    assert result[1].tolist() == [[0, 3, 1]] and result[0].tolist() == [[0, 2, 0, 1]]
    result[0][0, 2] = 2
    with pytest.raises(AssertionError, match=r"^assignment: of equal"):
        check_dpc_knn(x, tuple(result), 3, 1)


@pytest.mark.parametrize(("part", "value"), [(0, 0), (1, 39), (2, -3.0), (3, 0.5)])
def test_refuses_traces_of_masked_out_points(part: int, value: float) -> None:
    x, result, mask, noise = right_answer()
    result[part][1, 39 if part != 1 else 4] = value
    with pytest.raises(AssertionError, match=r"^mask"):
        check(x, result, mask, noise)
