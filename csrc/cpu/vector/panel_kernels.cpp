#include "../panel_kernels.h"

#include "../variants.h"
#include "lanes.h"

namespace dynfocus::cpu {

namespace vector {

namespace {

typedef float Four __attribute__((vector_size(16), aligned(alignof(float)), may_alias));

// Four floats of four points, transposed: to[c][p] = from[p][c].
inline void transpose(Four from[4], float* to) {
  const Four a = __builtin_shufflevector(from[0], from[1], 0, 4, 1, 5), b = __builtin_shufflevector(from[2], from[3], 0, 4, 1, 5);
  const Four c = __builtin_shufflevector(from[0], from[1], 2, 6, 3, 7), d = __builtin_shufflevector(from[2], from[3], 2, 6, 3, 7);
  *reinterpret_cast<Four*>(to) = __builtin_shufflevector(a, b, 0, 1, 4, 5);
  *reinterpret_cast<Four*>(to + kPanel) = __builtin_shufflevector(a, b, 2, 3, 6, 7);
  *reinterpret_cast<Four*>(to + 2 * kPanel) = __builtin_shufflevector(c, d, 0, 1, 4, 5);
  *reinterpret_cast<Four*>(to + 3 * kPanel) = __builtin_shufflevector(c, d, 2, 3, 6, 7);
}

void pack(const float* const* points, const float* offset, int64_t channels, float* panel) {
  for (int64_t p = 0; p < kPanel; p += 4) {
    int64_t c = 0;
    for (; c + 4 <= channels; c += 4) {
      const Four shift = *reinterpret_cast<const Four*>(offset + c);
      Four four[4];
      for (int64_t q = 0; q < 4; ++q) four[q] = *reinterpret_cast<const Four*>(points[p + q] + c) - shift;
      transpose(four, panel + c * kPanel + p);
    }
    for (; c < channels; ++c) {
      for (int64_t q = p; q < p + 4; ++q) panel[c * kPanel + q] = points[q][c] - offset[c];
    }
  }
}

void pack_pairs(const uint16_t* const* points, int64_t channels, float* panel) {
  for (int64_t p = 0; p < kPanel; p += 4) {
    int64_t c = 0;
    for (; c + 8 <= channels; c += 8) {
      Four four[4];
      for (int64_t q = 0; q < 4; ++q) four[q] = *reinterpret_cast<const Four*>(points[p + q] + c);
      transpose(four, panel + c / 2 * kPanel + p);
    }
    for (; c < channels; c += 2) {
      for (int64_t q = p; q < p + 4; ++q) {
        const uint32_t low = points[q][c], high = c + 1 < channels ? points[q][c + 1] : 0;
        panel[c / 2 * kPanel + q] = __builtin_bit_cast(float, low | high << 16);
      }
    }
  }
}

struct Difference {
  static Vector add(Vector sum, Vector x, Vector y) { return sum + (x - y) * (x - y); }
};

struct Product {
  static Vector add(Vector sum, Vector x, Vector y) { return sum + x * y; }
};

#if defined(__AVX512BF16__)
struct PairProduct {
  static Vector add(Vector sum, Vector x, Vector y) {
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)y);
  }
};
#endif

inline Vector broadcast(float x) { return Vector{} + x; }

constexpr int64_t kRows = kRegisters / 4, kColumns = 2 * kLanes;  // half of the registers hold sums
static_assert(kPanel % kRows == 0 && kPanel % kColumns == 0);

template <class Entry>
void add_products(const float* rows, const float* columns, int64_t depth, float* sums, int64_t stride) {
  for (int64_t j = 0; j < kPanel; j += kColumns) {
    for (int64_t i = 0; i < kPanel; i += kRows) {
      Vector sum[kRows][2] = {};
      for (int64_t c = 0; c < depth; ++c) {
        const Vector left = load(columns + c * kPanel + j), right = load(columns + c * kPanel + j + kLanes);
#pragma GCC unroll 8
        for (int64_t r = 0; r < kRows; ++r) {
          const Vector x = broadcast(rows[c * kPanel + i + r]);
          sum[r][0] = Entry::add(sum[r][0], x, left);
          sum[r][1] = Entry::add(sum[r][1], x, right);
        }
      }
#pragma GCC unroll 8
      for (int64_t r = 0; r < kRows; ++r) {
        float* total = sums + (i + r) * stride + j;
        store(total, load(total) + sum[r][0]);
        store(total + kLanes, load(total + kLanes) + sum[r][1]);
      }
    }
  }
}

template <class Entry>
void add_squares(const float* panel, int64_t depth, float* squares) {
  for (int64_t p = 0; p < kPanel; p += kLanes) {
    Vector sum = {};
    for (int64_t c = 0; c < depth; ++c) {
      const Vector x = load(panel + c * kPanel + p);
      sum = Entry::add(sum, x, x);
    }
    store(squares + p, load(squares + p) + sum);
  }
}

inline float sum_of(Vector x) {
  float total = 0.0f;
  for (int64_t i = 0; i < kLanes; ++i) total += x[i];
  return total;
}

float squared_distance(const float* x, const float* y, int64_t n) {
  Vector sum[2] = {};
  int64_t c = 0;
  for (; c + 2 * kLanes <= n; c += 2 * kLanes) {
    sum[0] = Difference::add(sum[0], load(x + c), load(y + c));
    sum[1] = Difference::add(sum[1], load(x + c + kLanes), load(y + c + kLanes));
  }
  float rest = 0.0f;
  for (; c < n; ++c) rest += (x[c] - y[c]) * (x[c] - y[c]);
  return sum_of(sum[0] + sum[1]) + rest;
}

#if defined(__AVX512BF16__)
constexpr PanelProduct kPairProducts = {add_squares<PairProduct>, add_products<PairProduct>};
#else
constexpr PanelProduct kPairProducts = {nullptr, nullptr};
#endif

}  // namespace

}  // namespace vector

DYNFOCUS_DEFINE_VARIANT(PanelKernels, panel_kernels, vector::pack, vector::pack_pairs, {nullptr, vector::add_products<vector::Difference>},
                        {vector::add_squares<vector::Product>, vector::add_products<vector::Product>}, vector::kPairProducts,
                        vector::squared_distance)

}  // namespace dynfocus::cpu
