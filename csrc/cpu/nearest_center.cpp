#include <deque>
#include <numeric>

#include "ops.h"
#include "samples.h"
#include "squared_distances.h"

namespace dynfocus::cpu {

using torch::headeronly::ScalarType;

Tensor nearest_center(const Tensor& x, const Tensor& centers, const std::optional<Tensor>& mask) {
  constexpr int64_t kRows = 128, kColumns = 256;
  STD_TORCH_CHECK(x.dim() == 3, "x must be [B, N, C]");
  const Points points(x);
  const int64_t B = points.batch, N = points.points;
  STD_TORCH_CHECK(centers.dim() == 2 && centers.size(0) == B && centers.scalar_type() == ScalarType::Long, "centers must be int64 [B, M]");
  const int64_t M = centers.size(1);
  const std::vector<Sample> samples = batch_samples(points, mask);
  const Tensor center_values = torch::stable::contiguous(centers);
  const int64_t* center = center_values.const_data_ptr<int64_t>();

  Tensor assignment = filled<int64_t>(x, {B, N}, ScalarType::Long, -1);
  int64_t* label = assignment.mutable_data_ptr<int64_t>();
  std::vector<std::pair<int64_t, int64_t>> tasks;  // a sample, and the first of kRows of its points
  std::deque<SquaredDistances> distances;          // of each sample
  std::vector<int64_t> numbers(B * M);             // of the centres among the valid points
  for (int64_t b = 0; b < B; ++b) {
    const std::vector<int64_t>& valid = samples[b].points;
    for (int64_t m = b * M; m < (b + 1) * M; ++m) {
      const auto found = std::lower_bound(valid.begin(), valid.end(), center[m]);
      STD_TORCH_CHECK(found != valid.end() && *found == center[m], "centers[", b, ", ", m % M, "] is ", center[m], ", it must be a valid point");
      numbers[m] = found - valid.begin();
    }
    distances.emplace_back(points, b, valid);
    for (int64_t i = 0; i < samples[b].size(); i += kRows) tasks.emplace_back(b, i);
  }
  struct State {
    SquaredDistances::Workspace workspace;
    Floats tile{kRows * kColumns};
  };
  const double work = static_cast<double>(B * N * M * points.channels);
  for_each_task(tasks.size(), work, [] { return State(); }, [&](int64_t task, State& state) {
    const auto [b, first] = tasks[task];
    const int64_t rows = std::min(kRows, samples[b].size() - first);
    int64_t row_numbers[kRows];
    std::iota(row_numbers, row_numbers + rows, first);
    std::vector<float> best(rows, kInfinity);
    std::vector<int64_t> nearest(rows, 0);
    for (int64_t m = 0; m < M; m += kColumns) {
      const int64_t columns = std::min(kColumns, M - m);
      distances[b].between(row_numbers, rows, &numbers[b * M + m], columns, state.tile.data(), kColumns, state.workspace);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < columns; ++c) {
          const float squared = state.tile.data()[r * kColumns + c];
          if (!(squared < best[r])) continue;
          best[r] = squared;
          nearest[r] = m + c;
        }
      }
    }
    for (int64_t r = 0; r < rows; ++r) label[b * N + samples[b].points[first + r]] = nearest[r];
  });
  for (int64_t m = 0; m < B * M; ++m) label[m / M * N + center[m]] = m % M;
  return assignment;
}

}  // namespace dynfocus::cpu
