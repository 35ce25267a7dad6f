// What the nearest neighbours of each point tell, for samples whose distances are not all kept. Memory O(count k).
#pragma once

#include <algorithm>
#include <functional>
#include <limits>

#include "neighborhood.h"

namespace dynfocus::cpu {

// Points are looked at in squares of so many.
constexpr int64_t kTile = 256;

// Of points that bytes tell apart lists are no shorter than this, against searches.
constexpr int64_t kShortest = 5;

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

  // The whole list of point i.
  void set(int64_t i, const float* squared, const int32_t* points) {
    std::copy_n(squared, length_, &squared_[i * length_]);
    std::copy_n(points, length_, &point_[i * length_]);
    farthest_[i] = squared[length_ - 1];
  }

  int64_t length() const { return length_; }
  const float* squared(int64_t i) const { return &squared_[i * length_]; }
  const int32_t* points(int64_t i) const { return &point_[i * length_]; }
  // Of points [i, ...): a neighbour farther than this is not among the nearest.
  const float* farthest(int64_t i) const { return &farthest_[i]; }

 private:
  static constexpr float kInfinity = std::numeric_limits<float>::infinity();

  const int64_t length_;
  std::vector<float> squared_;   // [count][length]
  std::vector<int32_t> point_;   // [count][length]
  std::vector<float> farthest_;  // [count], and up to a whole tile what nothing is nearer than
};

// A subclass fills the lists and the largest squared distance; what they do not tell is computed again.
class ListedNeighborhood : public Neighborhood {
 public:
  // Lists longer than k spare searches. A point whose neighbours are all less dense, a peak, needs a search among all denser points; of N
  // points in random order some N / (1 + neighbours) are peaks, and few points are denser than those.
  ListedNeighborhood(const SquaredDistances& distances, int64_t count, int64_t k, int64_t length)
      : distances_(distances), count_(count), k_(k), lists_(count, std::min(length, count)) {}

  bool is_finite() const override { return is_finite_; }
  std::vector<double> mean_of_nearest() const override;
  Nearest nearest_before(const std::vector<int32_t>& order) const override;
  std::vector<int32_t> nearest_center(const std::vector<int32_t>& centers) const override;

 protected:
  const SquaredDistances& distances_;
  const int64_t count_, k_;
  NeighborLists lists_;
  float largest_ = 0.0f;
  bool is_finite_ = true;

  // Calls body(point, row, first, columns) with the distances of each of `points` to others[first .. first + columns), in any order. May
  // leave out others from limit(point) on, which ascends with the points, and others that cannot be nearest; may pass some twice, and others
  // beyond the limit: the body must ignore those.
  typedef std::function<int64_t(int64_t)> Limit;
  typedef std::function<void(int64_t, const float*, int64_t, int64_t)> Body;
  virtual void search(const std::vector<int64_t>& points, const std::vector<int64_t>& others, const Limit& limit, const Body& body) const;
};

}  // namespace dynfocus::cpu
