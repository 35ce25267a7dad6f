// The CUDA ops; schemas in registration.cpp, semantics in dynfocus_ops/reference/<op>.py.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace dynfocus::cuda {

using torch::stable::Tensor;

std::tuple<Tensor, Tensor, Tensor, Tensor> dpc_knn(const Tensor& x, int64_t num_clusters, int64_t k, const std::optional<Tensor>& mask,
                                                   double distance_scale, const std::optional<Tensor>& noise);

std::tuple<Tensor, Tensor> spatial_prototypes(const Tensor& x, const std::vector<int64_t>& num_clusters, const std::vector<int64_t>& k);

}  // namespace dynfocus::cuda
