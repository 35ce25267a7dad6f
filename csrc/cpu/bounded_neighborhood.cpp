#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

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

// So few points beyond whole panels are bounded as rows: as columns they take as long as half a panel.
constexpr int64_t kFewBeyond = 8;

// Rows that are bounded at a time: with whole panels, more of the square on the diagonal would be computed twice.
constexpr int64_t kHalf = kPanel / 2;

// What rounding takes from two points is as good as perpendicular to their difference, in so many dimensions: they are hardly farther
// apart than the rounded ones. That distance is beyond its bound by both errors, likely twice a point's own; a tenth more is for the rest,
// and kRoot for what the bound's root may be off by. Where the guess is too short, it costs time.
constexpr float kLikely = 2.2f, kRoot = 1.0f + 0x1p-11f;

// Points rounded to bytes bound all squared distances from below. A bound gives way to the exact entry, from differences, only where it
// may be the answer: those within a likely reach first, then, if that was too short, within the reach of what is exact. No answer's bits
// depend on which are.
class BoundedNeighborhood final : public ListedNeighborhood {
 public:
  BoundedNeighborhood(const SquaredDistances& distances, int64_t count, int64_t k, Scratch& scratch)
      : ListedNeighborhood(distances, count, k, std::max(k, kShortest)),
        stride_(padded(count)),
        paneled_(count % kPanel <= kFewBeyond ? count - count % kPanel : count),
        rows_to_a_task_(std::max(kRows, (count - 1) / scratch.num_threads + 1)),
        rounded_(distances, count, scratch.bytes),
        squared_(scratch.squared.reserve(stride_ * stride_)),
        reaches_(stride_),
        largest_of_row_(count) {}

  bool pays() {
    if (!rounded_.is_usable()) return false;
    for (int64_t i = 0; i < count_; ++i) error_ = std::max(error_, rounded_.point(i).error);
    if (paneled_ < count_) bound(paneled_, 0, count_);
    for (int64_t i = 0; i < kPanel; i += kHalf) bound(i, i, paneled_);
    const int64_t length = std::max(k_, kProbedLength);
    find_reaches(0, length);
    State state;
    for (int64_t i = 0; i < kPanel; i += kPanel / kProbes) state.add(i, reaches_[i]);
    find_nearest(state, length, [](int64_t, const Smallest&) {});
    return state.num_computed * one_of(count_ * distances_.channels()) <= kProbes * count_;
  }

  void find_all() {
    const double pairs = static_cast<double>(count_ * count_), channels = static_cast<double>(distances_.channels());
    for_each_task((paneled_ - kPanel + kHalf - 1) / kHalf, pairs * channels / 8, [] { return 0; }, [&](int64_t task, int) {
      const int64_t first = kPanel + task * kHalf;
      bound(first, first, paneled_);
    });
    for_each_task(stride_ / kPanel, pairs, [] { return 0; }, [&](int64_t task, int) { find_reaches(task * kPanel, lists_.length()); });
    const double work = pairs + 16 * count_ * channels;
    for_each_task((count_ - 1) / rows_to_a_task_ + 1, work, [] { return State(); }, [&](int64_t task, State& state) {
      const int64_t end = std::min(count_, (task + 1) * rows_to_a_task_);
      for (int64_t i = task * rows_to_a_task_; i < end; i += kRows) {
        for (int64_t row = i; row < std::min(end, i + kRows); ++row) state.add(row, reaches_[row]);
        find_nearest(state, lists_.length(), [&](int64_t row, const Smallest& nearest) {
          lists_.set(row, nearest.values(), nearest.places());
        });
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
    for_each_task(tasks, work, [] { return State(); }, [&](int64_t task, State& state) {
      for (int64_t p = task * kRows; p < std::min(num_points, (task + 1) * kRows); ++p) {
        const int64_t i = points[p], j = kernels_.nearest_before(row(i), place.data(), static_cast<int32_t>(limit(i)), stride_);
        if (place[j] < limit(i)) state.add(i, std::signbit(row(i)[j]) ? likely(-row(i)[j], i) : row(i)[j]);
      }
      const auto find = [&](int64_t i, float reach, int32_t* places) {
        return kernels_.at_most_before(row(i), reach, place.data(), static_cast<int32_t>(limit(i)), stride_, places);
      };
      make_exact(state, {}, find, [&](int64_t i, const int32_t* places, int64_t count) {
        float least = kInfinity;
        for (int64_t at = 0; at < count; ++at) {
          const int32_t j = places[at];
          body(i, row(i) + j, place[j], 1);
          least = std::min(least, row(i)[j]);
        }
        return least;
      });
    });
  }

 private:
  // What one thread works with.
  struct State {
    void add(int64_t row, float reach) {
      rows[num_rows] = row;
      reaches[num_rows++] = reach;
    }

    int64_t num_rows = 0;
    int64_t rows[kRows];
    float reaches[kRows];         // of each row
    int64_t ends[kRows + 1];      // of each row's places
    std::vector<int32_t> places;  // of its entries within reach
    std::vector<Pair> pairs;      // those among them that were bounds
    std::vector<float> squared;   // what they are
    int64_t num_computed = 0;
  };

  struct Range {
    int64_t first, last;
    bool has(int64_t i) const { return first <= i && i < last; }
  };

  float* row(int64_t i) const { return squared_ + i * stride_; }

  // Up to kHalf rows from i on, at places [j, end), and their mirror image. Rows beyond whole panels come before all others.
  void bound(int64_t i, int64_t j, int64_t end) {
    const int64_t rows = std::min(kHalf, count_ - i);
    int32_t* products = reinterpret_cast<int32_t*>(row(i) + j);
    rounded_.multiply(i, rows, j, end - j, products, stride_);
    for (int64_t r = i; r < i + rows; ++r) {
      largest_of_row_[r] = bytes_.lower_bounds(products + (r - i) * stride_, rounded_.point(r), rounded_.points(j, nullptr),
                                               padded(end) - j, row(r) + j);
      std::fill(row(r) + count_, row(r) + stride_, kInfinity);
      row(r)[r] = 0.0f;
    }
    mirror(i, j, i);
    mirror(i, i + kHalf, padded(end));
  }

  // Rows [i, i + kHalf) at places [j, end)
  void mirror(int64_t i, int64_t j, int64_t end) const {
    if (j < end) kernels_.transpose(row(i) + j, stride_, kHalf, end - j, row(j) + i, stride_);
  }

  // The first of row i's places whose bounds largest_of_row_ knows; the others are another row's, too.
  int64_t first_place(int64_t i) const { return i < paneled_ ? i : 0; }

  // Of row i, what an entry with this bound hardly exceeds; no less than the bound.
  float likely(float bound, int64_t i) const {
    const float distance = (std::sqrt(bound) + kLikely * rounded_.point(i).error) * kRoot;
    return distance * distance;
  }

  // How far the k-th smallest entry of each of kPanel rows is likely to be. Rows are columns, too: read down those, several rows' entries lie
  // side by side.
  void find_reaches(int64_t i, int64_t k) {
    bytes_.kth_of_columns(row(0) + i, stride_, count_, k, &reaches_[i]);
    for (int64_t r = i; r < std::min(i + kPanel, count_); ++r) reaches_[r] = likely(reaches_[r], r);
  }

  // Calls body(i, nearest) once or twice for each of the state's rows, the last time with its k nearest.
  template <class Body>
  void find_nearest(State& state, int64_t k, const Body& body) const {
    Smallest nearest(k);
    const auto find = [&](int64_t i, float& reach, int32_t* places) {
      const int64_t found = kernels_.at_most(row(i), reach, stride_, places);
      if (found >= k) return found;
      reach = kernels_.kth_group_minimum(row(i), stride_, k);  // since it was found, entries have become larger than their bounds
      return kernels_.at_most(row(i), reach, stride_, places);
    };
    const int64_t first = state.rows[0] / rows_to_a_task_ * rows_to_a_task_;
    make_exact(state, {first, first + rows_to_a_task_}, find, [&](int64_t i, const int32_t* places, int64_t count) {
      nearest.choose(row(i), places, count);
      body(i, nearest);
      return nearest.values()[k - 1];
    });
  }

  // Makes exact what is within reach, equals of it included, of the state's rows: find(i, reach, places) writes where that is and returns how
  // much; it may change the reach. Then use(i, places, count) returns how far what it looks for is now known to be. Should that be beyond
  // reach, both are called once more, with that reach: what use saw is within it, so no third time. Mirror images are written to `own` rows,
  // which no other thread works with. Leaves the state without rows.
  template <class Find, class Use>
  void make_exact(State& state, Range own, const Find& find, const Use& use) const {
    while (state.num_rows > 0) {
      make_exact_within_reach(state, own, find);
      const int64_t num_rows = std::exchange(state.num_rows, 0);
      for (int64_t r = 0; r < num_rows; ++r) {
        const float needed = use(state.rows[r], &state.places[state.ends[r]], state.ends[r + 1] - state.ends[r]);
        if (needed > state.reaches[r]) state.add(state.rows[r], needed);
      }
    }
  }

  // All pairs at once: the next ones are read while one is added up.
  template <class Find>
  void make_exact_within_reach(State& state, Range own, const Find& find) const {
    int64_t num_places = 0, num_pairs = 0;
    for (int64_t r = 0; r < state.num_rows; ++r) {
      const int64_t i = state.rows[r];
      state.ends[r] = num_places;
      if (static_cast<int64_t>(state.places.size()) < num_places + stride_) state.places.resize(2 * num_places + stride_);
      int32_t* const places = &state.places[num_places];
      const int64_t found = find(i, state.reaches[r], places);
      num_places += found;
      if (static_cast<int64_t>(state.pairs.size()) < num_pairs + found) state.pairs.resize(2 * (num_pairs + found));
      for (int64_t at = 0; at < found; ++at) {
        const int32_t j = places[at];
        state.pairs[num_pairs] = {static_cast<int32_t>(i), j};
        num_pairs += std::signbit(row(i)[j]);
        const float claimed = std::abs(row(i)[j]);  // no other row need compute it
        row(i)[j] = claimed;
        if (own.has(j)) row(j)[i] = claimed;
      }
    }
    state.ends[state.num_rows] = num_places;
    state.squared.resize(num_pairs);
    distances_.from_differences(state.pairs.data(), num_pairs, state.squared.data());
    for (int64_t p = 0; p < num_pairs; ++p) {
      const auto [i, j] = state.pairs[p];
      row(i)[j] = state.squared[p];
      if (own.has(j)) row(j)[i] = state.squared[p];
    }
    state.num_computed += num_pairs;
  }

  // What a distance with this lower bound of its square is at most, for points with these errors, together; so is what is computed of it.
  // But for the room that the lower bound leaves for sums of the points' squares: of points much nearer each other than they are long,
  // and those no largest distance is between.
  static float upper_bound(float bound, float errors) { return (std::sqrt(bound) + 2.0f * errors) * (1.0f + 0x1p-10f); }

  float find_largest() const {
    const int64_t top = std::max_element(largest_of_row_.begin(), largest_of_row_.end()) - largest_of_row_.begin();
    const int64_t farthest = std::min_element(row(top) + first_place(top), row(top) + count_) - row(top);
    float most = distances_.from_differences(top, farthest);
    for (int64_t i = 0; i < count_; ++i) {
      const float errors = rounded_.point(i).error + error_, own = upper_bound(largest_of_row_[i], errors);
      if (own * own < most) continue;
      for (int64_t j = first_place(i); j < count_; ++j) {
        const float distance = upper_bound(std::abs(row(i)[j]), errors);
        if (distance * distance < most) continue;
        most = std::max(most, std::signbit(row(i)[j]) ? distances_.from_differences(i, j) : row(i)[j]);
      }
    }
    return most;
  }

  const int64_t stride_, paneled_, rows_to_a_task_;
  const RoundedSample rounded_;
  float* const squared_;               // [stride][stride]: entries, or bounds of them as negative numbers; infinity beyond the last point
  std::vector<float> reaches_;         // of each row: its nearest are likely within
  std::vector<float> largest_of_row_;  // bound, from its first_place on
  float error_ = 0.0f;                 // the largest of the points' own
  const RowKernels& kernels_ = row_kernels();
  const ByteKernels& bytes_ = byte_kernels();
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
