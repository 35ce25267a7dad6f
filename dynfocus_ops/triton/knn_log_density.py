"""Logarithm of the k-nearest-neighbour density of a batch."""

from torch import Tensor

from dynfocus_ops.triton.clustering import Distances, by_samples, log_density
from dynfocus_ops.triton.samples import Samples, flat


def knn_log_density(x: Tensor, k: int, mask: Tensor | None, distance_scale: float, noise: Tensor | None) -> Tensor:
    """[B, N] of x [B, N, C]."""

    def part(x: Tensor, mask: Tensor | None, noise: Tensor | None) -> tuple[Tensor, ...]:
        distances = Distances(Samples(x, flat(mask)))
        density = log_density(distances, distances.nearest(k), k, None, distance_scale, flat(noise))
        return (density.view(x.shape[:2]),)

    return by_samples(part, x, mask, noise)[0]
