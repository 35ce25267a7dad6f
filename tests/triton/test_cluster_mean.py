"""What only kernels have: tiles, lists, unwritten memory, launches."""

from pathlib import Path

import pytest
import torch

from dynfocus_ops import reference
from dynfocus_ops.triton.cluster_mean import cluster_mean, cluster_mean_backward
from dynfocus_ops.triton.launch import record
from dynfocus_ops.triton.member_lists import member_lists
from tests.ops.support import assert_same_bits, poisoned_memory


@pytest.mark.parametrize(("B", "N", "M"), [(1, 1, 1), (3, 9, 4), (1, 1030, 7), (2, 16, 300)])
def test_member_lists(B: int, N: int, M: int) -> None:
    """Ascending in each list; what is of no cluster, below or above, comes last; NaN there weighs nothing."""
    assignment = torch.randint(-2, M + 2, (B, N))
    weight = torch.rand(B, N).masked_fill((assignment < 0) | (assignment >= M), torch.nan)
    with poisoned_memory():
        members, bounds, total = member_lists(assignment, M, weight)
        counts = member_lists(assignment, M, None)[2]
    for b in range(B):
        assert bounds[b, 0] == 0 and bounds[b, M + 1] == N
        for m in range(M + 1):
            found = members[b, bounds[b, m] : bounds[b, m + 1]].tolist()
            mine = assignment[b] == m if m < M else (assignment[b] < 0) | (assignment[b] >= M)
            assert found == mine.nonzero().flatten().tolist() and counts[b, m] == len(found)
            if m < M:
                torch.testing.assert_close(total[b, m], weight[b, mine].sum())


@pytest.mark.parametrize("C", [1, 256, 257, 600])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_slices_of_the_channels(C: int, dtype: torch.dtype) -> None:
    x, assignment, weight = torch.randn(2, 11, C).to(dtype) + 3, torch.randint(-1, 3, (2, 11)), torch.rand(2, 11) + 0.1
    grad = torch.randn(2, 3, C).to(dtype)
    with poisoned_memory():
        actual = cluster_mean(x, assignment, 3, weight, 0.3), *cluster_mean_backward(grad, x, assignment, weight, 0.3)
    expected = (
        reference.cluster_mean(x, assignment, 3, weight, 0.3),
        *reference.cluster_mean_backward(grad, x, assignment, weight, 0.3),
    )
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_sums_are_in_order_of_index() -> None:
    """One after the other in float32: the same bits whatever the tile."""
    x, assignment = torch.randn(1, 40, 300) * torch.logspace(-3, 3, 40)[:, None], torch.randint(0, 2, (1, 40))
    for m in range(2):
        members = x[0, assignment[0] == m]
        total = torch.zeros(300)
        for row in members:
            total += row
        assert_same_bits(cluster_mean(x, assignment, 2, None)[0, m], total / len(members))


def test_batch_mates_and_strides_change_no_bit() -> None:
    x, assignment, weight = torch.randn(3, 20, 270), torch.randint(-1, 4, (3, 20)), torch.rand(3, 20)
    grad = torch.randn(3, 4, 1).expand(-1, -1, 270)  # as of a sum over channels
    strided = x.permute(2, 0, 1).contiguous().permute(1, 2, 0), assignment.T.contiguous().T, weight.T.contiguous().T
    assert_same_bits(
        cluster_mean(strided[0], strided[1], 4, strided[2]), together := cluster_mean(x, assignment, 4, weight)
    )
    gradients = cluster_mean_backward(grad.contiguous(), x, assignment, weight)
    assert_same_bits(cluster_mean_backward(grad, *strided), gradients)
    for b in range(3):
        alone = slice(b, b + 1)
        assert_same_bits(cluster_mean(x[alone], assignment[alone], 4, weight[alone]), together[alone])
        assert_same_bits(
            cluster_mean_backward(grad[alone], x[alone], assignment[alone], weight[alone]),
            tuple(gradient[alone] for gradient in gradients),
        )


def test_assignments_out_of_range_are_of_nobody() -> None:
    """On a GPU, where nobody looks at them: no program reads or writes outside."""
    x, assignment = torch.randn(1, 6, 5), torch.tensor([[0, 7, 1 << 40, -(1 << 40), 1, 2]])
    clamped = torch.tensor([[0, -1, -1, -1, 1, -1]])
    assert_same_bits(cluster_mean(x, assignment, 2, None), cluster_mean(x, clamped, 2, None))
    grad = torch.randn(1, 2, 5)
    assert_same_bits(
        cluster_mean_backward(grad, None, assignment, None), cluster_mean_backward(grad, None, clamped, None)
    )


def test_offsets_beyond_2_31(tmp_path: Path) -> None:
    """Rows 2^30 numbers apart, in a file that is all hole."""
    memory = torch.from_file(str(tmp_path / "x"), shared=True, size=(3 << 30) + 8, dtype=torch.bfloat16)
    x = memory.as_strided((1, 4, 8), (0, 1 << 30, 1))
    assignment = torch.tensor([[0, 1, 1, 1]])
    x[0, 3] = 3
    assert_same_bits(cluster_mean(x, assignment, 2, None)[0, 1], torch.ones(8).bfloat16())


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("B", "N", "C", "M"), [(1, 3600, 22528, 230), (1000, 256, 1408, 16)])
def test_launches_of_production_shapes(capability: int, B: int, N: int, C: int, M: int) -> None:
    with torch.device("meta"):
        x, assignment = torch.empty(B, N, C, dtype=torch.bfloat16), torch.empty(B, N, dtype=torch.int64)
        weight, grad = torch.empty(B, N), torch.empty(B, M, C, dtype=torch.bfloat16)
    with record(capability) as launches:
        cluster_mean(x, assignment, M, weight)
        cluster_mean_backward(grad, x, assignment, weight)
    names = [launch.kernel.__name__ for launch in launches]
    assert names == [
        *("member_lists_kernel", "cluster_mean_kernel"),
        *("member_lists_kernel", "cluster_mean_backward_kernel", "sum_of_parts_kernel"),
    ]
    assert launches[1].grid[0] >= 10 * 132  # enough to have all of the GPU work
