"""The oracle: each op in short plain torch, which defines its meaning, ties included.

float64 is computed in float64, every other dtype in float32. Nothing here imports another part of this package.
"""

from dynfocus_ops.reference.cluster_mean import cluster_mean, cluster_mean_backward
from dynfocus_ops.reference.dpc_knn import density_peak_distance, dpc_knn, knn_log_density, nearest_center
from dynfocus_ops.reference.dpc_knn_varlen import dpc_knn_varlen
from dynfocus_ops.reference.pack_frame_tokens import pack_frame_tokens, pack_frame_tokens_backward
from dynfocus_ops.reference.perturbed_topk import perturbed_topk, perturbed_topk_backward
from dynfocus_ops.reference.rods_pool import rods_pool, rods_pool_backward
from dynfocus_ops.reference.spatial_prototypes import spatial_prototypes

__all__ = [
    "cluster_mean",
    "cluster_mean_backward",
    "density_peak_distance",
    "dpc_knn",
    "dpc_knn_varlen",
    "knn_log_density",
    "nearest_center",
    "pack_frame_tokens",
    "pack_frame_tokens_backward",
    "perturbed_topk",
    "perturbed_topk_backward",
    "rods_pool",
    "rods_pool_backward",
    "spatial_prototypes",
]
