// Density-peaks clustering with k nearest neighbours of a batch.
#include "ops.h"
#include "tensors.h"

namespace dynfocus::cuda {

using torch::headeronly::ScalarType;

std::tuple<Tensor, Tensor, Tensor, Tensor> dpc_knn(const Tensor& x, int64_t num_clusters, int64_t k, const std::optional<Tensor>& mask,
                                                   double distance_scale, const std::optional<Tensor>& noise) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Tensor points = in_pieces(x);
  const int64_t B = x.size(0), N = x.size(1);
  Frames frames = as_frames(points, num_clusters, k, distance_scale);
  const Tensor valid = mask ? for_each_point(*mask, x, ScalarType::Bool, "mask") : Tensor();
  const Tensor added = noise ? for_each_point(*noise, x, ScalarType::Float, "noise") : Tensor();
  if (mask) frames.mask = valid.const_data_ptr<bool>();
  if (noise) frames.noise = added.const_data_ptr<float>();

  Tensor assignment = torch::stable::new_empty(x, {B, N}, ScalarType::Long);
  Tensor centers = torch::stable::new_empty(x, {B, num_clusters}, ScalarType::Long);
  Tensor log_density = torch::stable::new_empty(x, {B, N}, ScalarType::Float);
  Tensor delta = torch::stable::new_empty(x, {B, N}, ScalarType::Float);
  launch(frames,
         {assignment.mutable_data_ptr<int64_t>(), N, centers.mutable_data_ptr<int64_t>(), log_density.mutable_data_ptr<float>(),
          delta.mutable_data_ptr<float>(), nullptr, 0},
         x);
  return {assignment, centers, log_density, delta};
}

}  // namespace dynfocus::cuda
