#include "clustering.h"
#include "ops.h"
#include "samples.h"

namespace dynfocus::cpu {

using torch::headeronly::ScalarType;

std::tuple<Tensor, Tensor> density_peak_distance(const Tensor& x, const Tensor& log_density, const std::optional<Tensor>& mask,
                                                 double distance_scale) {
  STD_TORCH_CHECK(x.dim() == 3, "x must be [B, N, C]");
  STD_TORCH_CHECK(distance_scale > 0, "distance_scale must be positive");
  const Points points(x);
  const int64_t B = points.batch, N = points.points;
  STD_TORCH_CHECK(is_batch_of_points(log_density, points) && log_density.scalar_type() == ScalarType::Float,
                  "log_density must be float32 [B, N]");
  const std::vector<Sample> samples = batch_samples(points, mask);
  Tensor delta = filled(x, {B, N}, ScalarType::Float, 0.0f), parent = filled<int64_t>(x, {B, N}, ScalarType::Long, -1);
  const Tensor density_values = torch::stable::contiguous(log_density);
  for_each_sample(samples.size(), pair_work(samples, points), [&](int64_t b, Scratch& scratch) {
    const Sample& sample = samples[b];
    if (sample.points.empty()) return;
    float* to_delta = delta.mutable_data_ptr<float>() + b * N;
    int64_t* to_parent = parent.mutable_data_ptr<int64_t>() + b * N;
    const SquaredDistances distances(points, b, sample.points);
    const auto neighborhood = make_neighborhood(distances, sample.size(), 1, scratch);
    if (!neighborhood->is_finite()) {
      for (int64_t point : sample.points) to_delta[point] = kNaN;
      return;
    }
    const auto nearest = neighborhood->nearest_before(density_order(gather(sample.points, density_values.const_data_ptr<float>() + b * N)));
    scatter(sample.points, peak_distance(nearest.squared, distance_scale), to_delta);
    for (int64_t i = 0; i < sample.size(); ++i) to_parent[sample.points[i]] = sample.points[nearest.point[i]];
  });
  return {delta, parent};
}

}  // namespace dynfocus::cpu
