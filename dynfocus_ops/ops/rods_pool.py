from typing import Any

import torch
from torch import Tensor

from dynfocus_ops.backends import select_kernel
from dynfocus_ops.checks import (
    check_index,
    check_not_empty,
    check_positive,
    check_same_device,
    check_shape,
    check_tensor,
    checks_values,
    promote,
)


def rods_pool(
    tokens: Tensor,
    queries: Tensor,
    *,
    frame_query: Tensor | None = None,
    query_mask: Tensor | None = None,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """The two tokens of a frame's rods: Avg over queries of softmax(scale q . tokens) tokens, and Avg over tokens.

    Args:
        tokens: visual tokens of each frame [T, M, C], float; differentiable.
        queries: text queries [Q, C] shared by all frames, or [B, Q, C] with `frame_query`; float; differentiable.
        frame_query: int64 [T], the row of `queries` that each frame asks with.
        query_mask: bool [Q] or [B, Q], False for queries (padding) that do not count.
        scale: of the attention's logits; C^-1/2 unless given.
        backend: "auto" or a backend's name.

    Returns:
        [T, 2, C] in the dtype of tokens (computed in float64 if tokens or queries are, else in float32): the
        text-modulated token, then the plain mean.

    Memory: natively, a thread has a frame's attention [Q, M] and twice its queries [Q, C]; the gradient of the queries
        adds at most 64 sums like it. Triton needs nothing beyond the result up to M = 256; above, and for gradients,
        the attention [T, M, Q] in float32, twice for gradients, and for that of the queries up to 32 sums like it. The
        reference has a few frames at a time, their attention [f, Q, M] included.

    Raises:
        TypeError, ValueError: wrong types, shapes or dtypes; on the CPU also a frame_query outside [0, B), or a row of
            queries that is masked out altogether (on a GPU its text-modulated token is 0).

    Source: rods encoding of DynFocus (CVPR 2025, arXiv 2411.12355): Avg(E) and Avg(G_t) with
    E = softmax(Q G_t^T / sqrt(d)) G_t.
    """
    check_tensor("tokens", tokens, "[T, M, C]")
    check_not_empty("tokens", tokens)
    check_tensor("queries", queries, "[Q, C]" if frame_query is None else "[B, Q, C]")
    check_not_empty("queries", queries)
    check_shape("queries", queries, (*queries.shape[:-1], tokens.shape[2]), "[Q, C] or [B, Q, C] with C of tokens")
    check_same_device("queries", queries, "tokens", tokens)
    if query_mask is not None:
        check_tensor("query_mask", query_mask, "[Q]" if frame_query is None else "[B, Q]", (torch.bool,))
        check_shape("query_mask", query_mask, tuple(queries.shape[:-1]), "the shape of queries but for C")
        check_same_device("query_mask", query_mask, "tokens", tokens)
    if scale is not None:
        check_positive("scale", scale)
    if frame_query is None:
        frame_query = torch.zeros(tokens.shape[0], dtype=torch.int64, device=tokens.device)
        queries = queries.unsqueeze(0)
        query_mask = None if query_mask is None else query_mask.unsqueeze(0)
    else:
        check_tensor("frame_query", frame_query, "[T]", (torch.int64,))
        check_shape("frame_query", frame_query, (tokens.shape[0],), "[T] of tokens")
        check_same_device("frame_query", frame_query, "tokens", tokens)
    dtype = tokens.dtype
    if queries.dtype != dtype:
        tokens, queries = promote(tokens, queries)
    return _rods_pool(tokens, queries, frame_query, query_mask, scale, backend).to(dtype)


@torch.library.custom_op("dynfocus::rods_pool", mutates_args=())
def _rods_pool(
    tokens: Tensor, queries: Tensor, frame_query: Tensor, query_mask: Tensor | None, scale: float | None, backend: str
) -> Tensor:
    check_index("frame_query", frame_query, 0, queries.shape[0], "the rows of queries")
    if query_mask is not None and checks_values(query_mask) and not bool(query_mask.any(-1).all()):
        row = int((~query_mask.any(-1)).nonzero()[0])
        raise ValueError(f"query_mask leaves no query in row {row}, it must leave at least one in each")
    kernel = select_kernel("rods_pool", backend, tokens)
    return kernel(tokens, queries, frame_query, query_mask, _scale(tokens, scale))


@_rods_pool.register_fake
def _(
    tokens: Tensor, queries: Tensor, frame_query: Tensor, query_mask: Tensor | None, scale: float | None, backend: str
) -> Tensor:
    return tokens.new_empty((tokens.shape[0], 2, tokens.shape[2]))


@torch.library.custom_op("dynfocus::rods_pool_backward", mutates_args=())
def rods_pool_backward(
    grad: Tensor,
    tokens: Tensor,
    queries: Tensor,
    frame_query: Tensor,
    query_mask: Tensor | None,
    scale: float | None,
    needs_tokens: bool,
    needs_queries: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Gradients of tokens and queries from grad [T, 2, C], empty [0] if not needed; the attention is computed again."""
    kernel = select_kernel("rods_pool", backend, tokens, "rods_pool_backward")
    return kernel(grad, tokens, queries, frame_query, query_mask, _scale(tokens, scale), needs_tokens, needs_queries)


@rods_pool_backward.register_fake
def _(
    grad: Tensor,
    tokens: Tensor,
    queries: Tensor,
    frame_query: Tensor,
    query_mask: Tensor | None,
    scale: float | None,
    needs_tokens: bool,
    needs_queries: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return (
        tokens.new_empty(tokens.shape if needs_tokens else 0),
        queries.new_empty(queries.shape if needs_queries else 0),
    )


def _scale(tokens: Tensor, scale: float | None) -> float:
    return tokens.shape[-1] ** -0.5 if scale is None else scale


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tokens, queries, frame_query, query_mask, ctx.scale, ctx.backend = inputs
    ctx.save_for_backward(tokens, queries, frame_query, query_mask)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
    needs_tokens, needs_queries, *_ = ctx.needs_input_grad
    inputs = (grad, *ctx.saved_tensors, ctx.scale)
    grad_tokens, grad_queries = rods_pool_backward(*inputs, needs_tokens, needs_queries, ctx.backend)
    return grad_tokens if needs_tokens else None, grad_queries if needs_queries else None, None, None, None, None


_rods_pool.register_autograd(_backward, setup_context=_setup_context)
