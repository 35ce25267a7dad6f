"""The two tokens of a frame's rods: pooled by the text's attention, and the plain mean; and their gradient.

The mean over queries commutes with the pooling: sum_m a_m x_m with the mean attention a, one row of products, not Q.
A frame of up to 256 tokens is one program's (several frames where these share queries): the tokens come from memory
once for the logits and, mostly from the cache, backwards, once more for the sums. Larger frames take three kernels.
"""

import triton
import triton.language as tl
from torch import Tensor

from dynfocus_ops.triton.launch import launch
from dynfocus_ops.triton.rods_attention import (
    asked_queries,
    attention,
    finite,
    frame_tile,
    query_arguments,
    row_of_queries,
    tile_of_logits,
)
from dynfocus_ops.triton.rods_gradients import query_gradients, token_gradients
from dynfocus_ops.triton.rounding import rounded

WHOLE_FRAME = 256  # tokens that one program holds the attention of
PROGRAMS = 132  # enough to have all of the GPU work


def rods_pool(tokens: Tensor, queries: Tensor, frame_query: Tensor, query_mask: Tensor | None, scale: float) -> Tensor:
    T, M, C = tokens.shape
    pooled = tokens.new_empty((T, 2, C))
    block = 128 // tokens.element_size()  # channels that 8 threads read at once
    if M > WHOLE_FRAME:
        weights, _ = attention(tokens, queries, frame_query, query_mask, scale)
        launch(
            pool_kernel,
            (triton.cdiv(C, block) * T,),
            *(tokens, weights, pooled, M, C, *tokens.stride()),
            BLOCK_M=64,
            BLOCK_C=block,
            num_warps=4,
        )
        return pooled
    tile = frame_tile(tokens, queries, WHOLE_FRAME)
    groups = triton.cdiv(T, tile["FRAMES"])
    # few frames: several programs with the same attention and channels of their own
    splits = min(triton.cdiv(PROGRAMS, max(groups, 1)), triton.cdiv(C, block), 4)
    launch(
        attend_and_pool_kernel,
        (splits * groups,),
        *(tokens, pooled, *query_arguments(queries, frame_query, query_mask), scale, T, M, C, splits),
        *tokens.stride(),
        BLOCK_POOL=block,
        **tile,
    )
    return pooled


def rods_pool_backward(
    grad: Tensor,
    tokens: Tensor,
    queries: Tensor,
    frame_query: Tensor,
    query_mask: Tensor | None,
    scale: float,
    needs_tokens: bool,
    needs_queries: bool,
) -> tuple[Tensor, Tensor]:
    weights, grad_logits = attention(tokens, queries, frame_query, query_mask, scale, grad)
    assert grad_logits is not None
    query = queries, frame_query, query_mask
    return (
        token_gradients(grad, weights, grad_logits, tokens, *query) if needs_tokens else tokens.new_empty(0),
        query_gradients(grad_logits, tokens, *query) if needs_queries else queries.new_empty(0),
    )


@triton.jit
def attend_and_pool_kernel(
    x_ptr,
    pooled_ptr,
    query_ptr,
    row_ptr,
    mask_ptr,
    B,
    Q,
    stride_qb,
    stride_qq,
    stride_qc,
    stride_row,
    stride_mb,
    stride_mq,
    scale,
    T,
    M,
    C,
    splits,
    stride_xt,
    stride_xm,
    stride_xc,
    FRAMES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_POOL: tl.constexpr,
):
    """sum_m a_m x_m and sum_m x_m / M of FRAMES whole frames, which share their queries where they are several."""
    split = tl.program_id(0) % splits
    first_t = tl.program_id(0) // splits * FRAMES
    row = row_of_queries(first_t.to(tl.int64), row_ptr, B, stride_row)
    r = tl.arange(0, FRAMES * BLOCK_M)
    weights = tl.zeros((FRAMES, BLOCK_M), tl.float32)
    count = 0
    for first in range(0, Q, BLOCK_Q):
        q = first + tl.arange(0, BLOCK_Q)
        asked = asked_queries(q, row, mask_ptr, Q, stride_mb, stride_mq)
        logits, _ = tile_of_logits(
            *(x_ptr, None, query_ptr + row * stride_qb),
            *(first_t + r // BLOCK_M, r % BLOCK_M, q, asked, scale, T, M, C),
            *(stride_xt, stride_xm, stride_xc, 0, 0, stride_qq, stride_qc),
            *(FRAMES, BLOCK_M, BLOCK_Q, BLOCK_C),
        )
        logits = tl.reshape(logits, (FRAMES, BLOCK_M, BLOCK_Q))
        terms = tl.exp(logits - finite(tl.max(logits, 1))[:, None, :])
        attend = terms / tl.sum(terms, 1)[:, None, :]
        weights += tl.sum(tl.where(asked[None, None, :], attend, 0.0), 2)
        count += tl.sum(asked.to(tl.int32))
    weights /= tl.maximum(count, 1).to(tl.float32)

    t = first_t + tl.arange(0, FRAMES)
    m = tl.arange(0, BLOCK_M)
    token = t.to(tl.int64)[:, None] * stride_xt + m.to(tl.int64)[None, :] * stride_xm
    there = (t < T)[:, None] & (m < M)[None, :]
    chunks = tl.cdiv(C, BLOCK_POOL)
    for chunk in range(split, chunks, splits):  # what was read last is still near
        c = (chunks - 1 - chunk) * BLOCK_POOL + tl.arange(0, BLOCK_POOL)
        x_at = x_ptr + token[:, :, None] + c.to(tl.int64)[None, None, :] * stride_xc
        x = tl.load(x_at, mask=there[:, :, None] & (c < C)[None, None, :], other=0).to(tl.float32)
        pooled_at = pooled_ptr + t.to(tl.int64)[:, None] * 2 * C + c[None, :]
        in_tile = (t < T)[:, None] & (c < C)[None, :]
        pooled = tl.sum(weights[:, :, None] * x, 1)
        tl.store(pooled_at, rounded(pooled, pooled_ptr.dtype.element_ty), mask=in_tile)
        tl.store(pooled_at + C, rounded(tl.sum(x, 1) / M, pooled_ptr.dtype.element_ty), mask=in_tile)


@triton.jit
def pool_kernel(
    x_ptr,
    weight_ptr,
    pooled_ptr,
    M,
    C,
    stride_xt,
    stride_xm,
    stride_xc,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """sum_m a_m x_m and sum_m x_m / M, a slice of the channels of a frame."""
    slices = tl.cdiv(C, BLOCK_C)
    c = tl.program_id(0) % slices * BLOCK_C + tl.arange(0, BLOCK_C)
    t = (tl.program_id(0) // slices).to(tl.int64)
    pooled = tl.zeros((BLOCK_C,), tl.float32)
    mean = tl.zeros((BLOCK_C,), tl.float32)
    for first in range(0, M, BLOCK_M):
        m = first + tl.arange(0, BLOCK_M)
        x_at = x_ptr + t * stride_xt + m.to(tl.int64)[:, None] * stride_xm + c.to(tl.int64)[None, :] * stride_xc
        x = tl.load(x_at, mask=(m < M)[:, None] & (c < C)[None, :], other=0).to(tl.float32)
        weights = tl.load(weight_ptr + t * M + m, mask=m < M, other=0)
        pooled += tl.sum(weights[:, None] * x, 0)
        mean += tl.sum(x, 0)
    pooled_at = pooled_ptr + t * 2 * C + c
    tl.store(pooled_at, rounded(pooled, pooled_ptr.dtype.element_ty), mask=c < C)
    tl.store(pooled_at + C, rounded(mean / M, pooled_ptr.dtype.element_ty), mask=c < C)
