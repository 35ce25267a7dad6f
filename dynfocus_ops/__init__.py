"""Fast ops for video language models: clustering, cluster means, attention pooling, differentiable top-k, packing."""

from dynfocus_ops.backends import use_backend
from dynfocus_ops.ops.cluster_mean import cluster_mean
from dynfocus_ops.ops.density_peak_distance import density_peak_distance
from dynfocus_ops.ops.dpc_knn import dpc_knn
from dynfocus_ops.ops.dpc_knn_varlen import dpc_knn_varlen
from dynfocus_ops.ops.knn_log_density import knn_log_density
from dynfocus_ops.ops.nearest_center import nearest_center
from dynfocus_ops.ops.pack_frame_tokens import pack_frame_tokens
from dynfocus_ops.ops.perturbed_topk import perturbed_topk
from dynfocus_ops.ops.rods_pool import rods_pool
from dynfocus_ops.ops.spatial_prototypes import spatial_prototypes

__all__ = [
    "cluster_mean",
    "density_peak_distance",
    "dpc_knn",
    "dpc_knn_varlen",
    "knn_log_density",
    "nearest_center",
    "pack_frame_tokens",
    "perturbed_topk",
    "rods_pool",
    "spatial_prototypes",
    "use_backend",
]
