// A sample's points rounded to bytes, a byte a channel.
#pragma once

#include <cstdint>
#include <vector>

#include "byte_kernels.h"
#include "panel_kernels.h"
#include "squared_distances.h"

namespace dynfocus::cpu {

class RoundedSample {
 public:
  // Only where there are byte_kernels() and distances are screenable; in `memory`, which must outlive this. Parallel inside, but for calls
  // from within a parallel region.
  RoundedSample(const SquaredDistances& distances, int64_t count, Floats& memory);

  // False where bytes bound nothing: a point is not finite, or its square nearly not.
  bool is_usable() const { return is_usable_; }

  // to[r * stride + c] = product of points i + r and j + c, for r < rows and c < columns; up to the next kPanel of either, what is there
  // may be overwritten. i is a multiple of kPanel, unless all rows are of its panel; j is one of half of it.
  void multiply(int64_t i, int64_t rows, int64_t j, int64_t columns, int32_t* to, int64_t stride) const;

  // A point of the largest |step * bytes|
  int64_t longest() const;

  RoundedPoint point(int64_t i) const { return {steps_[i], errors_[i], squares_[i]}; }

  // Points [j, ...), with as many reaches.
  RoundedPoints points(int64_t j, const float* reaches) const { return {steps_.data() + j, errors_.data() + j, squares_.data() + j, reaches}; }

 private:
  // Points [first, first + count), one panel; `pairs` of bytes is room for them.
  void pack(const SquaredDistances& distances, int64_t first, int64_t count, std::vector<uint16_t>& pairs);

  const ByteKernels& kernels_;
  const int64_t count_;
  const int64_t depth_;                          // channels / 4, rounded up
  int32_t* const panels_;                        // [count / kPanel][depth][kPanel]
  std::vector<float> steps_, errors_, squares_;  // [count], and up to a whole panel 0, 0 and infinity
  std::vector<int32_t> starts_;                  // of its products
  bool is_usable_;
};

}  // namespace dynfocus::cpu
