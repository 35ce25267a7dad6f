// Cluster a frame's tokens and average, cluster the averages, and so on: a launch for each level.
#include "ops.h"
#include "tensors.h"

namespace dynfocus::cuda {

using torch::headeronly::ScalarType;

// prototypes [T, sum of num_clusters, C] and assignments [T, N + M_1 + ...]; those of a frame that cannot be clustered are -1.
std::tuple<Tensor, Tensor> spatial_prototypes(const Tensor& x, const std::vector<int64_t>& num_clusters, const std::vector<int64_t>& k) {
  STD_TORCH_CHECK(num_clusters.size() == k.size() && !k.empty(), "num_clusters and k must be [levels]");
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Tensor points = in_pieces(x);
  const int64_t T = x.size(0), C = x.size(2), levels = static_cast<int64_t>(k.size());
  int64_t P = 0, A = x.size(1);
  for (int64_t level = 0; level < levels; ++level) {
    P += num_clusters[level];
    if (level + 1 < levels) A += num_clusters[level];
  }
  Tensor prototypes = torch::stable::new_empty(x, {T, P, C});
  Tensor assignments = torch::stable::new_empty(x, {T, A}, ScalarType::Long);

  int64_t first_point = 0, first_prototype = 0;
  for (int64_t level = 0; level < levels; ++level) {
    char* to = static_cast<char*>(prototypes.mutable_data_ptr()) + first_prototype * C * static_cast<int64_t>(x.element_size());
    launch(as_frames(points, num_clusters[level], k[level], static_cast<double>(C)),
           {assignments.mutable_data_ptr<int64_t>() + first_point, A, nullptr, nullptr, nullptr, to, P * C}, x);
    first_point += points.size(1);
    points = torch::stable::narrow(prototypes, 1, first_prototype, num_clusters[level]);
    first_prototype += num_clusters[level];
  }
  return {prototypes, assignments};
}

}  // namespace dynfocus::cuda
