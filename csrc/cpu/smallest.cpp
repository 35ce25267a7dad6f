#include "smallest.h"

#include <algorithm>

#include "panel_kernels.h"

namespace dynfocus::cpu {

Smallest::Smallest(int64_t k) : k_(k), kernels_(row_kernels()), values_(std::max(k, kFew)), places_(std::max(k, kFew)) {}

// At least k entries are at most this, and not many more: the smallest entries of groups are entries of the row.
float Smallest::bound(const float* row, int64_t n) {
  if (k_ <= kPanel) return kernels_.kth_group_minimum(row, n, k_);
  scratch_.assign(row, row + n);
  std::nth_element(scratch_.begin(), scratch_.begin() + k_ - 1, scratch_.end());
  return scratch_[k_ - 1];
}

void Smallest::find(const float* row, int64_t n) {
  candidates_.resize(n);
  choose(row, candidates_.data(), kernels_.at_most(row, bound(row, n), n, candidates_.data()));
}

void Smallest::choose(const float* row, const int32_t* places, int64_t count) {
  if (count <= kFew) {
    kernels_.sort_few(row, places, count, values_.data(), places_.data());
    return;
  }
  if (k_ > kPanel) {
    order_.assign(places, places + count);
    std::partial_sort(order_.begin(), order_.begin() + k_, order_.end(),
                      [&](int32_t i, int32_t j) { return row[i] < row[j] || (row[i] == row[j] && i < j); });
    std::copy_n(order_.begin(), k_, places_.begin());
    std::transform(places_.begin(), places_.begin() + k_, values_.begin(), [&](int32_t place) { return row[place]; });
    return;
  }
  int64_t kept = 0;
  for (int64_t c = 0; c < count; ++c) {  // places ascend, so equals stay in order
    const float value = row[places[c]];
    if (kept == k_ && !(value < values_[k_ - 1])) continue;
    int64_t at = std::min(kept, k_ - 1);
    for (; at > 0 && value < values_[at - 1]; --at) {
      values_[at] = values_[at - 1];
      places_[at] = places_[at - 1];
    }
    values_[at] = value;
    places_[at] = places[c];
    kept += kept < k_;
  }
}

}  // namespace dynfocus::cpu
