// Density-peaks clustering with k nearest neighbours, of a batch and of ragged segments.
#include "clustering.h"
#include "ops.h"
#include "samples.h"

namespace dynfocus::cpu {

namespace {

using torch::headeronly::ScalarType;

// Where the results of one sample go: rows of x[b], and its centres.
struct Results {
  int64_t *assignment, *centers;
  float *log_density, *delta;
};

// A sample that cannot be clustered gets a log density of NaN, for the caller to refuse.
void cluster(const Points& x, const Sample& sample, int64_t num_clusters, int64_t k, double scale, const float* noise, Results to, Scratch& scratch) {
  const std::vector<float> own_noise = noise == nullptr ? std::vector<float>() : gather(sample.points, noise);
  const auto found = cluster(SquaredDistances(x, sample.b, sample.points), sample.size(), num_clusters, k, scale,
                             noise == nullptr ? nullptr : own_noise.data(), scratch);
  if (!found) {
    for (int64_t point : sample.points) to.log_density[point] = kNaN;
    return;
  }
  scatter(sample.points, found->log_density, to.log_density);
  scatter(sample.points, found->delta, to.delta);
  scatter(sample.points, found->assignment, to.assignment);
  for (int64_t m = 0; m < num_clusters; ++m) to.centers[m] = sample.points[found->centers[m]];
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> dpc_knn(const Tensor& x, int64_t num_clusters, int64_t k, const std::optional<Tensor>& mask,
                                                   double distance_scale, const std::optional<Tensor>& noise) {
  STD_TORCH_CHECK(x.dim() == 3, "x must be [B, N, C]");
  STD_TORCH_CHECK(distance_scale > 0, "distance_scale must be positive");
  const Points points(x);
  const int64_t B = points.batch, N = points.points;
  const std::vector<Sample> samples = batch_samples(points, mask);
  for (int64_t b = 0; b < B; ++b) check_counts(samples[b], b, num_clusters, k);

  Tensor assignment = filled<int64_t>(x, {B, N}, ScalarType::Long, -1), centers = filled<int64_t>(x, {B, num_clusters}, ScalarType::Long, -1);
  Tensor density = filled(x, {B, N}, ScalarType::Float, -kInfinity), delta = filled(x, {B, N}, ScalarType::Float, 0.0f);
  const Tensor all_noise = noise_values(noise, points);
  for_each_sample(samples.size(), pair_work(samples, points), [&](int64_t b, Scratch& scratch) {
    cluster(points, samples[b], num_clusters, k, distance_scale, noise ? all_noise.const_data_ptr<float>() + b * N : nullptr,
            {assignment.mutable_data_ptr<int64_t>() + b * N, centers.mutable_data_ptr<int64_t>() + b * num_clusters,
             density.mutable_data_ptr<float>() + b * N, delta.mutable_data_ptr<float>() + b * N}, scratch);
  });
  return {assignment, centers, density, delta};
}

// x [total, C], mask and noise [total]; segment s is rows [bounds[s], bounds[s + 1]).
std::tuple<Tensor, Tensor, Tensor, Tensor> dpc_knn_varlen(const Tensor& x, const std::vector<int64_t>& bounds,
                                                          const std::vector<int64_t>& num_clusters, const std::vector<int64_t>& k,
                                                          const std::optional<Tensor>& mask, double distance_scale,
                                                          const std::optional<Tensor>& noise) {
  STD_TORCH_CHECK(x.dim() == 2, "x must be [total, C]");
  STD_TORCH_CHECK(distance_scale > 0, "distance_scale must be positive");
  const auto as_batch = [](const Tensor& t) { return torch::stable::unsqueeze(t, 0); };
  const auto as_batch_if_any = [&](const std::optional<Tensor>& t) { return t ? std::optional<Tensor>(as_batch(*t)) : std::nullopt; };
  const Points points(as_batch(x));
  const int64_t total = points.points, segments = static_cast<int64_t>(bounds.size()) - 1;
  STD_TORCH_CHECK(segments >= 0 && static_cast<int64_t>(num_clusters.size()) == segments && static_cast<int64_t>(k.size()) == segments,
                  "bounds must be [S + 1], num_clusters and k [S]");
  const Tensor all_valid = mask_values(as_batch_if_any(mask), points);
  std::vector<Sample> samples;
  std::vector<int64_t> first_center{0};
  for (int64_t s = 0; s < segments; ++s) {
    STD_TORCH_CHECK(0 <= bounds[s] && bounds[s] < bounds[s + 1] && bounds[s + 1] <= total, "bounds must increase from 0 to total");
    samples.push_back(make_sample(0, bounds[s], bounds[s + 1], mask ? all_valid.const_data_ptr<bool>() : nullptr));
    check_counts(samples[s], s, num_clusters[s], k[s]);
    first_center.push_back(first_center[s] + num_clusters[s]);
  }

  Tensor assignment = filled<int64_t>(x, {total}, ScalarType::Long, -1), centers = filled<int64_t>(x, {first_center[segments]}, ScalarType::Long, -1);
  Tensor density = filled(x, {total}, ScalarType::Float, -kInfinity), delta = filled(x, {total}, ScalarType::Float, 0.0f);
  const Tensor all_noise = noise_values(as_batch_if_any(noise), points);
  for_each_sample(samples.size(), pair_work(samples, points), [&](int64_t s, Scratch& scratch) {
    cluster(points, samples[s], num_clusters[s], k[s], distance_scale, noise ? all_noise.const_data_ptr<float>() : nullptr,
            {assignment.mutable_data_ptr<int64_t>(), centers.mutable_data_ptr<int64_t>() + first_center[s],
             density.mutable_data_ptr<float>(), delta.mutable_data_ptr<float>()}, scratch);
  });
  return {assignment, centers, density, delta};
}

}  // namespace dynfocus::cpu
