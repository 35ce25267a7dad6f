"""Which centre each point of a batch joins."""

from torch import Tensor

from dynfocus_ops.triton.clustering import Centers, Distances, assign
from dynfocus_ops.triton.samples import Samples, flat


def nearest_center(x: Tensor, centers: Tensor, mask: Tensor | None) -> Tensor:
    """[B, N] of x [B, N, C] and centers [B, M]."""
    distances = Distances(Samples(x, flat(mask)), keep_products=False)
    return assign(distances, Centers(centers.contiguous(), centers.shape[1])).view(x.shape[:2])
