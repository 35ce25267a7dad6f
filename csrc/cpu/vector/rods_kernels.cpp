#include "../rods_kernels.h"

#include "../variants.h"
#include "elements.h"

namespace dynfocus::cpu {

namespace vector {

namespace {

constexpr int64_t kRegisterRows = kRegisters * 3 / 8;  // times 2 vectors: three quarters of the registers hold sums
static_assert(kTileRows % kRegisterRows == 0 && kPad % kLanes == 0);

constexpr int64_t kStep = 16;  // a cache line of floats

template <int64_t kRows, int64_t kVectors>
inline void add_register_tile(const float* a, int64_t depth, const float* b, int64_t b_stride, float* out, int64_t out_stride,
                              const Ahead* ahead) {
  Vector sum[kRows][kVectors] = {};
  const auto add = [&](int64_t k) {
    Vector y[kVectors];
#pragma GCC unroll 2
    for (int64_t v = 0; v < kVectors; ++v) y[v] = load(b + k * b_stride + v * kLanes);
#pragma GCC unroll 12
    for (int64_t r = 0; r < kRows; ++r) {
      const Vector x = broadcast(a[r * kTileStride + k]);
#pragma GCC unroll 2
      for (int64_t v = 0; v < kVectors; ++v) sum[r][v] += x * y[v];
    }
  };
  int64_t k = 0;
  if (ahead != nullptr) {
    for (; k + kStep <= depth; k += kStep) {
#pragma GCC unroll 12
      for (int64_t r = 0; r < kRows; ++r) __builtin_prefetch(static_cast<const char*>(ahead->rows[r]) + k * ahead->element_size, 0, 3);
      for (int64_t i = k; i < k + kStep; ++i) add(i);
    }
  }
  for (; k < depth; ++k) add(k);
#pragma GCC unroll 12
  for (int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int64_t v = 0; v < kVectors; ++v) {
      float* total = out + r * out_stride + v * kLanes;
      store(total, load(total) + sum[r][v]);
    }
  }
}

// Picks the register tile of `rows` <= kRows.
template <int64_t kRows>
inline void add_rows(const float* a, int64_t rows, int64_t depth, const float* b, int64_t b_stride, int64_t columns, float* out,
                     int64_t out_stride, const Ahead* ahead) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return add_rows<kRows - 1>(a, rows, depth, b, b_stride, columns, out, out_stride, ahead);
  }
  int64_t j = 0;
  for (; j + 2 * kLanes <= columns; j += 2 * kLanes) add_register_tile<kRows, 2>(a, depth, b + j, b_stride, out + j, out_stride, ahead);
  if (j < columns) add_register_tile<kRows, 1>(a, depth, b + j, b_stride, out + j, out_stride, ahead);
}

void multiply_add(const float* a, int64_t rows, int64_t depth, const float* b, int64_t b_stride, int64_t columns, float* out,
                  int64_t out_stride, const Ahead* ahead) {
  for (int64_t r = 0; r < rows; r += kRegisterRows) {
    const int64_t few = rows - r < kRegisterRows ? rows - r : kRegisterRows;
    add_rows<kRegisterRows>(a + r * kTileStride, few, depth, b, b_stride, columns, out + r * out_stride, out_stride, ahead);
  }
}

void add_products(const float* a, int64_t rows, int64_t depth, const float* b, float* products) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = a + r * kTileStride;
    Vector sum[2] = {};
    int64_t k = 0;
    for (; k + 2 * kLanes <= depth; k += 2 * kLanes) {
      sum[0] += load(row + k) * load(b + k);
      sum[1] += load(row + k + kLanes) * load(b + k + kLanes);
    }
    float rest = 0.0f;
    for (; k < depth; ++k) rest += row[k] * b[k];
    products[r] += sum_of(sum[0] + sum[1]) + rest;
  }
}

// e^x for x <= 0 (others are not asked for), within 1.25 units in the last place; NaN stays NaN. e^x = 2^n e^r with n an integer and
// |r| <= log(2) / 2; 2^n in two factors, of which neither is subnormal even where the result is.
inline Vector exp_of_negative(Vector x) {
  constexpr float kRound = 0x1.8p23f, kLog2High = 0x1.62e4p-1f, kLog2Low = 0x1.7f7d1cp-20f;  // adding kRound leaves no fraction
  x = x < -104.0f ? Vector{} - 104.0f : x;
  const Vector shifted = x * 0x1.715476p0f + kRound, n = shifted - kRound;
  const Vector r = (x - n * kLog2High) - n * kLog2Low;
  Vector e = Vector{} + 1.0f / 5040;  // Taylor: the next term is below 2^-27 of the sum
  e = e * r + 1.0f / 720;
  e = e * r + 1.0f / 120;
  e = e * r + 1.0f / 24;
  e = e * r + 1.0f / 6;
  e = e * r + 0.5f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  typedef int32_t Integers __attribute__((vector_size(kLanes * sizeof(int32_t))));
  const Integers power = reinterpret_cast<Integers>(shifted) - 0x4b400000, half = power >> 1;
  return e * reinterpret_cast<Vector>((half + 127) << 23) * reinterpret_cast<Vector>((power - half + 127) << 23);
}

void softmax(float* logits, int64_t M, int64_t width, int64_t queries, float scale, float* weights) {
  for (int64_t m = 0; m < M; ++m) weights[m] = 0.0f;
  float lane[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) lane[i] = static_cast<float>(i);
  for (int64_t q = 0; q < queries; q += kLanes) {
    Vector largest = load(logits + q), total = {};
    for (int64_t m = 1; m < M; ++m) {
      const Vector logit = load(logits + m * width + q);
      largest = logit > largest ? logit : largest;
    }
    for (int64_t m = 0; m < M; ++m) {
      const Vector e = exp_of_negative(scale * (load(logits + m * width + q) - largest));
      store(logits + m * width + q, e);
      total += e;
    }
    const Vector inverse = 1.0f / total;
    const auto counts = load(lane) < static_cast<float>(queries - q);  // not the padding, which may be NaN
    for (int64_t m = 0; m < M; ++m) {
      const Vector attention = load(logits + m * width + q) * inverse;
      store(logits + m * width + q, attention);
      weights[m] += sum_of(counts ? attention : Vector{});
    }
  }
  for (int64_t m = 0; m < M; ++m) weights[m] *= queries > 0 ? 1.0f / static_cast<float>(queries) : 0.0f;
}

void softmax_backward(float* attention, int64_t M, int64_t width, float factor, const float* d) {
  for (int64_t q = 0; q < width; q += kLanes) {
    Vector mean = {};
    for (int64_t m = 0; m < M; ++m) mean += d[m] * load(attention + m * width + q);
    for (int64_t m = 0; m < M; ++m) {
      float* entry = attention + m * width + q;
      store(entry, factor * load(entry) * (d[m] - mean));
    }
  }
}

template <int64_t kRows, class T>
inline void pool_few(const void* const* rows, const float* weights, int64_t n, float* pooled, float* sum) {
  const T* row[kRows];  // here, not read again after each store
  Vector weight[kRows];
  for (int64_t r = 0; r < kRows; ++r) {
    row[r] = static_cast<const T*>(rows[r]);
    weight[r] = broadcast(weights[r]);
  }
  const auto add = [&](int64_t c, Vector& weighted, Vector& plain, auto load_at) {
#pragma GCC unroll 8
    for (int64_t r = 0; r < kRows; ++r) {
      const Vector x = load_at(row[r] + c);
      weighted += weight[r] * x;
      plain += x;
    }
  };
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) {
    Vector weighted = load(pooled + c), plain = load(sum + c);
    add(c, weighted, plain, [](const T* x) { return load(x); });
    store(pooled + c, weighted);
    store(sum + c, plain);
  }
  if (const int64_t rest = n - c; rest > 0) {
    Vector weighted = load_first(pooled + c, rest), plain = load_first(sum + c, rest);
    add(c, weighted, plain, [=](const T* x) { return load_first(x, rest); });
    store_first(pooled + c, weighted, rest);
    store_first(sum + c, plain, rest);
  }
}

template <class T>
void pool(const void* const* rows, const float* weights, int64_t num_rows, int64_t n, float* pooled, float* sum) {
  int64_t r = 0;
  for (; r + 8 <= num_rows; r += 8) pool_few<8, T>(rows + r, weights + r, n, pooled, sum);
  for (; r + 3 <= num_rows; r += 3) pool_few<3, T>(rows + r, weights + r, n, pooled, sum);
  for (; r < num_rows; ++r) pool_few<1, T>(rows + r, weights + r, n, pooled, sum);
}

}  // namespace

}  // namespace vector

DYNFOCUS_DEFINE_VARIANT(RodsKernels, rods_kernels, vector::multiply_add, vector::add_products, vector::softmax, vector::softmax_backward,
                        {vector::pool<float>, vector::pool<vector::BFloat16>, vector::pool<vector::Half>})

}  // namespace dynfocus::cpu
