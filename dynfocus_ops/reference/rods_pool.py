"""Two tokens a frame: pooled by the text's attention, and the plain mean.

Products are summed elementwise, not by a matrix product, whose order of summation changes with the batch and the number
of threads.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from dynfocus_ops.reference.cluster_mean import segment_sum
from dynfocus_ops.reference.precision import upcast

BLOCK = 1 << 19  # numbers in a block of frames


def rods_pool(tokens: Tensor, queries: Tensor, frame_query: Tensor, query_mask: Tensor | None, scale: float) -> Tensor:
    """tokens [T, M, C], queries [B, Q, C], query_mask [B, Q]; frame t asks with queries[frame_query[t]]."""
    pooled = []
    for frames, query, weight in frame_blocks(tokens, queries, frame_query, query_mask):
        mean_attention = (attention(frames, query, scale) * weight).sum(1)
        pooled.append(torch.stack(((mean_attention.unsqueeze(-1) * frames).sum(1), frames.mean(1)), 1))
    return torch.cat(pooled).to(tokens.dtype)


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
    """Gradients of tokens and queries from grad [T, 2, C] = (g_0, g_1); empty [0] where not needed.

    With attention A_qm, its logits s_qm = scale q . x_m and w_q the weight of query q in the mean:
    dA_qm = w_q g_0 . x_m, ds_qm = A_qm (dA_qm - sum_n A_qn dA_qn),
    dx_m = sum_q w_q A_qm g_0 + g_1 / M + scale sum_q ds_qm q, dq = scale sum_m ds_qm x_m.
    """
    grad_tokens, grad_queries = [], []
    for grads, (frames, query, weight) in zip(
        upcast(grad).split(frames_per_block(tokens)),
        frame_blocks(tokens, queries, frame_query, query_mask),
        strict=True,
    ):
        attend = attention(frames, query, scale)
        pooled_grad, mean_grad = grads.unsqueeze(2).unbind(1)
        grad_attend = weight * (frames * pooled_grad).sum(-1).unsqueeze(1)
        grad_logits = scale * attend * (grad_attend - (attend * grad_attend).sum(-1, keepdim=True))
        grad_frames = (attend * weight).sum(1).unsqueeze(-1) * pooled_grad + mean_grad / frames.shape[1]
        for q in range(query.shape[1]):
            grad_frames += grad_logits[:, q].unsqueeze(-1) * query[:, q].unsqueeze(1)
        grad_tokens.append(grad_frames)
        grad_queries.append(torch.stack([(row.unsqueeze(-1) * frames).sum(1) for row in grad_logits.unbind(1)], 1))
    per_query = segment_sum(torch.cat(grad_queries).flatten(1).unsqueeze(0), frame_query.unsqueeze(0), len(queries))
    grad_query = per_query.view(queries.shape).to(queries.dtype)
    if query_mask is not None:  # where grad or tokens are not finite, a weight of 0 does not make it 0
        grad_query = grad_query.masked_fill(~query_mask.unsqueeze(-1), 0)
    return (
        torch.cat(grad_tokens).to(tokens.dtype) if needs_tokens else tokens.new_empty(0),
        grad_query if needs_queries else queries.new_empty(0),
    )


def frame_blocks(
    tokens: Tensor, queries: Tensor, frame_query: Tensor, query_mask: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """A few frames at a time: tokens [f, M, C], queries [f, Q, C] and each query's weight in the mean [f, Q, 1]."""
    mask = torch.ones_like(queries[..., 0], dtype=torch.bool) if query_mask is None else query_mask
    queries = queries.masked_fill(~mask.unsqueeze(-1), 0)  # else a NaN would outlive its weight of 0
    weight = mask / mask.sum(-1, keepdim=True, dtype=torch.float64).clamp(min=1)
    for frames, rows in zip(*(part.split(frames_per_block(tokens)) for part in (tokens, frame_query)), strict=True):
        frames = upcast(frames)
        yield frames, upcast(queries[rows].to(frames.dtype)), weight[rows].unsqueeze(-1).to(frames.dtype)


def frames_per_block(tokens: Tensor) -> int:
    return max(1, BLOCK // tokens[0].numel())


def attention(frames: Tensor, query: Tensor, scale: float) -> Tensor:
    """softmax over the tokens of scale q . x: [f, Q, M]."""
    logits = torch.stack([(frames * row.unsqueeze(1)).sum(-1) for row in query.unbind(1)], 1)
    return (scale * logits).softmax(-1)
