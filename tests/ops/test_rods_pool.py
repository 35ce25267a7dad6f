from functools import partial

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import gelu, linear

from dynfocus_ops import reference, rods_pool
from dynfocus_ops.backends import interpreted

from .support import assert_same_bits, backends, golden, gradients

every_backend = pytest.mark.parametrize("backend", backends("rods_pool"))


def plain(tokens, queries, frame_query=None, query_mask=None, scale=None):
    """The definition, frame by frame, in float64."""
    rows = []
    for t, frame in enumerate(tokens.double()):
        query = (queries if frame_query is None else queries[frame_query[t]]).double()
        if query_mask is not None:
            query = query[query_mask if frame_query is None else query_mask[frame_query[t]]]
        attention = ((scale or frame.shape[1] ** -0.5) * query @ frame.T).softmax(-1)
        rows.append(torch.stack(((attention @ frame).mean(0), frame.mean(0))))
    return torch.stack(rows)


def variants(T: int, M: int, Q: int, C: int):
    """Shared queries, a batch of questions, queries of each frame; with and without masks and a scale."""
    mask = torch.rand(3, Q) > 0.5
    mask[:, 0] = True
    frame_query = torch.randint(0, 3, (T,))
    yield torch.randn(Q, C), {}
    yield torch.randn(Q, C), {"query_mask": mask[0], "scale": 0.3}
    yield torch.randn(3, Q, C), {"frame_query": frame_query}
    yield torch.randn(3, Q, C), {"frame_query": frame_query, "query_mask": mask}
    yield torch.randn(T, Q, C), {"frame_query": torch.arange(T)}


BLOCKS_OF_TWO_FRAMES = (5, 300, 2, 700)  # in the reference; too much for Triton's interpreter


@every_backend
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1), (5, 22, 8, 48), (3, 257, 5, 33), *([] if interpreted() else [(40, 6, 3, 7), BLOCKS_OF_TWO_FRAMES])],
)
def test_equals_the_definition_with_its_gradient(backend: str, shape: tuple[int, ...]) -> None:
    tokens = torch.randn(shape[0], shape[1], shape[3])
    for queries, extra in variants(*shape):
        ours, exact = partial(rods_pool, **extra, backend=backend), partial(plain, **extra)
        torch.testing.assert_close(ours(tokens, queries).double(), exact(tokens, queries), rtol=1e-5, atol=1e-5)
        actual, expected = gradients(ours, (tokens, queries)), gradients(exact, (tokens, queries))
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_gradcheck() -> None:
    tokens = torch.randn(4, 5, 3, dtype=torch.float64, requires_grad=True)
    for queries, extra in variants(4, 5, 2, 3):
        queries = queries.double().requires_grad_()
        assert gradcheck(lambda x, q, extra=extra: rods_pool(x, q, **extra), (tokens, queries))


@every_backend
def test_golden_tokens(backend: str) -> None:
    """The research code's keys are a linear map of the visual tokens, whose bias drops out of the softmax."""
    tensors, _ = golden("rods_small")
    visual, text, weight = tensors["visual"], tensors["text"], tensors["key.weight"]
    visual.requires_grad_(), text.requires_grad_(), weight.requires_grad_()
    pooled = rods_pool(visual, text @ weight, frame_query=torch.arange(len(visual)), backend=backend)
    average = gelu(linear(pooled[:, 1], tensors["coarse_avg.0.weight"], tensors["coarse_avg.0.bias"]))
    average = linear(average, tensors["coarse_avg.2.weight"], tensors["coarse_avg.2.bias"])
    modulated = linear(pooled[:, 0], tensors["coarse_text.weight"], tensors["coarse_text.bias"])
    tokens = torch.stack((average, modulated), 1)
    torch.testing.assert_close(tokens, tensors["tokens"], rtol=1e-4, atol=1e-5)
    grads = torch.autograd.grad((tokens * tensors["grad_tokens"]).sum(), (visual, text, weight))
    for actual, name in zip(grads, ("grad_visual", "grad_text", "grad_key.weight"), strict=True):
        torch.testing.assert_close(actual, tensors[name], rtol=1e-4, atol=1e-5)


@every_backend
def test_masked_out_queries_change_no_bit_and_get_no_gradient(backend: str) -> None:
    tokens, queries = torch.randn(3, 9, 5), torch.randn(2, 4, 5)
    mask = torch.tensor([[True, True, False, False], [True, False, True, False]])
    extra = {"frame_query": torch.tensor([1, 0, 1]), "query_mask": mask, "backend": backend}
    expected = rods_pool(tokens, queries, **extra)
    expected_grads = gradients(lambda x, q: rods_pool(x, q, **extra), (tokens, queries))
    assert (expected_grads[1][~mask] == 0).all() and (expected_grads[1][mask] != 0).any()
    for value in (1e3, 1e38, torch.inf, torch.nan):
        changed = queries.masked_fill(~mask.unsqueeze(-1), value)
        assert_same_bits(rods_pool(tokens, changed, **extra), expected)
        assert_same_bits(gradients(lambda x, q: rods_pool(x, q, **extra), (tokens, changed)), expected_grads)


@every_backend
def test_masked_out_queries_get_no_gradient_from_an_infinite_one(backend: str) -> None:
    queries, mask = torch.randn(2, 5, requires_grad=True), torch.tensor([True, False])
    pooled = rods_pool(torch.randn(3, 9, 5), queries, query_mask=mask, backend=backend)
    (grad,) = torch.autograd.grad(pooled, queries, torch.full_like(pooled, torch.inf))
    assert grad[0].isnan().any() and (grad[1] == 0).all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16, torch.float32])
def test_floats_are_promoted(half: torch.dtype) -> None:
    """Computed in float64 where one input is, returned in the dtype of tokens."""
    tokens, queries = torch.randn(3, 9, 5).to(half), 30 * torch.randn(4, 5, dtype=torch.float64)
    assert_same_bits(rods_pool(tokens, queries), rods_pool(tokens.double(), queries).to(half))
    assert_same_bits(
        rods_pool(tokens.double(), queries.to(half)), rods_pool(tokens.double(), queries.to(half).double())
    )
    grads = gradients(lambda x, q: rods_pool(x, q).double(), (tokens, queries))
    exact = gradients(rods_pool, (tokens.double(), queries))
    assert [grad.dtype for grad in grads] == [half, torch.float64]
    torch.testing.assert_close(grads[0].double(), exact[0], rtol=0.05, atol=0.02)


def test_no_query_left_is_zero_where_it_is_not_refused() -> None:
    """On a GPU, where nobody looks at the mask."""
    tokens, queries, mask = torch.randn(2, 9, 5), torch.randn(1, 4, 5), torch.zeros(1, 4, dtype=torch.bool)
    frame_query = torch.zeros(2, dtype=torch.int64)
    pooled = reference.rods_pool(tokens, queries, frame_query, mask, 1.0)
    assert (pooled[:, 0] == 0).all() and torch.equal(pooled[:, 1], tokens.mean(1))
    grads = reference.rods_pool_backward(torch.ones(2, 2, 5), tokens, queries, frame_query, mask, 1.0, True, True)
    assert torch.allclose(grads[0], torch.full_like(tokens, 1 / 9)) and (grads[1] == 0).all()


@every_backend
def test_only_the_gradients_asked_for(backend: str) -> None:
    tokens, queries = torch.randn(3, 9, 5), torch.randn(4, 5)
    both = gradients(lambda x, q: rods_pool(x, q, backend=backend), (tokens, queries))
    assert_same_bits(gradients(lambda x: rods_pool(x, queries, backend=backend), (tokens,))[0], both[0])
    assert_same_bits(gradients(lambda q: rods_pool(tokens, q, backend=backend), (queries,))[0], both[1])


@every_backend
def test_other_frames_change_no_bit(backend: str) -> None:
    tokens, queries = torch.randn(7, 30, 20), torch.randn(4, 20)
    together = rods_pool(tokens, queries, backend=backend)
    for t in range(7):
        assert_same_bits(rods_pool(tokens[t : t + 1], queries, backend=backend), together[t : t + 1])


@every_backend
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 3e38])
def test_what_is_not_finite_stays_in_its_frame_and_channel(backend: str, value: float) -> None:
    """Of a token: the softmax of an infinite logit is NaN, that of a negative infinite one is 0."""
    tokens, queries = torch.rand(3, 40, 5), torch.rand(7, 5) + 0.1
    tokens[1, 20, 2] = value
    pooled, exact = rods_pool(tokens, queries, backend=backend), plain(tokens, queries)
    assert pooled[[0, 2]].isfinite().all()
    for found in (torch.isnan, torch.isposinf, torch.isneginf):
        assert torch.equal(found(pooled), found(exact.float()))


@every_backend
def test_large_logits(backend: str) -> None:
    tokens = torch.zeros(1, 3, 2)
    tokens[0, :, 0] = torch.tensor([0.0, 1.0, 2.0])
    pooled = rods_pool(tokens, torch.tensor([[1e4, 0.0]]), backend=backend)
    torch.testing.assert_close(pooled[0], torch.tensor([[2.0, 0.0], [1.0, 0.0]]))


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, r"tokens has shape \[3, 4\], it must be \[T, M, C\]", {"tokens": torch.zeros(3, 4)}),
        (ValueError, r"queries has shape \[5, 3\], it must be .* with C of tokens", {"queries": torch.zeros(5, 3)}),
        (ValueError, r"queries has shape \[2, 5, 4\], it must be \[Q, C\]", {"queries": torch.zeros(2, 5, 4)}),
        (ValueError, r"queries has shape \[0, 4\]", {"queries": torch.zeros(0, 4)}),
        (ValueError, r"queries has shape \[5, 4\], it must be \[B, Q, C\]", {"frame_query": torch.zeros(3).long()}),
        (ValueError, r"query_mask has shape \[4\], it must be", {"query_mask": torch.ones(4).bool()}),
        (TypeError, r"query_mask is torch.float32, it must be torch.bool", {"query_mask": torch.ones(5)}),
        (ValueError, r"query_mask leaves no query in row 0", {"query_mask": torch.zeros(5).bool()}),
        (
            ValueError,
            r"frame_query has shape \[2\]",
            {"queries": torch.zeros(2, 5, 4), "frame_query": torch.zeros(2).long()},
        ),
        (
            ValueError,
            r"frame_query has values from 2 to 2",
            {"queries": torch.zeros(2, 5, 4), "frame_query": torch.full((3,), 2)},
        ),
        (ValueError, r"scale is -1, it must be a positive number", {"scale": -1}),
        (ValueError, r"backend= is 'gpu', it must be one of", {"backend": "gpu"}),
    ],
)
def test_errors_name_the_argument(error: type, message: str, arguments: dict) -> None:
    with pytest.raises(error, match=message):
        rods_pool(**{"tokens": torch.zeros(3, 7, 4), "queries": torch.zeros(5, 4), **arguments})
