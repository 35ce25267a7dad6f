// torch.ops.dynfocus_native.<op>: schemas, and the kernel of each device.
#include <torch/csrc/stable/library.h>

#include "cpu/ops.h"
#ifdef DYNFOCUS_CUDA
#include "cuda/ops.h"
#endif

STABLE_TORCH_LIBRARY(dynfocus_native, m) {
  m.def(
      "dpc_knn(Tensor x, int num_clusters, int k, Tensor? mask, float distance_scale, Tensor? noise)"
      " -> (Tensor assignment, Tensor centers, Tensor log_density, Tensor delta)");
  m.def(
      "dpc_knn_varlen(Tensor x, int[] bounds, int[] num_clusters, int[] k, Tensor? mask, float distance_scale, Tensor? noise)"
      " -> (Tensor assignment, Tensor centers, Tensor log_density, Tensor delta)");
  m.def("knn_log_density(Tensor x, int k, Tensor? mask, float distance_scale, Tensor? noise) -> Tensor");
  m.def("density_peak_distance(Tensor x, Tensor log_density, Tensor? mask, float distance_scale) -> (Tensor delta, Tensor parent)");
  m.def("nearest_center(Tensor x, Tensor centers, Tensor? mask) -> Tensor");
  m.def("pairwise_distances(Tensor x) -> Tensor");
  m.def("spatial_prototypes(Tensor x, int[] num_clusters, int[] k) -> (Tensor prototypes, Tensor assignments)");
  m.def("cluster_mean(Tensor x, Tensor assignment, int num_clusters, Tensor? weight, float epsilon=0.0) -> Tensor");
  m.def("cluster_mean_backward(Tensor grad, Tensor? x, Tensor assignment, Tensor? weight, float epsilon=0.0) -> (Tensor grad_x, Tensor grad_weight)");
  m.def(
      "perturbed_topk(Tensor scores, int k, int num_samples, float sigma, Tensor? seed, Tensor? noise, bool antithetic) -> Tensor");
  m.def(
      "perturbed_topk_backward(Tensor grad, Tensor scores, int num_samples, float sigma, Tensor? seed, Tensor? noise, bool antithetic,"
      " bool diagonal) -> Tensor");
  m.def("perturbed_topk_noise(Tensor seed, int first, int count) -> Tensor");
  m.def("pack_frame_tokens(Tensor fine, Tensor coarse, Tensor key_index) -> (Tensor tokens, Tensor cu_frames)");
  m.def(
      "pack_frame_tokens_backward(Tensor grad, Tensor key_index, int num_fine, int num_coarse, int num_frames)"
      " -> (Tensor grad_fine, Tensor grad_coarse)");
  m.def("rods_pool(Tensor tokens, Tensor queries, Tensor frame_query, Tensor? query_mask, float scale) -> Tensor");
  m.def(
      "rods_pool_backward(Tensor grad, Tensor tokens, Tensor queries, Tensor frame_query, Tensor? query_mask, float scale,"
      " bool needs_tokens, bool needs_queries) -> (Tensor grad_tokens, Tensor grad_queries)");
}

STABLE_TORCH_LIBRARY_IMPL(dynfocus_native, CPU, m) {
  m.impl("dpc_knn", TORCH_BOX(&dynfocus::cpu::dpc_knn));
  m.impl("dpc_knn_varlen", TORCH_BOX(&dynfocus::cpu::dpc_knn_varlen));
  m.impl("knn_log_density", TORCH_BOX(&dynfocus::cpu::knn_log_density));
  m.impl("density_peak_distance", TORCH_BOX(&dynfocus::cpu::density_peak_distance));
  m.impl("nearest_center", TORCH_BOX(&dynfocus::cpu::nearest_center));
  m.impl("pairwise_distances", TORCH_BOX(&dynfocus::cpu::pairwise_distances));
  m.impl("spatial_prototypes", TORCH_BOX(&dynfocus::cpu::spatial_prototypes));
  m.impl("cluster_mean", TORCH_BOX(&dynfocus::cpu::cluster_mean));
  m.impl("cluster_mean_backward", TORCH_BOX(&dynfocus::cpu::cluster_mean_backward));
  m.impl("perturbed_topk", TORCH_BOX(&dynfocus::cpu::perturbed_topk));
  m.impl("perturbed_topk_backward", TORCH_BOX(&dynfocus::cpu::perturbed_topk_backward));
  m.impl("perturbed_topk_noise", TORCH_BOX(&dynfocus::cpu::perturbed_topk_noise));
  m.impl("pack_frame_tokens", TORCH_BOX(&dynfocus::cpu::pack_frame_tokens));
  m.impl("pack_frame_tokens_backward", TORCH_BOX(&dynfocus::cpu::pack_frame_tokens_backward));
  m.impl("rods_pool", TORCH_BOX(&dynfocus::cpu::rods_pool));
  m.impl("rods_pool_backward", TORCH_BOX(&dynfocus::cpu::rods_pool_backward));
}

#ifdef DYNFOCUS_CUDA
STABLE_TORCH_LIBRARY_IMPL(dynfocus_native, CUDA, m) {
  m.impl("dpc_knn", TORCH_BOX(&dynfocus::cuda::dpc_knn));
  m.impl("spatial_prototypes", TORCH_BOX(&dynfocus::cuda::spatial_prototypes));
}
#endif
