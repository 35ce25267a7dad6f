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

std::tuple<Tensor, Tensor> spatial_prototypes(const Tensor& x, const std::vector<int64_t>& num_clusters, const std::vector<int64_t>& k);

Tensor cluster_mean(const Tensor& x, const Tensor& assignment, int64_t num_clusters, const std::optional<Tensor>& weight);

std::tuple<Tensor, Tensor> cluster_mean_backward(const Tensor& grad, const std::optional<Tensor>& x, const Tensor& assignment,
                                                 const std::optional<Tensor>& weight);

}  // namespace dynfocus::cpu
