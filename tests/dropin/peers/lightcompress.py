"""In LightCompress' dialect: SparseVLM's function that returns its centres too."""

from .formula import centers_and_labels, weighted_sums
from .prunevid import cluster_dpc_knn

__all__ = ["cluster_and_merge", "cluster_dpc_knn"]


def cluster_and_merge(x, cluster_num):
    distance = (x.unsqueeze(2) - x.unsqueeze(1)).norm(dim=-1, p=2) / x.shape[-1] ** 0.5
    centers, labels = centers_and_labels(distance, cluster_num, cluster_num)
    merged, _ = weighted_sums(x, labels, cluster_num, x.new_ones(*x.shape[:2], 1))
    return merged, centers
