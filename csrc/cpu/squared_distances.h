// Squared distances between points of one sample, from matrix products where that is accurate.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "panel_kernels.h"
#include "points.h"
#include "row_kernels.h"

namespace dynfocus::cpu {

// n rounded up to whole panels
constexpr int64_t padded(int64_t n) { return (n + kPanel - 1) / kPanel * kPanel; }

// Uninitialised floats, aligned for the widest vector.
class Floats {
 public:
  Floats() = default;
  explicit Floats(int64_t n) { reserve(n); }

  // Makes room for n: what was there is lost if there was less.
  float* reserve(int64_t n) {
    const int64_t blocks = (n + 15) / 16;
    if (blocks > num_blocks_) blocks_ = std::make_unique_for_overwrite<Block[]>(num_blocks_ = blocks);
    return data();
  }

  float* data() const { return blocks_ ? blocks_[0].values : nullptr; }

 private:
  struct alignas(64) Block {
    float values[16];
  };
  std::unique_ptr<Block[]> blocks_;
  int64_t num_blocks_ = 0;
};

// Two points of a sample.
struct Pair {
  int32_t i, j;
};

// |x - y|^2 = |x|^2 + |y|^2 - 2 x.y costs one multiplication a channel and cancels where x and y are close for their length. So points
// are taken relative to the middle of the sample where that lies far from 0, and an entry that has cancelled nevertheless is computed
// anew from differences. Every entry is accurate to some 2^-18 of itself, is 0 for equal points, depends on its two points and the
// sample alone, and is the same for (x, y) and (y, x).
class SquaredDistances {
 public:
  // x and points, the indices of sample b's points, must outlive this.
  SquaredDistances(const Points& x, int64_t b, const std::vector<int64_t>& points);

  // What one thread computes with, kept from call to call.
  class Workspace {
    friend class SquaredDistances;
    Floats rows_, columns_, row_squares_, column_squares_, reading_;
  };

  // to[i * stride + j] = entry of the points numbered rows[i] and columns[j]. Rows of `to` are padded(num_columns) long, the rest being
  // infinity, and padded(num_rows) are written. False if an entry of these points is not finite.
  bool between(const int64_t* rows, int64_t num_rows, const int64_t* columns, int64_t num_columns, float* to, int64_t stride,
               Workspace& workspace) const;

  // The same of points with themselves, at half the cost.
  bool among(const int64_t* points, int64_t count, float* to, int64_t stride, Workspace& workspace) const;

  // One entry, from differences.
  float from_differences(int64_t i, int64_t j) const;

  int64_t channels() const { return x_.channels; }

  // The entries of `count` pairs, with the same bits; only where they are screenable.
  void from_differences(const Pair* pairs, int64_t count, float* to) const;

  // Whether an entry from differences costs no more than to read two points, and an integer holds the products of their bytes.
  bool is_screenable() const { return x_.element == kFloat32 && x_.in_place() && x_.channels > kCheap && x_.channels <= 1 << 16; }

  // Then, the channels of point i, and what is subtracted from them before they are multiplied; null if that is 0.
  const float* in_place(int64_t i) const { return static_cast<const float*>(x_.at(b_, points_[i], 0)); }
  const float* offset() const { return is_shifted_ ? offset_.data() : nullptr; }

 private:
  // With so few points or channels differences cost next to nothing more than products.
  static constexpr int64_t kCheap = 32;

  struct Block;

  void choose_offset();
  void add_products(const PanelProduct& product, const Block& block, Workspace& workspace) const;
  void pack(const PanelProduct& product, const int64_t* points, int64_t count, int64_t channel, int64_t channels, float* panels,
            float* squares, float* reading) const;
  bool all_finite(const Block& block) const;
  bool mend(const Block& part, const float* row_squares, const float* column_squares, int64_t num_doubtful, Workspace& workspace) const;
  bool compute(const Block& block, Workspace& workspace) const;

  const Points& x_;
  const int64_t b_;
  const std::vector<int64_t>& points_;
  const PanelKernels& panels_;
  const RowKernels& rows_;
  const PanelProduct* product_;
  std::vector<float> offset_;  // [C]
  bool is_shifted_ = false;    // it is not 0
};

}  // namespace dynfocus::cpu
