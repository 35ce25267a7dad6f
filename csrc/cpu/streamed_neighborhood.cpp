#include <algorithm>
#include <atomic>
#include <limits>
#include <mutex>
#include <numeric>

#include "neighborhood.h"
#include "parallel.h"
#include "smallest.h"

namespace dynfocus::cpu {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

constexpr int64_t kTile = 256;

// So many neighbours more than asked for. A point whose neighbours are all less dense, a peak, needs a search among all denser points;
// of N points in random order some N / (1 + neighbours) are peaks, and few points are denser than those.
constexpr int64_t kMore = 4;

// The nearest neighbours seen of each point, ascending by squared distance, then index: whichever order they are seen in.
class NeighborLists {
 public:
  NeighborLists(int64_t count, int64_t length)
      : length_(length), squared_(count * length, kInfinity), point_(count * length, std::numeric_limits<int32_t>::max()),
        farthest_((count + kTile - 1) / kTile * kTile, -kInfinity) {
    std::fill_n(farthest_.begin(), count, kInfinity);
  }

  void add(int64_t i, float squared, int32_t point) {
    float* values = &squared_[i * length_];
    int32_t* points = &point_[i * length_];
    const auto is_before = [&](int64_t at) { return squared < values[at] || (squared == values[at] && point < points[at]); };
    int64_t at = length_ - 1;
    if (!is_before(at)) return;
    for (; at > 0 && is_before(at - 1); --at) {
      values[at] = values[at - 1];
      points[at] = points[at - 1];
    }
    values[at] = squared;
    points[at] = point;
    farthest_[i] = values[length_ - 1];
  }

  int64_t length() const { return length_; }
  const float* squared(int64_t i) const { return &squared_[i * length_]; }
  const int32_t* points(int64_t i) const { return &point_[i * length_]; }
  // Of points [i, ...): a neighbour farther than this is not among the nearest.
  const float* farthest(int64_t i) const { return &farthest_[i]; }

 private:
  const int64_t length_;
  std::vector<float> squared_;   // [count][length]
  std::vector<int32_t> point_;   // [count][length]
  std::vector<float> farthest_;  // [count], and up to a whole tile what nothing is nearer than
};

class StreamedNeighborhood final : public Neighborhood {
 public:
  StreamedNeighborhood(const SquaredDistances& distances, int64_t count, int64_t k)
      : distances_(distances), kernels_(row_kernels()), count_(count), k_(k), lists_(count, std::min(k + kMore, count)) {
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

  bool is_finite() const override { return is_finite_; }

  std::vector<double> mean_of_nearest() const override {
    std::vector<double> mean(count_);
    for (int64_t i = 0; i < count_; ++i) {
      mean[i] = std::accumulate(lists_.squared(i), lists_.squared(i) + k_, 0.0) / static_cast<double>(k_);
    }
    return mean;
  }

  Nearest nearest_before(const std::vector<int32_t>& order, bool) const override {
    const std::vector<int32_t> rank = rank_of(order);
    Nearest nearest{std::vector<float>(count_, kInfinity), std::vector<int32_t>(count_)};
    std::vector<int64_t> peaks;  // in order, but for the first of all
    for (int64_t place = 1; place < count_; ++place) {
      const int32_t i = order[place];
      const int32_t* neighbors = lists_.points(i);
      const int32_t* denser = std::find_if(neighbors, neighbors + lists_.length(), [&](int32_t j) { return rank[j] < place; });
      if (denser == neighbors + lists_.length()) {
        peaks.push_back(i);
      } else {
        nearest.squared[i] = lists_.squared(i)[denser - neighbors];
        nearest.point[i] = *denser;
      }
    }
    const std::vector<int64_t> others(order.begin(), order.end());
    const auto among_denser = [&](int64_t i, const float* row, int64_t first, int64_t columns) {
      for (int64_t c = 0; c < std::min<int64_t>(columns, rank[i] - first); ++c) {
        const int32_t j = order[first + c];
        if (row[c] < nearest.squared[i] || (row[c] == nearest.squared[i] && j < nearest.point[i])) {
          nearest.squared[i] = row[c];
          nearest.point[i] = j;
        }
      }
    };
    search(peaks, others, [&](int64_t last_peak) { return static_cast<int64_t>(rank[last_peak]); }, among_denser);
    nearest.squared[order[0]] = largest_;
    nearest.point[order[0]] = order[0];
    return nearest;
  }

  // A point with a centre among its neighbours joins the nearest of those, unless one that is not among them may be as near.
  std::vector<int32_t> nearest_center(const std::vector<int32_t>& centers) const override {
    std::vector<int32_t> number(count_, -1), label(count_, -1);
    for (size_t m = 0; m < centers.size(); ++m) number[centers[m]] = static_cast<int32_t>(m);
    std::vector<int64_t> rest;
    for (int64_t i = 0; i < count_; ++i) {
      const float* squared = lists_.squared(i);
      float least = kInfinity;
      for (int64_t at = 0; at < lists_.length() && squared[at] <= least; ++at) {
        const int32_t m = number[lists_.points(i)[at]];
        if (m < 0 || (squared[at] == least && m > label[i])) continue;
        least = squared[at];
        label[i] = m;
      }
      if (!(least < *lists_.farthest(i))) rest.push_back(i);
    }
    std::vector<float> best(count_, kInfinity);
    const std::vector<int64_t> others(centers.begin(), centers.end());
    const auto keep_nearest = [&](int64_t i, const float* row, int64_t first, int64_t columns) {
      for (int64_t c = 0; c < columns; ++c) {
        if (!(row[c] < best[i])) continue;
        best[i] = row[c];
        label[i] = static_cast<int32_t>(first + c);
      }
    };
    search(rest, others, [&](int64_t) { return static_cast<int64_t>(others.size()); }, keep_nearest);
    return label;
  }

 private:
  struct State {
    explicit State(int64_t rows) : tile(rows * kTile), places(kTile) {}
    SquaredDistances::Workspace workspace;
    Floats tile;
    std::vector<int32_t> places;
  };

  // Adds the pairs of points of each tile to the lists of both.
  void see(const std::vector<int64_t>& all, const std::vector<std::pair<int64_t, int64_t>>& tiles) {
    std::vector<std::mutex> mutexes((count_ + kTile - 1) / kTile);  // one for the lists of kTile points
    std::vector<float> largest(tiles.size());
    std::atomic<bool> is_finite = true;
    const double work = static_cast<double>(tiles.size()) * kTile * kTile * static_cast<double>(distances_.channels());
    const auto make_state = [] { return State(kTile); };
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
      for (size_t at = 0; at < smallest.places().size(); ++at) {
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

  // Calls body(point, row, first, columns) with the distances of each of `points` to others[first .. first + columns), tile by tile in
  // order. Only the first limit(the last point of a tile) others are looked at.
  template <class Limit, class Body>
  void search(const std::vector<int64_t>& points, const std::vector<int64_t>& others, const Limit& limit, const Body& body) const {
    constexpr int64_t kRows = 64;
    const int64_t tasks = (static_cast<int64_t>(points.size()) + kRows - 1) / kRows;
    const double work = static_cast<double>(points.size()) * static_cast<double>(others.size() * distances_.channels());
    const auto make_state = [] { return State(kRows); };
    for_each_task(tasks, work, make_state, [&](int64_t task, State& state) {
      const int64_t first_row = task * kRows, rows = std::min<int64_t>(kRows, points.size() - first_row);
      const int64_t end = limit(points[first_row + rows - 1]);
      for (int64_t first = 0; first < end; first += kTile) {
        const int64_t columns = std::min(kTile, end - first);
        distances_.between(&points[first_row], rows, &others[first], columns, state.tile.data(), kTile, state.workspace);
        for (int64_t r = 0; r < rows; ++r) body(points[first_row + r], state.tile.data() + r * kTile, first, columns);
      }
    });
  }

  const SquaredDistances& distances_;
  const RowKernels& kernels_;
  const int64_t count_, k_;
  NeighborLists lists_;
  float largest_ = 0.0f;
  bool is_finite_ = true;
};

}  // namespace

std::unique_ptr<Neighborhood> make_streamed_neighborhood(const SquaredDistances& distances, int64_t count, int64_t k) {
  return std::make_unique<StreamedNeighborhood>(distances, count, k);
}

}  // namespace dynfocus::cpu
