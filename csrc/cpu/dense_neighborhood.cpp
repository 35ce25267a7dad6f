#include <algorithm>
#include <atomic>
#include <limits>
#include <numeric>

#include "neighborhood.h"
#include "parallel.h"
#include "smallest.h"

namespace dynfocus::cpu {

namespace {

constexpr int64_t kTile = 128, kRows = 64;  // points to a task

class DenseNeighborhood final : public Neighborhood {
 public:
  DenseNeighborhood(const SquaredDistances& distances, int64_t count, int64_t k, Scratch& scratch)
      : count_(count), k_(k), stride_(padded(count)), kernels_(row_kernels()), squared_(scratch.squared.reserve(stride_ * stride_)) {
    const double work = 0.5 * static_cast<double>(count * count * distances.channels());
    if (torch::stable::get_num_threads() == 1 || count <= kTile || work < 1 << 21) {
      std::vector<int64_t> all(count);
      std::iota(all.begin(), all.end(), 0);
      is_finite_ = distances.among(all.data(), count, squared_, stride_, scratch.workspace);
    } else {
      fill_by_tiles(distances, work);
    }
  }

  bool is_finite() const override { return is_finite_; }

  std::vector<double> mean_of_nearest() const override {
    std::vector<double> mean(count_);
    for_each_row([&](int64_t i, Smallest& smallest) {
      smallest.find(row(i), stride_);
      mean[i] = std::accumulate(smallest.values(), smallest.values() + k_, 0.0) / static_cast<double>(k_);
    });
    return mean;
  }

  Nearest nearest_before(const std::vector<int32_t>& order) const override {
    std::vector<int32_t> rank = rank_of(order);
    rank.resize(stride_, std::numeric_limits<int32_t>::max());
    std::vector<float> largest(count_);
    Nearest nearest{std::vector<float>(count_), std::vector<int32_t>(count_)};
    for_each_row([&](int64_t i, Smallest&) {
      largest[i] = kernels_.largest(row(i), stride_);
      nearest.point[i] = static_cast<int32_t>(kernels_.nearest_before(row(i), rank.data(), rank[i], stride_));
      nearest.squared[i] = row(i)[nearest.point[i]];
    });
    nearest.squared[order[0]] = *std::max_element(largest.begin(), largest.end());
    nearest.point[order[0]] = order[0];
    return nearest;
  }

  std::vector<int32_t> nearest_center(const std::vector<int32_t>& centers) const override {
    Floats best(stride_);
    std::fill_n(best.data(), stride_, std::numeric_limits<float>::infinity());
    std::vector<int32_t> label(stride_, 0);
    for (size_t m = 0; m < centers.size(); ++m) kernels_.keep_smaller(row(centers[m]), m, stride_, best.data(), label.data());
    label.resize(count_);
    return label;
  }

 private:
  const float* row(int64_t i) const { return squared_ + i * stride_; }

  // Calls body(i, smallest) for each row.
  template <class Body>
  void for_each_row(const Body& body) const {
    const auto make_smallest = [&] { return Smallest(k_); };
    for_each_task((count_ + kRows - 1) / kRows, static_cast<double>(count_ * count_), make_smallest, [&](int64_t task, Smallest& smallest) {
      for (int64_t i = task * kRows; i < std::min(count_, (task + 1) * kRows); ++i) body(i, smallest);
    });
  }

  void fill_by_tiles(const SquaredDistances& distances, double work) {
    std::vector<int64_t> all(count_);
    std::iota(all.begin(), all.end(), 0);
    std::vector<std::pair<int64_t, int64_t>> tiles;  // those off the diagonal first: they take twice as long
    for (int64_t i = 0; i < count_; i += kTile) {
      for (int64_t j = i + kTile; j < count_; j += kTile) tiles.emplace_back(i, j);
    }
    for (int64_t i = 0; i < count_; i += kTile) tiles.emplace_back(i, i);
    std::atomic<bool> is_finite = true;
    const auto make_workspace = [] { return SquaredDistances::Workspace(); };
    for_each_task(tiles.size(), work, make_workspace, [&](int64_t task, SquaredDistances::Workspace& workspace) {
      const auto [i, j] = tiles[task];
      const int64_t rows = std::min(kTile, count_ - i), columns = std::min(kTile, count_ - j);
      float* tile = squared_ + i * stride_ + j;
      if (i == j) {
        if (!distances.among(&all[i], rows, tile, stride_, workspace)) is_finite = false;
      } else {
        if (!distances.between(&all[i], rows, &all[j], columns, tile, stride_, workspace)) is_finite = false;
        kernels_.transpose(tile, stride_, padded(rows), padded(columns), squared_ + j * stride_ + i, stride_);
      }
    });
    is_finite_ = is_finite;
  }

  const int64_t count_, k_, stride_;
  const RowKernels& kernels_;
  float* const squared_;  // [stride][stride]
  bool is_finite_;
};

}  // namespace

std::unique_ptr<Neighborhood> make_dense_neighborhood(const SquaredDistances& distances, int64_t count, int64_t k, Scratch& scratch) {
  return std::make_unique<DenseNeighborhood>(distances, count, k, scratch);
}

std::vector<int32_t> rank_of(const std::vector<int32_t>& order) {
  std::vector<int32_t> rank(order.size());
  for (size_t place = 0; place < order.size(); ++place) rank[order[place]] = static_cast<int32_t>(place);
  return rank;
}

}  // namespace dynfocus::cpu
