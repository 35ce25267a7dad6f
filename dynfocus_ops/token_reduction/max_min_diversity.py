import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dynfocus_ops.checks import (
    check_finite,
    check_int,
    check_not_empty,
    check_shape,
    check_tensor,
    checks_values,
    score_dtype,
)
from dynfocus_ops.token_reduction.similarity import products


def max_min_diversity(x: Tensor, num_tokens: int, *, weight: Tensor | None = None) -> Tensor:
    """Tokens as far from each other as can be had greedily.

    With D(i, j) = (1 - cos(x_i, x_j)) weight_j: first the token j with the largest smallest D(i, j) over the other i,
    then, one by one, that with the largest smallest D(i, j) over those already chosen (of equals: the lower index).
    A running minimum holds the latter: O(num_tokens N) after the N x N cosines.

    Args:
        x: [B, N, C], float.
        num_tokens: how many to choose, at most N.
        weight: [B, N], at least 0, such as attention; 1 unless given.

    Returns:
        int64 [B, num_tokens], distinct, in the order of choice; not differentiable.

    Raises:
        TypeError, ValueError: wrong types, shapes or dtypes; on the CPU also NaN or infinity.

    Source: DivPrune (CVPR 2025); with attention as weight, FlashVID's ADTS.
    """
    check_tensor("x", x, "[B, N, C]")
    check_not_empty("x", x)
    check_int("num_tokens", num_tokens, 1, x.shape[1], "the number of tokens")
    if weight is not None:
        check_tensor("weight", weight, "[B, N]")
        check_shape("weight", weight, tuple(x.shape[:2]), "[B, N] of x")
        check_finite("weight", weight.unsqueeze(-1), None)
    with torch.no_grad():
        unit = normalize(x.to(score_dtype(x)), dim=-1)
        distance = products(unit, unit).neg_().add_(1)
        if weight is not None:
            distance *= weight.to(distance.dtype).unsqueeze(1)
        if checks_values(x) and not math.isfinite(float(distance.sum())):
            check_finite("x", x, None)
        distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        return greedy(distance, num_tokens)


def greedy(distance: Tensor, num_tokens: int) -> Tensor:
    """The choice from D [B, N, N], infinite on its diagonal."""
    batch = torch.arange(len(distance), device=distance.device)
    chosen = torch.empty(num_tokens, len(distance), dtype=torch.int64, device=distance.device)
    nearest = distance.amin(1)
    for step in range(num_tokens):
        last = nearest.argmax(-1)
        chosen[step] = last
        rows = distance[batch, last]
        nearest = rows if step == 0 else torch.minimum(nearest, rows)
        nearest[batch, chosen[: step + 1]] = -torch.inf
    return chosen.T.contiguous()
