#include "../panel_kernels.h"

#include "../variants.h"
#include "lanes.h"
#include "transpose.h"

namespace dynfocus::cpu {

namespace vector {

namespace {

// While a slab is packed, the next is fetched: it is in many short pieces, and there is the slab's arithmetic in between.
constexpr int kSecondCache = 2;

void pack(const float* const* points, const float* offset, int64_t channels, float* panel) {
  for (int64_t p = 0; p < kPanel; p += kLanes) {
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      const Vector shift = load(offset + c);
      Vector rows[kLanes];
#pragma GCC unroll 16
      for (int64_t q = 0; q < kLanes; ++q) {
        __builtin_prefetch(points[p + q] + c + channels, 0, kSecondCache);
        rows[q] = load(points[p + q] + c) - shift;
      }
      transpose(rows);
#pragma GCC unroll 16
      for (int64_t k = 0; k < kLanes; ++k) store(panel + (c + k) * kPanel + p, rows[k]);
    }
    for (; c < channels; ++c) {
      for (int64_t q = p; q < p + kLanes; ++q) panel[c * kPanel + q] = points[q][c] - offset[c];
    }
  }
}

void pack_pairs(const uint16_t* const* points, int64_t channels, float* panel) {
  for (int64_t p = 0; p < kPanel; p += kLanes) {
    int64_t c = 0;
    for (; c + 2 * kLanes <= channels; c += 2 * kLanes) {
      Vector rows[kLanes];
#pragma GCC unroll 16
      for (int64_t q = 0; q < kLanes; ++q) {
        __builtin_prefetch(points[p + q] + c + channels, 0, kSecondCache);
        __builtin_memcpy(&rows[q], points[p + q] + c, sizeof(Vector));  // bfloat16s are aligned to 2 bytes alone
      }
      transpose(rows);
#pragma GCC unroll 16
      for (int64_t k = 0; k < kLanes; ++k) store(panel + (c / 2 + k) * kPanel + p, rows[k]);
    }
    for (; c < channels; c += 2) {
      for (int64_t q = p; q < p + kLanes; ++q) {
        const uint32_t low = points[q][c], high = c + 1 < channels ? points[q][c + 1] : 0;
        panel[c / 2 * kPanel + q] = __builtin_bit_cast(float, low | high << 16);
      }
    }
  }
}

// add_one: of one number x, against all of y
struct Difference {
  static Vector add(Vector sum, Vector x, Vector y) { return sum + (x - y) * (x - y); }
  static Vector add_one(Vector sum, const float* x, Vector y) { return add(sum, broadcast(*x), y); }
};

struct Product {
  static Vector add(Vector sum, Vector x, Vector y) { return sum + x * y; }
  static Vector add_one(Vector sum, const float* x, Vector y) { return add(sum, broadcast(*x), y); }
};

#if defined(__AVX512BF16__)
struct PairProduct {
  static Vector add(Vector sum, Vector x, Vector y) {
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)y);
  }
  // The instruction broadcasts by itself, but GCC writes another one to do so, which takes up to a third longer.
  static Vector add_one(Vector sum, const float* x, Vector y) {
    asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(y), "m"(*x));
    return sum;
  }
};
#endif

// The entries of kRows x kVectors * kLanes pairs, in registers.
template <class Entry, int64_t kRows, int64_t kVectors>
inline void add_tile(const float* rows, const float* columns, int64_t depth, float* sums, int64_t stride) {
  Vector sum[kRows][kVectors] = {};
  for (int64_t c = 0; c < depth; ++c) {
    Vector column[kVectors];
#pragma GCC unroll 2
    for (int64_t v = 0; v < kVectors; ++v) column[v] = load(columns + c * kPanel + v * kLanes);
#pragma GCC unroll 16
    for (int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int64_t v = 0; v < kVectors; ++v) sum[r][v] = Entry::add_one(sum[r][v], rows + c * kPanel + r, column[v]);
    }
  }
#pragma GCC unroll 16
  for (int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int64_t v = 0; v < kVectors; ++v) {
      float* total = sums + r * stride + v * kLanes;
      store(total, load(total) + sum[r][v]);
    }
  }
}

constexpr int64_t kSums = kRegisters / 2;  // registers for sums
static_assert(kPanel % kSums == 0 && kPanel % (2 * kLanes) == 0);

template <class Entry>
void add_products(const float* rows, int64_t num_rows, const float* columns, int64_t num_columns, int64_t depth, float* sums,
                  int64_t stride) {
  for (int64_t j = 0; j < num_columns; j += 2 * kLanes) {
    if (num_columns - j <= kLanes) {
      for (int64_t i = 0; i < num_rows; i += kSums) {
        add_tile<Entry, kSums, 1>(rows + i, columns + j, depth, sums + i * stride + j, stride);
      }
    } else {
      for (int64_t i = 0; i < num_rows; i += kSums / 2) {
        add_tile<Entry, kSums / 2, 2>(rows + i, columns + j, depth, sums + i * stride + j, stride);
      }
    }
  }
}

// Of a square of 2 kLanes x 2 kLanes on the diagonal, the quarter below it is left out.
template <class Entry>
void add_own_products(const float* panel, int64_t count, int64_t depth, float* sums, int64_t stride) {
  constexpr int64_t kOwnRows = kSums < kLanes ? kSums : kLanes;
  for (int64_t j = 0; j < count; j += 2 * kLanes) {
    const int64_t right = j + kLanes;
    add_products<Entry>(panel, right < count ? right : count, panel + j, count - j < 2 * kLanes ? count - j : 2 * kLanes, depth, sums + j,
                        stride);
    for (int64_t i = right; i < right + kLanes && i < count; i += kOwnRows) {
      add_tile<Entry, kOwnRows, 1>(panel + i, panel + right, depth, sums + i * stride + right, stride);
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

template <int64_t kCount>
inline void add_squared_distances(const float* const* xs, const float* const* ys, int64_t n, float* sums) {
  Vector sum[kCount][2] = {};
  int64_t c = 0;
  for (; c + 2 * kLanes <= n; c += 2 * kLanes) {
#pragma GCC unroll 4
    for (int64_t p = 0; p < kCount; ++p) {
      sum[p][0] = Difference::add(sum[p][0], load(xs[p] + c), load(ys[p] + c));
      sum[p][1] = Difference::add(sum[p][1], load(xs[p] + c + kLanes), load(ys[p] + c + kLanes));
    }
  }
#pragma GCC unroll 4
  for (int64_t p = 0; p < kCount; ++p) {
    float rest = 0.0f;
    for (int64_t k = c; k < n; ++k) rest += (xs[p][k] - ys[p][k]) * (xs[p][k] - ys[p][k]);
    sums[p] += sum_of(sum[p][0] + sum[p][1]) + rest;
  }
}

void squared_distances(const float* const* xs, const float* const* ys, int64_t count, int64_t n, float* sums) {
  static_assert(kAtOnce == 4);
  switch (count) {
    case 4: return add_squared_distances<4>(xs, ys, n, sums);
    case 3: return add_squared_distances<3>(xs, ys, n, sums);
    case 2: return add_squared_distances<2>(xs, ys, n, sums);
    default: return add_squared_distances<1>(xs, ys, n, sums);
  }
}

constexpr PanelProduct kDifferences = {nullptr, add_products<Difference>, add_own_products<Difference>};
constexpr PanelProduct kProducts = {add_squares<Product>, add_products<Product>, add_own_products<Product>};
#if defined(__AVX512BF16__)
constexpr PanelProduct kPairProducts = {add_squares<PairProduct>, add_products<PairProduct>, add_own_products<PairProduct>};
#else
constexpr PanelProduct kPairProducts = {nullptr, nullptr, nullptr};
#endif

}  // namespace

}  // namespace vector

DYNFOCUS_DEFINE_VARIANT(PanelKernels, panel_kernels, vector::pack, vector::pack_pairs, vector::kDifferences, vector::kProducts,
                        vector::kPairProducts, vector::squared_distances)

}  // namespace dynfocus::cpu
