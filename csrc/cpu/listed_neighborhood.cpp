#include "listed_neighborhood.h"

#include <algorithm>
#include <numeric>

#include "parallel.h"

namespace dynfocus::cpu {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

std::vector<double> ListedNeighborhood::mean_of_nearest() const {
  std::vector<double> mean(count_);
  for (int64_t i = 0; i < count_; ++i) {
    mean[i] = std::accumulate(lists_.squared(i), lists_.squared(i) + k_, 0.0) / static_cast<double>(k_);
  }
  return mean;
}

Neighborhood::Nearest ListedNeighborhood::nearest_before(const std::vector<int32_t>& order) const {
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
std::vector<int32_t> ListedNeighborhood::nearest_center(const std::vector<int32_t>& centers) const {
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
      const int32_t m = static_cast<int32_t>(first + c);
      if (!(row[c] < best[i] || (row[c] == best[i] && m < label[i]))) continue;
      best[i] = row[c];
      label[i] = m;
    }
  };
  search(rest, others, [&](int64_t) { return static_cast<int64_t>(others.size()); }, keep_nearest);
  return label;
}

void ListedNeighborhood::search(const std::vector<int64_t>& points, const std::vector<int64_t>& others, const Limit& limit,
                                const Body& body) const {
  constexpr int64_t kRows = 64;
  const int64_t tasks = (static_cast<int64_t>(points.size()) + kRows - 1) / kRows;
  const double work = static_cast<double>(points.size()) * static_cast<double>(others.size() * distances_.channels());
  struct State {
    SquaredDistances::Workspace workspace;
    Floats tile{kRows * kTile};
  };
  const auto make_state = [] { return State(); };
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

}  // namespace dynfocus::cpu
