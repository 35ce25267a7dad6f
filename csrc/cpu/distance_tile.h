// Squared distances between two groups of points of one sample, in a fixed-size tile owned by one thread.
#pragma once

#include <algorithm>
#include <memory>

#include "distance_kernels.h"
#include "points.h"

namespace dynfocus::cpu {

static_assert(kTileChannels <= Points::kMaxRead);

class DistanceTile {
 public:
  explicit DistanceTile(const Points& x) : x_(x), kernels_(distance_kernels()), buffers_(std::make_unique<Buffers>()) {}

  // ||x_i - x_j||^2 for i in rows and j in columns (indices of points of sample b; at most kTileRows and kTileColumns of them).
  // The result, [kTileRows][kTileColumns], is valid until the next call. It is a direct sum of squares in float32: no cancellation,
  // exactly 0 for equal points, NaN where a point is not finite, even with itself.
  const float* squared(int64_t b, const int64_t* rows, int64_t num_rows, const int64_t* columns, int64_t num_columns) {
    std::fill_n(buffers_->sums, kTileRows * kTileColumns, 0.0f);
    for (int64_t c = 0; c < x_.channels; c += kTileChannels) {
      const int64_t n = std::min(kTileChannels, x_.channels - c);
      for (int64_t r = 0; r < num_rows; ++r) x_.read(b, rows[r], c, n, buffers_->rows + r * kTileChannels);
      for (int64_t j = 0; j < num_columns; ++j) {
        x_.read(b, columns[j], c, n, buffers_->point);
        for (int64_t k = 0; k < n; ++k) buffers_->columns[k * kTileColumns + j] = buffers_->point[k];
      }
      kernels_.add_squared_distances(buffers_->rows, buffers_->columns, n, num_rows, num_columns, buffers_->sums);
    }
    return buffers_->sums;
  }

 private:
  // Zeroed once: a partly filled tile computes with what an earlier one left, and nothing reads those results.
  struct Buffers {
    float rows[kTileRows * kTileChannels] = {};
    float columns[kTileChannels * kTileColumns] = {};
    float sums[kTileRows * kTileColumns] = {};
    float point[kTileChannels] = {};
  };

  const Points& x_;
  const DistanceKernels& kernels_;
  std::unique_ptr<Buffers> buffers_;
};

}  // namespace dynfocus::cpu
