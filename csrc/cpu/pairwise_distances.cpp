// All distances |x_i - x_j| / sqrt(C) between the points of each sample, for callers that must hand them on.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "huge_pages.h"
#include "ops.h"
#include "parallel.h"
#include "squared_distances.h"

namespace dynfocus::cpu {

// x [B, N, C] -> float32 [B, N, N], symmetric, 0 on the diagonal; not finite where x is not, or where squares overflow.
Tensor pairwise_distances(const Tensor& x) {
  constexpr int64_t kTile = 128;
  STD_TORCH_CHECK(x.dim() == 3, "x must be [B, N, C]");
  const Points points(x);
  const int64_t B = points.batch, N = points.points, C = points.channels;
  Tensor result = in_huge_pages(torch::stable::new_empty(x, {B, N, N}, torch::headeronly::ScalarType::Float));
  float* const out = result.mutable_data_ptr<float>();
  const float per_channel = 1.0f / static_cast<float>(C);
  std::vector<int64_t> all(N);
  std::iota(all.begin(), all.end(), 0);
  std::vector<SquaredDistances> distances;
  struct Tile {
    int64_t b, i, j;
  };
  std::vector<Tile> tiles;  // on and above the diagonal
  for (int64_t b = 0; b < B; ++b) {
    distances.emplace_back(points, b, all);
    for (int64_t i = 0; i < N; i += kTile) {
      for (int64_t j = i; j < N; j += kTile) tiles.push_back({b, i, j});
    }
  }
  struct State {
    SquaredDistances::Workspace workspace;
    Floats tile{kTile * kTile};
  };
  const double work = 0.5 * static_cast<double>(B * N * N * C);
  for_each_task(tiles.size(), work, [] { return State(); }, [&](int64_t task, State& state) {
    const auto [b, i, j] = tiles[task];
    const int64_t rows = std::min(kTile, N - i), columns = std::min(kTile, N - j);
    float* tile = state.tile.data();
    if (i == j) {
      distances[b].among(&all[i], rows, tile, kTile, state.workspace);
    } else {
      distances[b].between(&all[i], rows, &all[j], columns, tile, kTile, state.workspace);
    }
    float* const sample = out + b * N * N;
    for (int64_t r = 0; r < rows; ++r) {
      float* row = sample + (i + r) * N + j;
      for (int64_t c = 0; c < columns; ++c) row[c] = std::sqrt(tile[r * kTile + c] * per_channel);
    }
    if (i == j) return;
    for (int64_t c = 0; c < columns; ++c) {
      float* row = sample + (j + c) * N + i;
      for (int64_t r = 0; r < rows; ++r) row[r] = sample[(i + r) * N + j + c];
    }
  });
  return result;
}

}  // namespace dynfocus::cpu
