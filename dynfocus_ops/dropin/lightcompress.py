"""LightCompress' copy of SparseVLM's function, which also returns the centres. Its other copies are PruneVid's."""

from torch import Tensor

from dynfocus_ops.dropin.merging import merge
from dynfocus_ops.dropin.prunevid import cluster_dpc_knn
from dynfocus_ops.dropin.sparsevlm import clusters

__all__ = ["cluster_and_merge", "cluster_dpc_knn"]


def cluster_and_merge(x: Tensor, cluster_num: int, *, noise: bool = True) -> tuple[Tensor, Tensor]:
    """(means [B, cluster_num, C], centres [B, cluster_num]); as `sparsevlm.cluster_and_merge`."""
    labels, centers = clusters(x, cluster_num, noise)
    return merge(x, labels, cluster_num, None), centers
