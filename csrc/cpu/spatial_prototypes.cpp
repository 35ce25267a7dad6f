// Cluster a frame's tokens and average, cluster the averages, and so on: all levels of a frame one after the other, while it is in cache.
#include <numeric>

#include "cluster_mean.h"
#include "clustering.h"
#include "huge_pages.h"
#include "ops.h"
#include "samples.h"

namespace dynfocus::cpu {

using torch::headeronly::ScalarType;

namespace {

// Writes the mean of each cluster's members to rows of C elements, as cluster_mean would.
void write_means(const Points& x, int64_t b, const std::vector<int32_t>& assignment, int64_t num_clusters, char* rows, int64_t row_size) {
  std::vector<std::vector<int64_t>> members(num_clusters);
  for (size_t i = 0; i < assignment.size(); ++i) members[assignment[i]].push_back(static_cast<int64_t>(i));
  std::vector<float> mean(x.channels);
  for (int64_t m = 0; m < num_clusters; ++m) {
    mean_of_members(x, b, members[m].data(), static_cast<int64_t>(members[m].size()), nullptr, 0, x.channels, mean.data());
    point_kernels().scale_from_float[x.element](mean.data(), 1.0f, rows + m * row_size, x.channels);
  }
}

}  // namespace

// prototypes [T, sum of num_clusters, C] and assignments [T, N + M_1 + ...]; those of a frame that cannot be clustered are -1.
std::tuple<Tensor, Tensor> spatial_prototypes(const Tensor& x, const std::vector<int64_t>& num_clusters, const std::vector<int64_t>& k) {
  STD_TORCH_CHECK(x.dim() == 3, "x must be [T, N, C]");
  STD_TORCH_CHECK(num_clusters.size() == k.size() && !k.empty(), "num_clusters and k must be [levels]");
  const Points frames(x);
  const int64_t T = frames.batch, C = frames.channels, levels = static_cast<int64_t>(k.size());
  std::vector<std::vector<int64_t>> points(levels);  // the numbers of a level's points
  std::vector<int64_t> first_point(levels + 1), first_prototype(levels + 1);
  for (int64_t level = 0; level < levels; ++level) {
    points[level].resize(level == 0 ? frames.points : num_clusters[level - 1]);
    std::iota(points[level].begin(), points[level].end(), 0);
    check_counts({0, points[level]}, level, num_clusters[level], k[level]);
    first_point[level + 1] = first_point[level] + static_cast<int64_t>(points[level].size());
    first_prototype[level + 1] = first_prototype[level] + num_clusters[level];
  }

  const int64_t P = first_prototype[levels], A = first_point[levels], row_size = C * static_cast<int64_t>(x.element_size());
  Tensor prototypes = in_huge_pages(torch::stable::new_empty(x, {T, P, C}));
  Tensor assignments = filled<int64_t>(x, {T, A}, ScalarType::Long, -1);
  char* rows = static_cast<char*>(prototypes.mutable_data_ptr());
  std::vector<Points> level_points{frames};
  for (int64_t level = 1; level < levels; ++level) {
    level_points.emplace_back(torch::stable::narrow(prototypes, 1, first_prototype[level - 1], num_clusters[level - 1]));
  }
  for_each_sample(T, static_cast<double>(T * frames.points * frames.points * C) / 2, [&](int64_t t, Scratch& scratch) {
    for (int64_t level = 0; level < levels; ++level) {
      const Points& own = level_points[level];
      const auto found = cluster(SquaredDistances(own, t, points[level]), static_cast<int64_t>(points[level].size()), num_clusters[level],
                                 k[level], static_cast<double>(C), nullptr, scratch);
      char* to = rows + (t * P + first_prototype[level]) * row_size;
      if (!found) {
        std::fill(to, rows + (t + 1) * P * row_size, 0);
        return;
      }
      std::copy(found->assignment.begin(), found->assignment.end(), assignments.mutable_data_ptr<int64_t>() + t * A + first_point[level]);
      write_means(own, t, found->assignment, num_clusters[level], to, row_size);
    }
  });
  return {prototypes, assignments};
}

}  // namespace dynfocus::cpu
