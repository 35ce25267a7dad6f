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

// A few rows at a time: their sum goes through a register, not through memory.
template <int64_t kRows, bool kWeighted, class T>
inline void add_few(const void* const* rows, const float* weights, float* sum, int64_t n) {
  const T* row[kRows];  // here, not read again after each store
  Vector weight[kRows] = {};
  for (int64_t r = 0; r < kRows; ++r) {
    row[r] = static_cast<const T*>(rows[r]);
    if (kWeighted) weight[r] += weights[r];
  }
  const auto add = [&](int64_t c, Vector total, auto load_at) {
#pragma GCC unroll 8
    for (int64_t r = 0; r < kRows; ++r) {
      const Vector x = load_at(row[r] + c);
      total += kWeighted ? weight[r] * x : x;
    }
    return total;
  };
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) store(sum + c, add(c, load(sum + c), [](const T* x) { return load(x); }));
  const int64_t rest = n - c;
  if (rest > 0) store_first(sum + c, add(c, load_first(sum + c, rest), [=](const T* x) { return load_first(x, rest); }), rest);
}

template <bool kWeighted, class T>
inline void add_all(const void* const* rows, const float* weights, int64_t num_rows, float* sum, int64_t n) {
  int64_t r = 0;
  for (; r + 8 <= num_rows; r += 8) add_few<8, kWeighted, T>(rows + r, kWeighted ? weights + r : nullptr, sum, n);
  for (; r + 4 <= num_rows; r += 4) add_few<4, kWeighted, T>(rows + r, kWeighted ? weights + r : nullptr, sum, n);
  for (; r + 2 <= num_rows; r += 2) add_few<2, kWeighted, T>(rows + r, kWeighted ? weights + r : nullptr, sum, n);
  for (; r < num_rows; ++r) add_few<1, kWeighted, T>(rows + r, kWeighted ? weights + r : nullptr, sum, n);
}

template <class T>
void add_rows(const void* const* rows, const float* weights, int64_t num_rows, float* sum, int64_t n) {
  if (weights == nullptr) {
    add_all<false, T>(rows, nullptr, num_rows, sum, n);
  } else {
    add_all<true, T>(rows, weights, num_rows, sum, n);
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
