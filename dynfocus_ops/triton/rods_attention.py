"""Attention of the tokens x [M, C] of each frame to the queries q [Q, C] of its row, and the gradient of its logits.

  s_mq = scale x_m . q     A_mq = softmax over m of s_mq     a_m = mean over the queries asked of A_mq

Masked-out queries are read as 0 and weigh 0: what they hold reaches nothing.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dynfocus_ops.triton.dot import dot
from dynfocus_ops.triton.launch import launch


def query_arguments(queries: Tensor, frame_query: Tensor, query_mask: Tensor | None) -> tuple[object, ...]:
    """Of every kernel that reads queries: tensors, sizes B and Q, strides."""
    mask_strides = (0, 0) if query_mask is None else query_mask.stride()
    return queries, frame_query, query_mask, *queries.shape[:2], *queries.stride(), *frame_query.stride(), *mask_strides


def frame_tile(tokens: Tensor, queries: Tensor, most_rows: int) -> dict[str, int]:
    """Tiles of scores: frames that share their queries go together, so that these are read less often."""
    block_m = min(max(triton.next_power_of_2(tokens.shape[1]), 16), most_rows)
    block_q = min(max(triton.next_power_of_2(queries.shape[1]), 16), 64, 8192 // most_rows)
    frames = max(1, 64 // block_m) if queries.shape[0] == 1 else 1
    wide = torch.float32 in (tokens.dtype, queries.dtype)
    block_c = (16 if block_m > 128 else 32) if wide else 64
    num_warps = 8 if frames * block_m >= 128 else 4
    return dict(FRAMES=frames, BLOCK_M=block_m, BLOCK_Q=block_q, BLOCK_C=block_c, num_warps=num_warps, num_stages=3)


def attention(
    tokens: Tensor,
    queries: Tensor,
    frame_query: Tensor,
    query_mask: Tensor | None,
    scale: float,
    grad: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """a [T, M] and, of grad [T, 2, C] = (g_0, g_1), the gradient of x_m . q [T, M, Q]; both float32.

    Extra memory: the logits [T, M, Q], float32.
    """
    (T, M, C), Q = tokens.shape, queries.shape[1]
    query = query_arguments(queries, frame_query, query_mask)
    logits = tokens.new_empty((T, M, Q), dtype=torch.float32)
    weights = tokens.new_empty((T, M), dtype=torch.float32)
    products = None if grad is None else torch.empty_like(weights)  # g_0 . x_m
    grad_logits = None if grad is None else torch.empty_like(logits)
    tile = frame_tile(tokens, queries, 128)
    launch(
        logits_kernel,
        (triton.cdiv(Q, tile["BLOCK_Q"]) * triton.cdiv(M, tile["BLOCK_M"]) * triton.cdiv(T, tile["FRAMES"]),),
        *(tokens, grad, logits, products, *query, scale, T, M, C, *tokens.stride()),
        *((0, 0) if grad is None else (grad.stride(0), grad.stride(2))),
        **tile,
    )
    block_q = max(triton.next_power_of_2(Q), 16)
    launch(
        attention_kernel,
        (T,),
        *(logits, products, weights, grad_logits, *query, scale, M),
        BLOCK_M=max(1, min(triton.next_power_of_2(M), 2048 // block_q)),
        BLOCK_Q=block_q,
        num_warps=4,
    )
    return weights, grad_logits


@triton.jit
def row_of_queries(t, row_ptr, B, stride_row):
    """Kept within [0, B): nobody has looked at frame_query."""
    row = tl.load(row_ptr + t * stride_row)
    return tl.minimum(tl.maximum(row, 0), B - 1)


@triton.jit
def asked_queries(q, row, mask_ptr, Q, stride_mb, stride_mq):
    asked = q < Q
    if mask_ptr is not None:
        asked = asked & (tl.load(mask_ptr + row * stride_mb + q.to(tl.int64) * stride_mq, mask=asked, other=0) != 0)
    return asked


@triton.jit
def tile_of_logits(
    x_ptr,
    grad_ptr,
    query_ptr,
    t,
    m,
    q,
    asked,
    scale,
    T,
    M,
    C,
    stride_xt,
    stride_xm,
    stride_xc,
    stride_gt,
    stride_gc,
    stride_qq,
    stride_qc,
    FRAMES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """s [FRAMES * BLOCK_M, BLOCK_Q] of tokens m of frames t (a frame's after the other's), -inf where there is none.

    And g_0 . x_m [FRAMES, BLOCK_M] with a grad_ptr.
    """
    there = (t < T) & (m < M)
    x_row = x_ptr + t.to(tl.int64) * stride_xt + m.to(tl.int64) * stride_xm
    query_row = query_ptr + q.to(tl.int64) * stride_qq
    frame = tl.reshape(t, (FRAMES, BLOCK_M))
    sums = tl.zeros((FRAMES * BLOCK_M, BLOCK_Q), tl.float32)
    products = tl.zeros((FRAMES, BLOCK_M), tl.float32)
    for first in range(0, C, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        at = c.to(tl.int64)
        x = tl.load(x_row[:, None] + at[None, :] * stride_xc, mask=there[:, None] & (c < C)[None, :], other=0)
        query = tl.load(query_row[:, None] + at[None, :] * stride_qc, mask=asked[:, None] & (c < C)[None, :], other=0)
        if x.dtype == query.dtype:
            sums = dot(x, tl.trans(query), sums)
        else:
            sums = dot(x.to(tl.float32), tl.trans(query.to(tl.float32)), sums)
        if grad_ptr is not None:
            one_of_each = tl.min(frame, 1)  # [FRAMES]
            grad = tl.load(
                grad_ptr + one_of_each.to(tl.int64)[:, None] * stride_gt + at[None, :] * stride_gc,
                mask=(one_of_each < T)[:, None] & (c < C)[None, :],
                other=0,
            )
            in_frames = tl.reshape(x.to(tl.float32), (FRAMES, BLOCK_M, BLOCK_C))
            products += tl.sum(in_frames * grad.to(tl.float32)[:, None, :], 2)
    return tl.where(there[:, None], scale * sums, float("-inf")), products


@triton.jit
def logits_kernel(
    x_ptr,
    grad_ptr,
    logit_ptr,
    product_ptr,
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
    stride_xt,
    stride_xm,
    stride_xc,
    stride_gt,
    stride_gc,
    FRAMES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A tile of s [T, M, Q], and with a grad_ptr of g_0 . x_m [T, M]."""
    q_tiles = tl.cdiv(Q, BLOCK_Q)
    m_tiles = tl.cdiv(M, BLOCK_M)
    first_q = tl.program_id(0) % q_tiles * BLOCK_Q
    first_m = tl.program_id(0) // q_tiles % m_tiles * BLOCK_M
    first_t = tl.program_id(0) // q_tiles // m_tiles * FRAMES
    r = tl.arange(0, FRAMES * BLOCK_M)
    t = first_t + r // BLOCK_M
    m = first_m + r % BLOCK_M
    q = first_q + tl.arange(0, BLOCK_Q)
    row = row_of_queries(first_t.to(tl.int64), row_ptr, B, stride_row)
    logits, products = tile_of_logits(
        *(x_ptr, grad_ptr, query_ptr + row * stride_qb),
        *(t, m, q, asked_queries(q, row, mask_ptr, Q, stride_mb, stride_mq), scale, T, M, C),
        *(stride_xt, stride_xm, stride_xc, stride_gt, stride_gc, stride_qq, stride_qc),
        *(FRAMES, BLOCK_M, BLOCK_Q, BLOCK_C),
    )
    token = t.to(tl.int64) * M + m
    there = (t < T) & (m < M)
    tl.store(logit_ptr + token[:, None] * Q + q[None, :], logits, mask=there[:, None] & (q < Q)[None, :])
    if grad_ptr is not None:
        products = tl.reshape(products, (FRAMES * BLOCK_M,))
        tl.store(product_ptr + token, products, mask=(t < T) & (m < tl.where(first_q == 0, M, 0)))


@triton.jit
def attention_kernel(
    logit_ptr,
    product_ptr,
    weight_ptr,
    grad_logit_ptr,
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
    M,
    BLOCK_M: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):
    """a of a frame; with d_m = g_0 . x_m also scale A_mq (d_m - sum_n A_nq d_n) / (queries asked).

    One sweep over the tokens finds each query's largest logit and its sums, the other uses them.
    """
    t = tl.program_id(0).to(tl.int64)
    q = tl.arange(0, BLOCK_Q)
    row = row_of_queries(t, row_ptr, B, stride_row)
    asked = asked_queries(q, row, mask_ptr, Q, stride_mb, stride_mq)
    share = 1.0 / tl.maximum(tl.sum(asked.to(tl.int32)), 1).to(tl.float32)

    largest = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    expected = tl.zeros((BLOCK_Q,), tl.float32)
    for first in range(0, M, BLOCK_M):
        m = first + tl.arange(0, BLOCK_M)
        logits = load_logits(logit_ptr, t, m, q, M, Q)
        previous, largest = largest, tl.maximum(largest, tl.max(logits, 0))
        past = tl.exp(previous - finite(largest))
        terms = tl.exp(logits - finite(largest)[None, :])
        total = total * past + tl.sum(terms, 0)
        if product_ptr is not None:
            products = tl.load(product_ptr + t * M + m, mask=m < M, other=0)
            expected = expected * past + tl.sum(terms * products[:, None], 0)

    for first in range(0, M, BLOCK_M):
        m = first + tl.arange(0, BLOCK_M)
        logits = load_logits(logit_ptr, t, m, q, M, Q)
        attend = tl.exp(logits - finite(largest)[None, :]) / total[None, :]
        attend = tl.where(asked[None, :], attend, 0.0)
        tl.store(weight_ptr + t * M + m, tl.sum(attend, 1) * share, mask=m < M)
        if product_ptr is not None:
            products = tl.load(product_ptr + t * M + m, mask=m < M, other=0)
            grad = scale * share * attend * (products[:, None] - (expected / total)[None, :])
            tl.store(
                grad_logit_ptr + (t * M + m)[:, None] * Q + q[None, :],
                tl.where(asked[None, :], grad, 0.0),
                mask=(m < M)[:, None] & (q < Q)[None, :],
            )


@triton.jit
def load_logits(logit_ptr, t, m, q, M, Q):
    there = (m < M)[:, None] & (q < Q)[None, :]
    return tl.load(logit_ptr + (t * M + m)[:, None] * Q + q[None, :], mask=there, other=float("-inf"))


@triton.jit
def finite(largest):
    """What to subtract before exp: where all logits so far are -inf, their exp is 0, not NaN."""
    return tl.where(largest == float("-inf"), 0.0, largest)
