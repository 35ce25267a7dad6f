"""HBI's functions, which Atomas shares: TCFormer's clustering, with masks in earnest, and Chat-UniVi's result."""

from dynfocus_ops.dropin.chat_univi import merge_tokens
from dynfocus_ops.dropin.tcformer import cluster_dpc_knn

__all__ = ["cluster_dpc_knn", "merge_tokens"]
