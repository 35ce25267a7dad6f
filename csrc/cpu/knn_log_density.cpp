#include "clustering.h"
#include "ops.h"
#include "samples.h"

namespace dynfocus::cpu {

using torch::headeronly::ScalarType;

Tensor knn_log_density(const Tensor& x, int64_t k, const std::optional<Tensor>& mask, double distance_scale,
                       const std::optional<Tensor>& noise) {
  STD_TORCH_CHECK(x.dim() == 3, "x must be [B, N, C]");
  STD_TORCH_CHECK(distance_scale > 0, "distance_scale must be positive");
  const Points points(x);
  const int64_t N = points.points;
  const std::vector<Sample> samples = batch_samples(points, mask);
  for (int64_t b = 0; b < points.batch; ++b) check_counts(samples[b], b, 1, k);
  Tensor density = filled(x, {points.batch, N}, ScalarType::Float, -kInfinity);
  const Tensor all_noise = noise_values(noise, points);
  for_each_sample(samples.size(), pair_work(samples, points), [&](int64_t b, Scratch& scratch) {
    const Sample& sample = samples[b];
    float* to = density.mutable_data_ptr<float>() + b * N;
    const SquaredDistances distances(points, b, sample.points);
    const auto neighborhood = make_neighborhood(distances, sample.size(), k, scratch);
    const std::vector<float> own_noise = noise ? gather(sample.points, all_noise.const_data_ptr<float>() + b * N) : std::vector<float>();
    scatter(sample.points,
            neighborhood->is_finite() ? log_density(*neighborhood, distance_scale, noise ? own_noise.data() : nullptr)
                                      : std::vector<float>(sample.size(), kNaN),
            to);
  });
  return density;
}

}  // namespace dynfocus::cpu
