// Density-peaks clustering of one sample, stage by stage.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "neighborhood.h"

namespace dynfocus::cpu {

// log rho_i = -(mean of the k smallest squared distances) / scale; with noise, log(rho_i + noise_i). Noise may be null.
std::vector<float> log_density(const Neighborhood& neighborhood, double scale, const float* noise);

// The points by log rho descending, then index ascending.
std::vector<int32_t> density_order(const std::vector<float>& log_density);

// delta = sqrt(squared distance / scale)
std::vector<float> peak_distance(const std::vector<float>& squared, double scale);

// The points of highest log rho + log delta, descending, then by index ascending.
std::vector<int32_t> highest_scores(const std::vector<float>& log_density, const std::vector<float>& delta, int64_t num_clusters);

// Every point's cluster: that of the nearest centre, a centre's own.
std::vector<int32_t> assign(const Neighborhood& neighborhood, const std::vector<int32_t>& centers);

// All stages. Points that are not finite, or distances that overflow, have no order: nothing then.
struct Clustering {
  std::vector<float> log_density, delta;
  std::vector<int32_t> centers, assignment;
};
std::optional<Clustering> cluster(const SquaredDistances& distances, int64_t count, int64_t num_clusters, int64_t k, double scale,
                                  const float* noise, Scratch& scratch);

}  // namespace dynfocus::cpu
