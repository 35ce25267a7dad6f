// The CPU ops; schemas in registration.cpp, semantics in dynfocus_ops/reference/<op>.py.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace dynfocus::cpu {

using torch::stable::Tensor;

std::tuple<Tensor, Tensor, Tensor, Tensor> dpc_knn(const Tensor& x, int64_t num_clusters, int64_t k, const std::optional<Tensor>& mask,
                                                   double distance_scale, const std::optional<Tensor>& noise);

std::tuple<Tensor, Tensor, Tensor, Tensor> dpc_knn_varlen(const Tensor& x, const std::vector<int64_t>& bounds,
                                                          const std::vector<int64_t>& num_clusters, const std::vector<int64_t>& k,
                                                          const std::optional<Tensor>& mask, double distance_scale,
                                                          const std::optional<Tensor>& noise);

Tensor knn_log_density(const Tensor& x, int64_t k, const std::optional<Tensor>& mask, double distance_scale,
                       const std::optional<Tensor>& noise);

std::tuple<Tensor, Tensor> density_peak_distance(const Tensor& x, const Tensor& log_density, const std::optional<Tensor>& mask,
                                                 double distance_scale);

Tensor nearest_center(const Tensor& x, const Tensor& centers, const std::optional<Tensor>& mask);

Tensor pairwise_distances(const Tensor& x);

std::tuple<Tensor, Tensor> spatial_prototypes(const Tensor& x, const std::vector<int64_t>& num_clusters, const std::vector<int64_t>& k);

Tensor cluster_mean(const Tensor& x, const Tensor& assignment, int64_t num_clusters, const std::optional<Tensor>& weight, double epsilon);

std::tuple<Tensor, Tensor> cluster_mean_backward(const Tensor& grad, const std::optional<Tensor>& x, const Tensor& assignment,
                                                 const std::optional<Tensor>& weight, double epsilon);

Tensor perturbed_topk(const Tensor& scores, int64_t k, int64_t num_samples, double sigma, const std::optional<Tensor>& seed,
                      const std::optional<Tensor>& noise, bool antithetic);

Tensor perturbed_topk_backward(const Tensor& grad, const Tensor& scores, int64_t num_samples, double sigma,
                               const std::optional<Tensor>& seed, const std::optional<Tensor>& noise, bool antithetic, bool diagonal);

Tensor perturbed_topk_noise(const Tensor& seed, int64_t first, int64_t count);

std::tuple<Tensor, Tensor> pack_frame_tokens(const Tensor& fine, const Tensor& coarse, const Tensor& key_index);

std::tuple<Tensor, Tensor> pack_frame_tokens_backward(const Tensor& grad, const Tensor& key_index, int64_t num_fine, int64_t num_coarse,
                                                      int64_t num_frames);

Tensor rods_pool(const Tensor& tokens, const Tensor& queries, const Tensor& frame_query, const std::optional<Tensor>& query_mask,
                 double scale);

std::tuple<Tensor, Tensor> rods_pool_backward(const Tensor& grad, const Tensor& tokens, const Tensor& queries, const Tensor& frame_query,
                                              const std::optional<Tensor>& query_mask, double scale, bool needs_tokens,
                                              bool needs_queries);

}  // namespace dynfocus::cpu
