"""Gradients of tokens and queries from those of the logits, dl_mq = d(x_m . q), and of the mean attention a.

dx_m = a_m g_0 + g_1 / M + sum_q dl_mq q        dq = sum over the frames of its row and their m of dl_mq x_m
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dynfocus_ops.triton.dot import dot
from dynfocus_ops.triton.launch import launch
from dynfocus_ops.triton.member_lists import member_lists
from dynfocus_ops.triton.rods_attention import asked_queries, query_arguments, row_of_queries
from dynfocus_ops.triton.rounding import rounded
from dynfocus_ops.triton.sum_of_parts import sum_of_parts

PROGRAMS = 4 * 132  # enough to have all of the GPU work


def token_gradients(
    grad: Tensor,
    weights: Tensor,
    grad_logits: Tensor,
    tokens: Tensor,
    queries: Tensor,
    frame_query: Tensor,
    query_mask: Tensor | None,
) -> Tensor:
    T, M, C = tokens.shape
    grad_tokens = tokens.new_empty((T, M, C))
    tile = dict(BLOCK_M=min(max(triton.next_power_of_2(M), 16), 64), BLOCK_Q=32, BLOCK_C=block_c(queries))
    launch(
        token_gradients_kernel,
        (triton.cdiv(C, tile["BLOCK_C"]) * triton.cdiv(M, tile["BLOCK_M"]) * T,),
        *(grad, weights, grad_logits, grad_tokens, *query_arguments(queries, frame_query, query_mask), M, C),
        *grad.stride(),
        **tile,
        num_warps=4,
    )
    return grad_tokens


def block_c(x: Tensor) -> int:
    """float16 is multiplied as float32 and takes as many registers."""
    return 128 if x.dtype == torch.bfloat16 else 64


def query_gradients(
    grad_logits: Tensor, tokens: Tensor, queries: Tensor, frame_query: Tensor, query_mask: Tensor | None
) -> Tensor:
    """The frames of a row of queries are dealt out to `parts` programs, whose sums are added in order.

    Extra memory: parts <= 32 times the queries in float32, and of no use where there are many rows: then parts is 1.
    """
    (T, M, C), (B, Q, _) = tokens.shape, queries.shape
    tile = dict(BLOCK_M=32, BLOCK_Q=min(max(triton.next_power_of_2(Q), 16), 64), BLOCK_C=block_c(tokens))
    tiles = triton.cdiv(C, tile["BLOCK_C"]) * triton.cdiv(Q, tile["BLOCK_Q"])
    parts = max(1, min(32, triton.cdiv(T, 8 * B), triton.cdiv(PROGRAMS, B * tiles)))
    frames, bounds, _ = member_lists(frame_query.unsqueeze(0), B, None)
    grad_queries = queries.new_empty(queries.shape)
    sums = grad_queries if parts == 1 else queries.new_empty((B, parts, Q * C), dtype=torch.float32)
    launch(
        query_gradients_kernel,
        (tiles * parts * B,),
        *(tokens, grad_logits, frames, bounds, sums, *query_arguments(queries, frame_query, query_mask)),
        *(M, C, parts, *tokens.stride()),
        **tile,
        num_warps=4,
        num_stages=3,
    )
    return grad_queries if parts == 1 else sum_of_parts(sums, grad_queries)


@triton.jit
def weighted_sums(weights, values, sums):
    """sums + weights [M, K] values [K, N] with weights in float32: they may cancel, so more than 8 bits are kept."""
    if values.dtype == tl.bfloat16:
        high, low = two_bfloat16(weights)
        return dot(low, values, dot(high, values, sums))
    return dot(weights, values.to(tl.float32), sums)  # float16 has not the range of gradients


@triton.jit
def two_bfloat16(weights):
    """Their sum has 16 bits of the weights."""
    high = rounded(weights, tl.bfloat16)
    return high, rounded(weights - high.to(tl.float32), tl.bfloat16)


@triton.jit
def token_gradients_kernel(
    grad_ptr,
    weight_ptr,
    grad_logit_ptr,
    grad_x_ptr,
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
    M,
    C,
    stride_gt,
    stride_gr,
    stride_gc,
    BLOCK_M: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    slices = tl.cdiv(C, BLOCK_C)
    m_tiles = tl.cdiv(M, BLOCK_M)
    c = tl.program_id(0) % slices * BLOCK_C + tl.arange(0, BLOCK_C)
    m = tl.program_id(0) // slices % m_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    t = (tl.program_id(0) // slices // m_tiles).to(tl.int64)
    row = row_of_queries(t, row_ptr, B, stride_row)
    at = c.to(tl.int64)
    sums = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for first in range(0, Q, BLOCK_Q):
        q = first + tl.arange(0, BLOCK_Q)
        asked = asked_queries(q, row, mask_ptr, Q, stride_mb, stride_mq)
        grad_logits = tl.load(
            grad_logit_ptr + (t * M + m)[:, None] * Q + q[None, :],
            mask=(m < M)[:, None] & (q < Q)[None, :],
            other=0,
        )
        query = tl.load(
            query_ptr + row * stride_qb + q.to(tl.int64)[:, None] * stride_qq + at[None, :] * stride_qc,
            mask=asked[:, None] & (c < C)[None, :],
            other=0,
        )
        sums = weighted_sums(grad_logits, query, sums)
    weights = tl.load(weight_ptr + t * M + m, mask=m < M, other=0)
    pooled_grad = tl.load(grad_ptr + t * stride_gt + at * stride_gc, mask=c < C, other=0).to(tl.float32)
    mean_grad = tl.load(grad_ptr + t * stride_gt + stride_gr + at * stride_gc, mask=c < C, other=0).to(tl.float32)
    sums += weights[:, None] * pooled_grad[None, :] + (mean_grad / M)[None, :]
    tl.store(
        grad_x_ptr + (t * M + m)[:, None] * C + c[None, :],
        rounded(sums, grad_x_ptr.dtype.element_ty),
        mask=(m < M)[:, None] & (c < C)[None, :],
    )


@triton.jit
def query_gradients_kernel(
    x_ptr,
    grad_logit_ptr,
    frame_ptr,
    bound_ptr,
    sum_ptr,
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
    M,
    C,
    parts,
    stride_xt,
    stride_xm,
    stride_xc,
    BLOCK_M: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A tile of the sum over one part of the frames of row b, in their order; sums [B, parts, Q, C]."""
    slices = tl.cdiv(C, BLOCK_C)
    q_tiles = tl.cdiv(Q, BLOCK_Q)
    c = tl.program_id(0) % slices * BLOCK_C + tl.arange(0, BLOCK_C)
    q = tl.program_id(0) // slices % q_tiles * BLOCK_Q + tl.arange(0, BLOCK_Q)
    part = tl.program_id(0) // (slices * q_tiles) % parts
    b = (tl.program_id(0) // (slices * q_tiles) // parts).to(tl.int64)
    start = tl.load(bound_ptr + b)
    count = tl.load(bound_ptr + b + 1) - start
    first = start + (part.to(tl.int64) * count // parts).to(tl.int32)
    last = start + ((part.to(tl.int64) + 1) * count // parts).to(tl.int32)
    m_tiles = tl.cdiv(M, BLOCK_M)
    # bfloat16 is best read transposed for the product, float32 is not
    CHANNELS_FIRST: tl.constexpr = x_ptr.dtype.element_ty == tl.bfloat16
    sums = tl.zeros((BLOCK_C, BLOCK_Q) if CHANNELS_FIRST else (BLOCK_Q, BLOCK_C), tl.float32)
    for step in range(first * m_tiles, last * m_tiles):
        t = tl.load(frame_ptr + step // m_tiles).to(tl.int64)
        m = step % m_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
        grad_logits = tl.load(
            grad_logit_ptr + (t * M + m)[:, None] * Q + q[None, :],
            mask=(m < M)[:, None] & (q < Q)[None, :],
            other=0,
        )
        x = tl.load(
            x_ptr + t * stride_xt + m.to(tl.int64)[:, None] * stride_xm + c.to(tl.int64)[None, :] * stride_xc,
            mask=(m < M)[:, None] & (c < C)[None, :],
            other=0,
        )
        if CHANNELS_FIRST:
            high, low = two_bfloat16(grad_logits)
            sums = dot(tl.trans(x), low, dot(tl.trans(x), high, sums))
        else:
            sums = weighted_sums(tl.trans(grad_logits), x, sums)
    if CHANNELS_FIRST:
        sums = tl.trans(sums)
    asked = asked_queries(q, b, mask_ptr, Q, stride_mb, stride_mq)
    sums = tl.where(asked[:, None], sums, 0.0)  # where tokens are not finite, a weight of 0 does not make it 0
    tl.store(
        sum_ptr + ((b * parts + part) * Q + q)[:, None] * C + c[None, :],
        rounded(sums, sum_ptr.dtype.element_ty),
        mask=(q < Q)[:, None] & (c < C)[None, :],
    )
