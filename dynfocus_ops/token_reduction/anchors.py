import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dynfocus_ops.checks import (
    check_finite,
    check_not_empty,
    check_same_device,
    check_shape,
    check_tensor,
    checks_values,
    score_dtype,
)
from dynfocus_ops.ops.cluster_mean import cluster_mean
from dynfocus_ops.token_reduction.similarity import products

Rule = Literal["fastvid", "visionzip", "scissor"]


def assign_to_anchors(x: Tensor, anchors: Tensor) -> Tensor:
    """The most similar anchor of each token: argmax_j cos(x_i, anchor_j), of equals the lower index.

    Args:
        x: [B, N, C], float; or what tokens are to be compared by, such as the keys of attention.
        anchors: [B, M, C], likewise.

    Returns:
        int64 [B, N] into M; not differentiable.
    """
    check_pair(x, anchors)
    dtype = torch.promote_types(score_dtype(x), anchors.dtype)
    with torch.no_grad():
        # the length of x_i changes no argmax over anchors
        similarity = products(x, normalize(anchors.to(dtype), dim=-1))
    if checks_values(x) and not math.isfinite(float(similarity.sum())):
        check_finite("x", x, None)
        check_finite("anchors", anchors, None)
    return similarity.argmax(1)


def merge_into_anchors(
    x: Tensor, anchors: Tensor, assignment: Tensor, rule: Rule = "fastvid", *, beta: float = 0.6
) -> Tensor:
    """Each anchor with the tokens that were assigned to it; an anchor to which none was stays as it is.

    With n_j tokens of mean mu_j assigned to anchor j:
      fastvid:   w anchor_j + (1 - w) mu_j with w = max(1 / (n_j + 1), beta), density-based token merging (FastVID);
      visionzip: anchor_j + mu_j, contextual tokens (VisionZip), whose x leaves the anchors out;
      scissor:   (anchor_j + n_j mu_j) / (n_j + 1) (LLaVA-Scissor), whose x is all tokens.

    Args:
        x: [B, N, C], float; differentiable.
        anchors: [B, M, C]; differentiable.
        assignment: int64 [B, N] below M, as from `assign_to_anchors`; -1 is nobody's.
        beta: the least weight of an anchor for "fastvid".

    Returns:
        [B, M, C] in the dtype of x.
    """
    check_pair(x, anchors)
    if rule not in ("fastvid", "visionzip", "scissor"):
        raise ValueError(f"rule is {rule!r}, it must be 'fastvid', 'visionzip' or 'scissor'")
    if not 0 <= beta <= 1:
        raise ValueError(f"beta is {beta}, it must be in [0, 1]")
    mean = cluster_mean(x, assignment, anchors.shape[1])
    if rule == "visionzip":
        return anchors + mean
    slots = torch.where(assignment < 0, anchors.shape[1], assignment)
    ones = torch.ones(slots.shape, dtype=score_dtype(x), device=x.device)
    count = ones.new_zeros(len(x), anchors.shape[1] + 1).scatter_add(1, slots, ones)[:, :-1, None]
    weight = 1 / (count + 1)
    if rule == "fastvid":
        weight = weight.clamp(min=beta).masked_fill(count == 0, 1)
    return (weight * anchors + (1 - weight) * mean).to(x.dtype)


def check_pair(x: Tensor, anchors: Tensor) -> None:
    check_tensor("x", x, "[B, N, C]")
    check_tensor("anchors", anchors, "[B, M, C]")
    check_not_empty("x", x)
    check_not_empty("anchors", anchors)
    check_shape("anchors", anchors, (len(x), anchors.shape[1], x.shape[2]), "[B, M, C] with B, C of x")
    check_same_device("anchors", anchors, "x", x)
