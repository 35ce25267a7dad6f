// The k smallest entries of a row of distances.
#pragma once

#include <cstdint>
#include <vector>

#include "row_kernels.h"

namespace dynfocus::cpu {

class Smallest {
 public:
  explicit Smallest(int64_t k);

  // Fills values() and places() with the k smallest of row[0 .. n), ascending, of equals the lower place first. n is a multiple of
  // kPanel; at least k entries are finite.
  void find(const float* row, int64_t n);

  // The same of the entries at these places, which ascend; count >= k.
  void choose(const float* row, const int32_t* places, int64_t count);

  int64_t k() const { return k_; }
  const float* values() const { return values_.data(); }
  const int32_t* places() const { return places_.data(); }

 private:
  float bound(const float* row, int64_t n);

  const int64_t k_;
  const RowKernels& kernels_;
  std::vector<float> values_;    // [k], with room for kFew
  std::vector<int32_t> places_;  // likewise
  std::vector<float> scratch_;
  std::vector<int32_t> candidates_, order_;
};

}  // namespace dynfocus::cpu
