// Inner loops over rows of squared distances. Every n is a multiple of kPanel: rows are padded with infinity.
#pragma once

#include <cstdint>

namespace dynfocus::cpu {

constexpr int64_t kFew = 16;  // entries that can be sorted at once

struct RowKernels {
  // From products to distances, in place: row[j] = max(0, square + squares[j] - 2 row[j]). Returns how many entries are not
  // trustworthy: those not finite, and those below (square + squares[j]) / kTrust, where the subtraction has cancelled.
  int64_t (*to_distances)(float* row, float square, const float* squares, int64_t n);
  // The places j of those entries, ascending; returns how many. There is room for n
  int64_t (*untrusted)(const float* row, float square, const float* squares, int64_t n, int32_t* places);
  // to[j][i] = from[i][j], rows and columns being multiples of half a panel
  void (*transpose)(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to, int64_t to_stride);
  // The largest finite entry
  float (*largest)(const float* row, int64_t n);
  // The places j with |row[j]| <= limit, or row[j] <= limits[j], ascending; returns how many. There is room for n
  int64_t (*at_most)(const float* row, float limit, int64_t n, int32_t* places);
  int64_t (*at_most_each)(const float* row, const float* limits, int64_t n, int32_t* places);
  // Likewise those with |row[j]| <= limit and rank[j] < own_rank
  int64_t (*at_most_before)(const float* row, float limit, const int32_t* rank, int32_t own_rank, int64_t n, int32_t* places);
  // With the entries' magnitudes in kPanel groups, those of group w at j % kPanel = w, one of the groups' smallest: at least the k-th
  // smallest of those, k <= kPanel, and seldom more; infinity if fewer are finite
  float (*kth_group_minimum)(const float* row, int64_t n, int64_t k);
  // The entries at n <= kFew places in ascending order, of equals the first place first; and the places in that order
  void (*sort_few)(const float* row, const int32_t* places, int64_t n, float* values, int32_t* sorted_places);
  bool (*all_finite)(const float* row, int64_t n);
  // The place j of the smallest |row[j]| with rank[j] < own_rank, of equals the first; 0 if there is none
  int64_t (*nearest_before)(const float* row, const int32_t* rank, int32_t own_rank, int64_t n);
  // Where row[j] < best[j]: best[j] = row[j], label[j] = own_label
  void (*keep_smaller)(const float* row, int32_t own_label, int64_t n, float* best, int32_t* label);
};

// An entry's error is at most some 2^-21 of the sum of the two squares (2^-23 on average): a trusted one's then 2^-18 of itself, about
// what a plain sum of 64 squares is off by.
constexpr float kTrust = 8.0f;

const RowKernels& row_kernels();

}  // namespace dynfocus::cpu
