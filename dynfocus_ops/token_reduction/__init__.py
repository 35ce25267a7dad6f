"""What projects that reduce visual tokens need beside clustering: matching, anchors, diversity, segments, a compressor.

Plain torch over the ops of `dynfocus_ops`: an assignment of tokens to slots, then `cluster_mean`.
"""

from dynfocus_ops.token_reduction.anchors import assign_to_anchors, merge_into_anchors
from dynfocus_ops.token_reduction.bipartite_matching import Matching, bipartite_soft_matching, merge_matched
from dynfocus_ops.token_reduction.compress_video_tokens import CompressedVideo, compress_video_tokens
from dynfocus_ops.token_reduction.max_min_diversity import max_min_diversity
from dynfocus_ops.token_reduction.segment_boundaries import segment_boundaries

__all__ = [
    "CompressedVideo",
    "Matching",
    "assign_to_anchors",
    "bipartite_soft_matching",
    "compress_video_tokens",
    "max_min_diversity",
    "merge_into_anchors",
    "merge_matched",
    "segment_boundaries",
]
