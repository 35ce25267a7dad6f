import math
from typing import Literal, NamedTuple

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
from dynfocus_ops.ops.cluster_mean import cluster_mean
from dynfocus_ops.token_reduction.similarity import products


class Matching(NamedTuple):
    assignment: Tensor
    num_tokens: int


def bipartite_soft_matching(
    metric: Tensor,
    r: int,
    *,
    class_token: bool = False,
    distill_token: bool = False,
    split: Literal["alternating", "halves"] = "alternating",
) -> Matching:
    """Which r tokens go into which others: the bipartite soft matching of ToMe.

    The tokens are split in two sets, a and b. Each of a finds the most similar of b (cosine; of equals the lower
    index), and the r of a that are most similar to theirs (of equals the lower index) go there.

    Args:
        metric: [B, N, C], float; usually the keys of attention.
        r: how many tokens to lose; at most as many as the unprotected tokens halved are.
        class_token: token 0 stays alone, and the others of a keep their order.
        distill_token: nothing goes into token 1, which comes second again.
        split: "alternating" puts even tokens into a and odd ones into b, "halves" the first half into a (DYTO's).

    Returns:
        assignment: int64 [B, N], the place of each token among those that are left: first those of a that stay, most
            dissimilar last but in order with a class token, then b.
        num_tokens: how many are left.

    Raises:
        TypeError, ValueError: wrong types, shapes or dtypes; on the CPU also NaN or infinity.

    Source: Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023.
    """
    check_tensor("metric", metric, "[B, N, C]")
    check_not_empty("metric", metric)
    check_int("r", r, 0)
    if split not in ("alternating", "halves"):
        raise ValueError(f"split is {split!r}, it must be 'alternating' or 'halves'")
    if split == "halves" and distill_token:
        raise ValueError("split is 'halves', it must be 'alternating' with a distill_token, which is token 1")
    b, n, _ = metric.shape
    index = torch.arange(n, device=metric.device)
    merged = min(r, (n - class_token - distill_token) // 2)
    if merged <= 0:
        return Matching(index.repeat(b, 1), n)

    alternating = split == "alternating"
    in_a, in_b = (slice(0, n, 2), slice(1, n, 2)) if alternating else (slice(0, n // 2), slice(n // 2, n))
    unit = normalize(metric.detach().to(score_dtype(metric)), dim=-1)
    similarity = products(unit[:, in_b], unit[:, in_a])
    if distill_token:
        similarity[:, :, 0] = -torch.inf
    best, partner = similarity.max(-1)
    if checks_values(metric) and not math.isfinite(float(best.sum())):
        check_finite("metric", metric, None)
    if class_token:
        best[:, 0] = -torch.inf
    order = best.argsort(dim=-1, descending=True, stable=True)
    source, stay = order[:, :merged], order[:, merged:]
    if class_token:
        stay = stay.sort(-1).values

    kept = similarity.shape[1] - merged
    place_of_stay, place_of_b = index[:kept].clone(), index[kept : n - merged].clone()
    if distill_token:  # class token, distill token, the rest of a, the rest of b
        place_of_stay[1:] += 1
        place_of_b[0] = 1
    place_of_a = torch.empty_like(order)
    place_of_a.scatter_(1, stay, place_of_stay.expand(b, -1))
    place_of_a.scatter_(1, source, place_of_b[partner.gather(1, source)])
    assignment = torch.empty(b, n, dtype=torch.int64, device=metric.device)
    assignment[:, in_a] = place_of_a
    assignment[:, in_b] = place_of_b
    return Matching(assignment, n - merged)


def merge_matched(x: Tensor, matching: Matching, size: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Means of x [B, N, C] over the matched tokens, weighted by how many tokens each already stands for.

    Args:
        size: [B, N], 1 unless given.

    Returns:
        [B, num_tokens, C] in the dtype of x, differentiable in x; the sizes [B, num_tokens] of its tokens.
    """
    assignment, num_tokens = matching
    check_tensor("x", x, "[B, N, C]")
    check_shape("x", x, (*assignment.shape, x.shape[2]), "[B, N, C] with B, N of the matching")
    if size is None:
        size = torch.ones(assignment.shape, dtype=score_dtype(x), device=x.device)
    sizes = size.new_zeros(len(x), num_tokens).scatter_add(1, assignment, size)
    return cluster_mean(x, assignment, num_tokens, size), sizes
