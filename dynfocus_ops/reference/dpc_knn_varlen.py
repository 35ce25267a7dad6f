"""dpc_knn of ragged segments: segment by segment."""

from itertools import pairwise

import torch
from torch import Tensor

from dynfocus_ops.reference.dpc_knn import dpc_knn


def dpc_knn_varlen(
    x: Tensor,
    bounds: list[int],
    num_clusters: list[int],
    k: list[int],
    mask: Tensor | None,
    distance_scale: float,
    noise: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Segment s is rows bounds[s] to bounds[s + 1] of x [total, C]; equal ones go through `dpc_knn` as one batch."""
    segments: dict[tuple[int, int, int], list[int]] = {}
    for s, (start, stop) in enumerate(pairwise(bounds)):
        segments.setdefault((stop - start, num_clusters[s], k[s]), []).append(s)

    assignment = torch.empty(len(x), dtype=torch.int64, device=x.device)
    score_dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    log_density = torch.empty(len(x), dtype=score_dtype, device=x.device)
    delta = torch.empty_like(log_density)
    centers: list[Tensor] = [assignment] * len(num_clusters)
    for (length, clusters, neighbors), members in segments.items():
        starts = torch.tensor([bounds[s] for s in members], device=x.device).unsqueeze(1)
        rows = starts + torch.arange(length, device=x.device)
        batch = dpc_knn(
            x[rows],
            clusters,
            neighbors,
            None if mask is None else mask[rows],
            distance_scale,
            None if noise is None else noise[rows],
        )
        assignment[rows], log_density[rows], delta[rows] = batch[0], batch[2], batch[3]
        for s, segment_centers in zip(members, batch[1] + starts, strict=True):
            centers[s] = segment_centers
    return assignment, torch.cat(centers), log_density, delta
