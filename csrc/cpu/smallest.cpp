#include "smallest.h"

#include <algorithm>

#include "panel_kernels.h"

namespace dynfocus::cpu {

Smallest::Smallest(int64_t k) : k_(k), kernels_(row_kernels()), values_(k), places_(k) {}

// At least k entries are at most this, and not many more: the smallest entries of groups are entries of the row.
float Smallest::bound(const float* row, int64_t n) {
  if (k_ <= kPanel) return kernels_.kth_group_minimum(row, n, k_);
  scratch_.assign(row, row + n);
  std::nth_element(scratch_.begin(), scratch_.begin() + k_ - 1, scratch_.end());
  return scratch_[k_ - 1];
}

void Smallest::find(const float* row, int64_t n) {
  candidates_.resize(n);
  const int64_t found = kernels_.at_most(row, bound(row, n), n, candidates_.data());
  if (k_ > kPanel) {
    std::partial_sort(candidates_.begin(), candidates_.begin() + k_, candidates_.begin() + found,
                      [&](int32_t i, int32_t j) { return row[i] < row[j] || (row[i] == row[j] && i < j); });
    std::copy_n(candidates_.begin(), k_, places_.begin());
    std::transform(places_.begin(), places_.end(), values_.begin(), [&](int32_t place) { return row[place]; });
    return;
  }
  int64_t kept = 0;
  for (int64_t c = 0; c < found; ++c) {  // places ascend, so equals stay in order
    const float value = row[candidates_[c]];
    if (kept == k_ && !(value < values_[k_ - 1])) continue;
    int64_t at = std::min(kept, k_ - 1);
    for (; at > 0 && value < values_[at - 1]; --at) {
      values_[at] = values_[at - 1];
      places_[at] = places_[at - 1];
    }
    values_[at] = value;
    places_[at] = candidates_[c];
    kept += kept < k_;
  }
}

}  // namespace dynfocus::cpu
