// What density-peaks clustering asks of the distances between a sample's points.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "squared_distances.h"

namespace dynfocus::cpu {

// Points are numbered from 0 to count. Parallel inside, but for calls from within a parallel region.
class Neighborhood {
 public:
  virtual ~Neighborhood() = default;

  // False if a distance is not finite: nothing else may be asked then.
  virtual bool is_finite() const = 0;

  // For each point, the mean of its k smallest squared distances, its own 0 among them.
  virtual std::vector<double> mean_of_nearest() const = 0;

  // For each point, the squared distance to the nearest of those before it in `order`, and that point (of equals: the lower index). For
  // the first, the largest distance of all, and itself.
  struct Nearest {
    std::vector<float> squared;
    std::vector<int32_t> point;
  };
  virtual Nearest nearest_before(const std::vector<int32_t>& order) const = 0;

  // For each point, which of `centers` is nearest (of equals: the earlier).
  virtual std::vector<int32_t> nearest_center(const std::vector<int32_t>& centers) const = 0;
};

// What a sample is worked on with, kept from sample to sample.
struct Scratch {
  SquaredDistances::Workspace workspace;
  Floats squared, bytes;
  int64_t num_threads = 1;  // that share the sample
};

// All distances, where they fit a cache: up to kDense points, 4 MiB.
constexpr int64_t kDense = 1024;
std::unique_ptr<Neighborhood> make_dense_neighborhood(const SquaredDistances& distances, int64_t count, int64_t k, Scratch& scratch);

// The same from bounds that bytes give, where that is quicker; else nothing. Memory: that, and a byte a channel.
std::unique_ptr<Neighborhood> make_bounded_neighborhood(const SquaredDistances& distances, int64_t count, int64_t k, Scratch& scratch);

// The nearest neighbours of each point, found while the distances stream by; what they do not tell is computed again. Memory O(count k).
std::unique_ptr<Neighborhood> make_streamed_neighborhood(const SquaredDistances& distances, int64_t count, int64_t k);

// The same, from bounds that bytes give, where that is quicker; else nothing. Memory O(count k), a byte a channel of all points (at
// most 64 MiB), up to some 25 MiB.
std::unique_ptr<Neighborhood> make_screened_neighborhood(const SquaredDistances& distances, int64_t count, int64_t k, Scratch& scratch);

inline std::unique_ptr<Neighborhood> make_neighborhood(const SquaredDistances& distances, int64_t count, int64_t k, Scratch& scratch) {
  if (auto bounded = make_bounded_neighborhood(distances, count, k, scratch)) return bounded;
  if (auto screened = make_screened_neighborhood(distances, count, k, scratch)) return screened;
  return count <= kDense ? make_dense_neighborhood(distances, count, k, scratch) : make_streamed_neighborhood(distances, count, k);
}

// The place of each point in `order`.
std::vector<int32_t> rank_of(const std::vector<int32_t>& order);

}  // namespace dynfocus::cpu
