#include "../point_kernels.h"

#include "../variants.h"
#include "elements.h"

namespace dynfocus::cpu {

namespace vector {

namespace {

template <class T>
void to_float(const void* from, float* to, int64_t n) {
  const T* x = static_cast<const T*>(from);
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) store(to + c, load(x + c));
  if (c < n) store_first(to + c, load_first(x + c, n - c), n - c);
}

template <class T>
void scale_from_float(const float* from, float factor, void* to, int64_t n) {
  T* y = static_cast<T*>(to);
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) store(y + c, factor * load(from + c));
  if (c < n) store_first(y + c, factor * load_first(from + c, n - c), n - c);
}

// The whole vectors of a few rows: their sum goes through a register, not through memory. Meanwhile the next few rows come near, into
// the second cache: they are anywhere, and what the processor guesses by itself is only the rest of a row.
template <int64_t kRows, bool kWeighted, class T>
void add_group(const void* const* rows, const void* const* next, const float* weights, float* sum, int64_t n) {
  constexpr int64_t kLine = 64 / sizeof(T);
  const T* row[kRows];  // here, not read again after each store
  const T* ahead[kRows];
  Vector weight[kRows] = {};
  for (int64_t r = 0; r < kRows; ++r) {
    row[r] = static_cast<const T*>(rows[r]);
    ahead[r] = static_cast<const T*>(next[r]);
    if (kWeighted) weight[r] += weights[r];
  }
  for (int64_t c = 0; c + kLanes <= n; c += kLanes) {
    if (c % kLine == 0) {
#pragma GCC unroll 8
      for (int64_t r = 0; r < kRows; ++r) __builtin_prefetch(ahead[r] + c, 0, 2);
    }
    Vector total = load(sum + c);
#pragma GCC unroll 8
    for (int64_t r = 0; r < kRows; ++r) {
      const Vector x = load(row[r] + c);
      total += kWeighted ? weight[r] * x : x;
    }
    store(sum + c, total);
  }
}

// In groups of nearly equal size; then what is left of the rows after their whole vectors.
template <bool kWeighted, class T>
void add_all(const void* const* rows, const float* weights, int64_t num_rows, int64_t num_ahead, float* sum, int64_t n) {
  constexpr int64_t kGroup = 8;
  constexpr decltype(&add_group<1, kWeighted, T>) kAddGroup[] = {
      add_group<1, kWeighted, T>, add_group<2, kWeighted, T>, add_group<3, kWeighted, T>, add_group<4, kWeighted, T>,
      add_group<5, kWeighted, T>, add_group<6, kWeighted, T>, add_group<7, kWeighted, T>, add_group<kGroup, kWeighted, T>};
  const int64_t groups = (num_rows + kGroup - 1) / kGroup, last_row = num_rows + num_ahead - 1;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t first = g * num_rows / groups, last = (g + 1) * num_rows / groups;
    const void* next[kGroup];
    for (int64_t r = 0; r < kGroup; ++r) next[r] = rows[last + r < last_row ? last + r : last_row];
    kAddGroup[last - first - 1](rows + first, next, kWeighted ? weights + first : nullptr, sum, n);
  }
  const int64_t c = n / kLanes * kLanes, rest = n - c;
  if (rest == 0) return;
  Vector total = load_first(sum + c, rest);
  for (int64_t r = 0; r < num_rows; ++r) {
    const Vector x = load_first(static_cast<const T*>(rows[r]) + c, rest);
    total += kWeighted ? weights[r] * x : x;
  }
  store_first(sum + c, total, rest);
}

template <class T>
void add_rows(const void* const* rows, const float* weights, int64_t num_rows, int64_t num_ahead, float* sum, int64_t n) {
  if (weights == nullptr) {
    add_all<false, T>(rows, nullptr, num_rows, num_ahead, sum, n);
  } else {
    add_all<true, T>(rows, weights, num_rows, num_ahead, sum, n);
  }
}

void divide(float* x, float divisor, int64_t n) {
  for (int64_t c = 0; c < n; ++c) x[c] /= divisor;
}

double dot(const float* x, const float* y, int64_t n) {
  constexpr int64_t kDoubles = kLanes / 2, kSums = 4;  // several sums: one would wait for each addition to end
  typedef double Doubles __attribute__((vector_size(kDoubles * sizeof(double))));
  typedef float Floats __attribute__((vector_size(kDoubles * sizeof(float)), aligned(alignof(float)), may_alias));
  const auto load = [](const float* from) { return __builtin_convertvector(*reinterpret_cast<const Floats*>(from), Doubles); };
  Doubles sum[kSums] = {};
  int64_t c = 0;
  for (; c + kSums * kDoubles <= n; c += kSums * kDoubles) {
#pragma GCC unroll 4
    for (int64_t s = 0; s < kSums; ++s) sum[s] += load(x + c + s * kDoubles) * load(y + c + s * kDoubles);
  }
  double total = 0.0;
  for (; c < n; ++c) total += static_cast<double>(x[c]) * y[c];
  const Doubles all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  for (int64_t lane = 0; lane < kDoubles; ++lane) total += all[lane];
  return total;
}

}  // namespace

}  // namespace vector

#define DYNFOCUS_FOR_EACH_ELEMENT(kernel) {kernel<float>, kernel<vector::BFloat16>, kernel<vector::Half>}
DYNFOCUS_DEFINE_VARIANT(PointKernels, point_kernels, DYNFOCUS_FOR_EACH_ELEMENT(vector::to_float),
                        DYNFOCUS_FOR_EACH_ELEMENT(vector::scale_from_float), DYNFOCUS_FOR_EACH_ELEMENT(vector::add_rows), vector::divide,
                        vector::dot)

}  // namespace dynfocus::cpu
