#include <algorithm>
#include <cmath>
#include <limits>

#include "listed_neighborhood.h"
#include "parallel.h"
#include "rounded_sample.h"
#include "smallest.h"

namespace dynfocus::cpu {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// What it pays for, measured on 64 to 1,024 points of 40 to 8,192 channels with 1 to 32 neighbours: enough channels and numbers, no more
// numbers than a large cache holds, and few neighbours among many points.
constexpr int64_t kNarrowest = 128, kSmallest = 1 << 16, kLargest = 1 << 22, kPointsANeighbor = 16;

// Rows of the first panel that tell beforehand how many entries lists of this length, or k, ask for. One in so many is worth it, half as
// many where the points do not stay in a core's cache.
constexpr int64_t kProbes = 8, kProbedLength = 8, kCached = 1 << 19;
constexpr int64_t one_of(int64_t numbers) { return numbers <= kCached ? 5 : 10; }

// Rows to a task, at least.
constexpr int64_t kRows = 64;

// Points rounded to bytes bound all squared distances from below. A bound gives way to the exact entry, from differences, only where it
// may be the answer: the most promising first, until no bound is better than what is exact. No answer's bits depend on which are.
class BoundedNeighborhood final : public ListedNeighborhood {
 public:
  BoundedNeighborhood(const SquaredDistances& distances, int64_t count, int64_t k, Scratch& scratch)
      : ListedNeighborhood(distances, count, k, std::max(k, kShortest)),
        stride_(padded(count)),
        rows_to_a_task_(std::max(kRows, (count - 1) / scratch.num_threads + 1)),
        rounded_(distances, count),
        squared_(scratch.squared.reserve(stride_ * stride_)),
        is_exact_(stride_ * stride_, 0),
        largest_of_row_(count) {}

  bool pays() {
    if (!rounded_.is_usable()) return false;
    for (int64_t i = 0; i < count_; ++i) error_ = std::max(error_, rounded_.point(i).error);
    bound_panel(0);
    State state(*this, std::max(k_, kProbedLength));
    for (int64_t probe = 0; probe < kProbes; ++probe) find_nearest(probe * (kPanel / kProbes), state);
    return state.num_computed * one_of(count_ * distances_.channels()) <= kProbes * count_;
  }

  void find_all() {
    const double pairs = static_cast<double>(count_ * count_), channels = static_cast<double>(distances_.channels());
    for_each_task(stride_ / kPanel - 1, pairs * channels / 8, [] { return 0; }, [&](int64_t panel, int) { bound_panel((panel + 1) * kPanel); });
    const auto make_state = [&] { return State(*this, lists_.length()); };
    for_each_task((count_ - 1) / rows_to_a_task_ + 1, pairs + 16 * count_ * channels, make_state, [&](int64_t task, State& state) {
      for (int64_t i = task * rows_to_a_task_; i < std::min(count_, (task + 1) * rows_to_a_task_); ++i) {
        find_nearest(i, state);
        lists_.set(i, state.nearest.values().data(), state.nearest.places().data());
      }
    });
    largest_ = find_largest();
  }

 protected:
  void search(const std::vector<int64_t>& points, const std::vector<int64_t>& others, const Limit& limit, const Body& body) const override {
    std::vector<int32_t> place(stride_, std::numeric_limits<int32_t>::max());
    for (size_t at = 0; at < others.size(); ++at) place[others[at]] = static_cast<int32_t>(at);
    const int64_t num_points = static_cast<int64_t>(points.size()), tasks = (num_points + kRows - 1) / kRows;
    const double work = static_cast<double>(num_points * (count_ + 4 * distances_.channels()));
    const auto make_state = [&] { return State(*this, 1); };
    for_each_task(tasks, work, make_state, [&](int64_t task, State& state) {
      for (int64_t p = task * kRows; p < std::min(num_points, (task + 1) * kRows); ++p) {
        const int64_t i = points[p];
        float least = kInfinity;
        for (int32_t end = static_cast<int32_t>(limit(i)); end > 0;) {  // of equals, all that come before
          const int32_t j = static_cast<int32_t>(kernels_.nearest_before(row(i), place.data(), end, stride_));
          if (place[j] >= end || row(i)[j] > least) break;
          if (make_exact(i, i, i + 1, &j, 1, state) > 0) continue;
          body(i, row(i) + j, place[j], 1);
          least = row(i)[j];
          end = place[j];
        }
      }
    });
  }

 private:
  // What one thread works with.
  struct State {
    State(const BoundedNeighborhood& of, int64_t length) : nearest(length), candidates(of.stride_), places(of.stride_), bounds(of.stride_) {}
    Smallest nearest;
    std::vector<int32_t> candidates, places, bounds;
    int64_t num_computed = 0;
  };

  float* row(int64_t i) const { return squared_ + i * stride_; }

  // Rows [i, i + kPanel) from the panel on the diagonal on, and their mirror image.
  void bound_panel(int64_t i) {
    const int64_t rows = std::min(kPanel, count_ - i), columns = count_ - i, right = i + kPanel;
    int32_t* products = reinterpret_cast<int32_t*>(row(i) + i);
    rounded_.multiply(i, rows, i, columns, products, stride_);
    for (int64_t r = i; r < i + rows; ++r) {
      largest_of_row_[r] = byte_kernels().lower_bounds(products + (r - i) * stride_, rounded_.point(r), rounded_.points(i, nullptr),
                                                       padded(columns), row(r) + i);
      std::fill(row(r) + count_, row(r) + stride_, kInfinity);
      row(r)[r] = 0.0f;
      is_exact_[r * stride_ + r] = 1;
    }
    if (right < count_) kernels_.transpose(row(i) + right, stride_, kPanel, stride_ - right, row(right) + i, stride_);
  }

  // Computes those of the entries of row i that are bounds, and their mirror images in rows [first, last); returns how many.
  int64_t make_exact(int64_t i, int64_t first, int64_t last, const int32_t* places, int64_t num, State& state) const {
    int64_t num_bounds = 0;
    for (int64_t at = 0; at < num; ++at) {
      state.bounds[num_bounds] = places[at];
      num_bounds += !is_exact_[i * stride_ + places[at]];
    }
    float values[kPanel];
    for (int64_t at = 0; at < num_bounds; at += kPanel) {
      const int64_t n = std::min(kPanel, num_bounds - at);
      distances_.from_differences(i, &state.bounds[at], n, values);
      for (int64_t v = 0; v < n; ++v) {
        const int64_t j = state.bounds[at + v];
        row(i)[j] = values[v];
        is_exact_[i * stride_ + j] = 1;
        if (j < first || j >= last) continue;
        row(j)[i] = values[v];
        is_exact_[j * stride_ + i] = 1;
      }
    }
    state.num_computed += num_bounds;
    return num_bounds;
  }

  // Into state.nearest: the nearest of point i. Mirror images are written in the rows that the same task looks at.
  void find_nearest(int64_t i, State& state) const {
    const int64_t first = i / rows_to_a_task_ * rows_to_a_task_, last = first + rows_to_a_task_;
    // As many bounds as there are to be nearest are at most `reach`. Those points, and so the nearest, are hardly farther than `limit`.
    float reach = kernels_.kth_group_minimum(row(i), stride_, state.nearest.k());
    const float limit = upper_bound(reach, rounded_.point(i).error + error_);
    int64_t num_candidates = kernels_.at_most(row(i), limit * limit, stride_, state.candidates.data());
    for (bool reach_is_exact = false;; reach_is_exact = true) {
      int64_t found = 0;
      for (int64_t c = 0; c < num_candidates; ++c) {
        state.places[found] = state.candidates[c];
        found += row(i)[state.candidates[c]] <= reach;
      }
      const bool all_exact = make_exact(i, first, last, state.places.data(), found, state) == 0;
      state.nearest.choose(row(i), state.places.data(), found);
      if (all_exact || reach_is_exact) return;
      reach = state.nearest.values().back();
      if (reach > limit * limit) num_candidates = kernels_.at_most(row(i), reach, stride_, state.candidates.data());
    }
  }

  // What a distance with this lower bound of its square is at most, for points with these errors, together; so is what is computed of it.
  // But for the room that the lower bound leaves for sums of the points' squares: of points much nearer each other than they are long,
  // and those no largest distance is between.
  static float upper_bound(float bound, float errors) { return (std::sqrt(bound) + 2.0f * errors) * (1.0f + 0x1p-10f); }

  float find_largest() const {
    State state(*this, 1);
    const int64_t top = std::max_element(largest_of_row_.begin(), largest_of_row_.end()) - largest_of_row_.begin();
    const int32_t farthest = static_cast<int32_t>(std::max_element(row(top) + top, row(top) + count_) - row(top));
    float most = distances_.from_differences(top, farthest);
    for (int64_t i = 0; i < count_; ++i) {
      const float errors = rounded_.point(i).error + error_, own = upper_bound(largest_of_row_[i], errors);
      if (own * own < most) continue;
      for (int32_t j = static_cast<int32_t>(i); j < count_; ++j) {
        const float distance = upper_bound(row(i)[j], errors);
        if (distance * distance < most) continue;
        make_exact(i, i, i + 1, &j, 1, state);
        most = std::max(most, row(i)[j]);
      }
    }
    return most;
  }

  const int64_t stride_, rows_to_a_task_;
  const RoundedSample rounded_;
  float* const squared_;                   // [stride][stride]: entries or bounds of them; infinity beyond the last point
  mutable std::vector<uint8_t> is_exact_;  // [stride][stride]
  std::vector<float> largest_of_row_;      // bound, from the diagonal on
  float error_ = 0.0f;                     // the largest of the points' own
  const RowKernels& kernels_ = row_kernels();
};

}  // namespace

std::unique_ptr<Neighborhood> make_bounded_neighborhood(const SquaredDistances& distances, int64_t count, int64_t k, Scratch& scratch) {
  if (byte_kernels().round == nullptr || !distances.is_screenable()) return nullptr;
  const int64_t channels = distances.channels(), numbers = count * channels;
  if (count > kDense || channels < kNarrowest || numbers < kSmallest || numbers > kLargest) return nullptr;
  if (k > kFew || std::max(k, kProbedLength) * kPointsANeighbor > count) return nullptr;
  auto bounded = std::make_unique<BoundedNeighborhood>(distances, count, k, scratch);
  if (!bounded->pays()) return nullptr;
  bounded->find_all();
  return bounded;
}

}  // namespace dynfocus::cpu
