"""Distance of the points of a batch to the nearest denser one."""

import torch
from torch import Tensor

from dynfocus_ops.triton.clustering import Distances, by_samples, finish_delta
from dynfocus_ops.triton.samples import Samples, flat


def density_peak_distance(
    x: Tensor, log_density: Tensor, mask: Tensor | None, distance_scale: float
) -> tuple[Tensor, Tensor]:
    """(delta, parent), each [B, N], of x [B, N, C] and log_density float32 [B, N]."""

    def part(x: Tensor, log_density: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        distances = Distances(Samples(x, flat(mask)))
        nearest = distances.nearest(1, density=log_density.contiguous(), with_farthest=True, ties=True)
        assert nearest.farthest is not None
        delta, parent = distances.empty(*x.shape[:2]), distances.empty(*x.shape[:2], dtype=torch.int64)
        largest = distances.largest(nearest.farthest)
        finish_delta(distances, nearest, None, largest, delta, parent, distance_scale)
        return delta, parent

    delta, parent = by_samples(part, x, log_density, mask)
    return delta, parent
