"""torch.ops.dynfocus_native.cluster_mean and its gradient against float64, on every instruction set this CPU runs."""

import pytest
import torch

from tests.native import oracle

ops = torch.ops.dynfocus_native
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(params=("baseline", "avx2", "avx512", "avx512_bf16"))
def capability(request, monkeypatch, runnable_capabilities) -> str:
    if request.param not in runnable_capabilities:
        pytest.skip(f"this CPU or this build has no {request.param}")
    monkeypatch.setenv("DYNFOCUS_CPU_CAPABILITY", request.param)
    return request.param


def inputs(dtype: torch.dtype, weighted: bool):
    b, n, c, num_clusters = 3, 41, 263, 7
    x = (torch.randn(b, n, c) + 2).to(dtype)
    assignment = torch.randint(-1, num_clusters - 1, (b, n))  # the last cluster stays empty
    weight = (torch.rand(b, n) + 0.1).to(dtype) if weighted else None
    grad = torch.randn(b, num_clusters, c).to(dtype)
    return x, assignment, num_clusters, weight, grad


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    """One rounding to dtype on top of a few float32 roundings."""
    return {"rtol": torch.finfo(dtype).eps + 2e-6, "atol": 2e-6}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_oracle_and_autograd(capability: str, dtype: torch.dtype, weighted: bool) -> None:
    x, assignment, num_clusters, weight, grad = inputs(dtype, weighted)
    mean = ops.cluster_mean(x, assignment, num_clusters, weight)
    grad_x, grad_weight = ops.cluster_mean_backward(grad, x, assignment, weight)
    assert mean.dtype == grad_x.dtype == dtype
    assert weight is not None or grad_weight.shape == (0,)
    for b in range(len(x)):
        leaf = x[b].double().requires_grad_()
        leaf_weight = None if weight is None else weight[b].double().requires_grad_()
        expected = oracle.cluster_mean(leaf, assignment[b], num_clusters, leaf_weight)
        expected.backward(grad[b].double())
        torch.testing.assert_close(mean[b].double(), expected.detach(), **tolerance(dtype))
        torch.testing.assert_close(grad_x[b].double(), leaf.grad, **tolerance(dtype))
        if leaf_weight is not None:
            one_rounding = tolerance(dtype) | {"atol": 2e-5}
            torch.testing.assert_close(grad_weight[b].double(), leaf_weight.grad, **one_rounding)
    assert (mean[:, -1] == 0).all()
    assert (grad_x[assignment == -1] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_in_order_of_index_and_rounds_once(capability: str, dtype: torch.dtype) -> None:
    """Bit for bit, on every instruction set: x_0 + x_1 + ... in float32, divided, rounded to nearest even."""
    x, assignment = torch.randn(2, 700, 37).to(dtype), torch.randint(0, 3, (2, 700))
    mean = ops.cluster_mean(x, assignment, 3, None)
    for b in range(2):
        for m in range(3):
            total = torch.zeros(37)
            for point in x[b, assignment[b] == m].float():
                total += point
            assert torch.equal(mean[b, m], (total / (assignment[b] == m).sum()).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_every_half_is_read_and_rounded_as_torch_does(capability: str, dtype: torch.dtype) -> None:
    """Alone in its cluster each is its own mean, subnormal or not; the mean of two has to be rounded."""
    halves = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).view(1, 256, 256)
    alone = ops.cluster_mean(halves, torch.arange(256).unsqueeze(0), 256, None)
    torch.testing.assert_close(alone, halves, rtol=0, atol=0, equal_nan=True)
    pairs = torch.stack((halves.flatten(), halves.flatten()[torch.randperm(2**16)])).unsqueeze(0)
    mean = ops.cluster_mean(pairs, torch.zeros(1, 2, dtype=torch.int64), 1, None)
    expected = ((pairs[:, 0].float() + pairs[:, 1].float()) / 2).to(dtype)
    torch.testing.assert_close(mean[:, 0], expected, rtol=0, atol=0, equal_nan=True)


def test_without_x_there_is_the_gradient_of_x_alone() -> None:
    x, assignment, _, weight, grad = inputs(torch.bfloat16, True)
    grad_x, grad_weight = ops.cluster_mean_backward(grad, None, assignment, weight)
    assert torch.equal(grad_x, ops.cluster_mean_backward(grad, x, assignment, weight)[0])
    assert grad_weight.shape == (0,)


def test_large_results_are_written_as_a_whole() -> None:
    """Of several huge pages, with rows of nobody among them."""
    assignment = torch.randint(-1, 900, (3, 1000))
    grad = torch.randn(3, 900, 700)
    grad_x, _ = ops.cluster_mean_backward(grad, None, assignment, None)
    for b in range(3):
        count = torch.bincount(assignment[b] + 1, minlength=901)[1:]
        expected = torch.cat((grad[b] / count.unsqueeze(1), torch.zeros(1, 700)))[assignment[b]]
        torch.testing.assert_close(grad_x[b], expected)
    x = torch.randn(3, 1000, 700)
    x[assignment == -1] = torch.nan
    assert ops.cluster_mean(x, assignment, 900, None).isfinite().all()


def test_strides(capability: str) -> None:
    x, assignment, num_clusters, weight, grad = inputs(torch.bfloat16, True)
    strided = [t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in (x, grad)]
    turned = [t.t().contiguous().t() for t in (assignment, weight)]
    assert not strided[0].is_contiguous() and not turned[0].is_contiguous()
    assert torch.equal(
        ops.cluster_mean(strided[0], turned[0], num_clusters, turned[1]),
        ops.cluster_mean(x, assignment, num_clusters, weight),
    )
    found = ops.cluster_mean_backward(strided[1], strided[0], *turned)
    for one, other in zip(found, ops.cluster_mean_backward(grad, x, assignment, weight), strict=True):
        assert torch.equal(one, other)


def test_weights_that_sum_to_zero_give_zero() -> None:
    x = torch.randn(1, 2, 3)
    weight = torch.tensor([[1.0, -1.0]])
    assignment = torch.zeros(1, 2, dtype=torch.int64)
    assert (ops.cluster_mean(x, assignment, 1, weight) == 0).all()
    for gradient in ops.cluster_mean_backward(torch.ones(1, 1, 3), x, assignment, weight):
        assert (gradient == 0).all()


def test_bitwise_repeatable_on_any_threads(capability: str) -> None:
    x, assignment, num_clusters, weight, grad = inputs(torch.float32, True)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            mean = ops.cluster_mean(x, assignment, num_clusters, weight)
            results.append((mean, *ops.cluster_mean_backward(grad, x, assignment, weight)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for found, expected in zip(other, results[0], strict=True):
            assert torch.equal(found, expected)


def test_nan_stays_in_its_cluster() -> None:
    x = torch.ones(1, 3, 2)
    x[0, 1, 0] = torch.nan
    mean = ops.cluster_mean(x, torch.tensor([[0, 1, 0]]), 2, None)
    assert mean.isnan().tolist() == [[[False, False], [True, False]]]


@pytest.mark.parametrize("wrong", [2, -2])
def test_refuses_an_assignment_out_of_range(wrong: int) -> None:
    x, assignment = torch.zeros(2, 3, 4), torch.tensor([[0, 1, -1], [0, wrong, 1]])
    message = rf"assignment\[1, 1\] is {wrong}, .*num_clusters=2"
    with pytest.raises(RuntimeError, match=message):
        ops.cluster_mean(x, assignment, 2, None)
    with pytest.raises(RuntimeError, match=message):
        ops.cluster_mean_backward(torch.zeros(2, 2, 4), x, assignment, None)
