#include "clustering.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace dynfocus::cpu {

namespace {

// log(e^a + n) for n >= 0; n = 0 changes no bit.
float log_add(float a, float n) {
  if (n == 0.0f) return a;
  // Where e^a is much larger, log(1 + t) is t - t^2 / 2 + t^3 / 3, off by less than t^4 / 4: nothing to a float.
  const double t = n * std::exp(-static_cast<double>(a));
  if (t < 0x1p-10) return static_cast<float>(a + t * (1.0 - t * (0.5 - t / 3.0)));
  if (std::isnan(a) || std::isnan(n)) return std::numeric_limits<float>::quiet_NaN();
  const double log_n = std::log(static_cast<double>(n)), low = std::min<double>(a, log_n), high = std::max<double>(a, log_n);
  return static_cast<float>(high + std::log1p(std::exp(low - high)));
}

// Keys that ascend as values descend, then as indices ascend: one integer is compared in place of two numbers.
std::vector<uint64_t> descending_keys(const std::vector<float>& values) {
  std::vector<uint64_t> keys(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(values[i] + 0.0f);  // of -0, those of 0
    const uint32_t descending = bits >> 31 ? bits : ~bits & 0x7fffffffu;
    keys[i] = static_cast<uint64_t>(descending) << 32 | i;
  }
  return keys;
}

std::vector<int32_t> indices(const std::vector<uint64_t>& keys, int64_t count) {
  std::vector<int32_t> indices(count);
  std::transform(keys.begin(), keys.begin() + count, indices.begin(), [](uint64_t key) { return static_cast<int32_t>(key); });
  return indices;
}

}  // namespace

std::vector<float> log_density(const Neighborhood& neighborhood, double scale, const float* noise) {
  const std::vector<double> mean = neighborhood.mean_of_nearest();
  std::vector<float> log_density(mean.size());
  for (size_t i = 0; i < mean.size(); ++i) {
    log_density[i] = static_cast<float>(-mean[i] / scale);
    if (noise != nullptr) log_density[i] = log_add(log_density[i], noise[i]);
  }
  return log_density;
}

std::vector<int32_t> density_order(const std::vector<float>& log_density) {
  std::vector<uint64_t> keys = descending_keys(log_density);
  std::sort(keys.begin(), keys.end());
  return indices(keys, keys.size());
}

std::vector<float> peak_distance(const std::vector<float>& squared, double scale) {
  std::vector<float> delta(squared.size());
  std::transform(squared.begin(), squared.end(), delta.begin(), [&](float s) { return static_cast<float>(std::sqrt(s / scale)); });
  return delta;
}

std::vector<int32_t> highest_scores(const std::vector<float>& log_density, const std::vector<float>& delta, int64_t num_clusters) {
  std::vector<float> score(delta.size());
  for (size_t i = 0; i < delta.size(); ++i) score[i] = log_density[i] + std::log(delta[i]);
  std::vector<uint64_t> keys = descending_keys(score);
  std::nth_element(keys.begin(), keys.begin() + num_clusters - 1, keys.end());
  std::sort(keys.begin(), keys.begin() + num_clusters);
  return indices(keys, num_clusters);
}

std::vector<int32_t> assign(const Neighborhood& neighborhood, const std::vector<int32_t>& centers) {
  std::vector<int32_t> label = neighborhood.nearest_center(centers);
  for (size_t m = 0; m < centers.size(); ++m) label[centers[m]] = static_cast<int32_t>(m);
  return label;
}

std::optional<Clustering> cluster(const SquaredDistances& distances, int64_t count, int64_t num_clusters, int64_t k, double scale,
                                  const float* noise, Scratch& scratch) {
  const auto neighborhood = make_neighborhood(distances, count, k, scratch);
  if (!neighborhood->is_finite()) return std::nullopt;
  Clustering found;
  found.log_density = log_density(*neighborhood, scale, noise);
  found.delta = peak_distance(neighborhood->nearest_before(density_order(found.log_density)).squared, scale);
  found.centers = highest_scores(found.log_density, found.delta, num_clusters);
  found.assignment = assign(*neighborhood, found.centers);
  return found;
}

}  // namespace dynfocus::cpu
