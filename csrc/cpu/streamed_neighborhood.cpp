#include <algorithm>
#include <atomic>
#include <mutex>
#include <numeric>

#include "listed_neighborhood.h"
#include "parallel.h"
#include "smallest.h"

namespace dynfocus::cpu {

namespace {

constexpr int64_t kMore = 4;  // neighbours in a list beyond k, against searches

class StreamedNeighborhood final : public ListedNeighborhood {
 public:
  StreamedNeighborhood(const SquaredDistances& distances, int64_t count, int64_t k)
      : ListedNeighborhood(distances, count, k, k + kMore), kernels_(row_kernels()) {
    std::vector<int64_t> all(count);
    std::iota(all.begin(), all.end(), 0);
    std::vector<std::pair<int64_t, int64_t>> tiles;
    for (int64_t i = 0; i < count; i += kTile) tiles.emplace_back(i, i);
    see(all, tiles);  // first, as it leaves each point with near neighbours, and so with few to add later
    tiles.clear();
    for (int64_t i = 0; i < count; i += kTile) {
      for (int64_t j = i + kTile; j < count; j += kTile) tiles.emplace_back(i, j);
    }
    see(all, tiles);
  }

 private:
  struct State {
    SquaredDistances::Workspace workspace;
    Floats tile{kTile * kTile};
    std::vector<int32_t> places = std::vector<int32_t>(kTile);
  };

  // Adds the pairs of points of each tile to the lists of both.
  void see(const std::vector<int64_t>& all, const std::vector<std::pair<int64_t, int64_t>>& tiles) {
    std::vector<std::mutex> mutexes((count_ + kTile - 1) / kTile);  // one for the lists of kTile points
    std::vector<float> largest(tiles.size());
    std::atomic<bool> is_finite = true;
    const double work = static_cast<double>(tiles.size()) * kTile * kTile * static_cast<double>(distances_.channels());
    const auto make_state = [] { return State(); };
    for_each_task(tiles.size(), work, make_state, [&](int64_t task, State& state) {
      const auto [i, j] = tiles[task];
      const int64_t rows = std::min(kTile, count_ - i), columns = std::min(kTile, count_ - j);
      float* tile = state.tile.data();
      const bool finite = i == j ? distances_.among(&all[i], rows, tile, kTile, state.workspace)
                                 : distances_.between(&all[i], rows, &all[j], columns, tile, kTile, state.workspace);
      if (!finite) is_finite = false;
      for (int64_t r = 0; r < rows; ++r) largest[task] = std::max(largest[task], kernels_.largest(tile + r * kTile, padded(columns)));
      {
        std::lock_guard<std::mutex> lock(mutexes[i / kTile]);
        if (i == j) {
          add_first(i, rows, tile);
        } else {
          for (int64_t r = 0; r < rows; ++r) add_to_row(i + r, j, columns, tile + r * kTile, state.places.data());
        }
      }
      if (i == j) return;
      std::lock_guard<std::mutex> lock(mutexes[j / kTile]);
      for (int64_t r = 0; r < rows; ++r) add_to_columns(i + r, j, tile + r * kTile, state.places.data());
    });
    is_finite_ = is_finite_ && is_finite;
    for (float value : largest) largest_ = std::max(largest_, value);
  }

  void add_first(int64_t first, int64_t rows, const float* tile) {
    Smallest smallest(std::min(lists_.length(), rows));
    for (int64_t r = 0; r < rows; ++r) {
      smallest.find(tile + r * kTile, padded(rows));
      for (int64_t at = 0; at < smallest.k(); ++at) {
        lists_.add(first + r, smallest.values()[at], static_cast<int32_t>(first + smallest.places()[at]));
      }
    }
  }

  void add_to_row(int64_t i, int64_t j, int64_t columns, const float* row, int32_t* places) {
    const int64_t found = kernels_.at_most(row, *lists_.farthest(i), padded(columns), places);
    for (int64_t at = 0; at < found; ++at) {
      if (places[at] < columns) lists_.add(i, row[places[at]], static_cast<int32_t>(j + places[at]));
    }
  }

  void add_to_columns(int64_t i, int64_t j, const float* row, int32_t* places) {
    const int64_t found = kernels_.at_most_each(row, lists_.farthest(j), kTile, places);
    for (int64_t at = 0; at < found; ++at) lists_.add(j + places[at], row[places[at]], static_cast<int32_t>(i));
  }

  const RowKernels& kernels_;
};

}  // namespace

std::unique_ptr<Neighborhood> make_streamed_neighborhood(const SquaredDistances& distances, int64_t count, int64_t k) {
  return std::make_unique<StreamedNeighborhood>(distances, count, k);
}

}  // namespace dynfocus::cpu
