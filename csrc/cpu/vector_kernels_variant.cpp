// Compiled once per instruction set, each time with other flags and another DYNFOCUS_VARIANT.
// It includes nothing with inline functions: the linker keeps one copy of those, and that copy must not need AVX-512.
#include "vector_kernels.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace dynfocus::cpu {

namespace {

#if defined(__AVX512F__)
constexpr int64_t kLanes = 16, kRegisterRows = 8;  // 16 of 32 registers hold sums
#elif defined(__AVX2__)
constexpr int64_t kLanes = 8, kRegisterRows = 4;  // 8 of 16
#else
constexpr int64_t kLanes = 4, kRegisterRows = 4;  // 8 of 16
#endif
constexpr int64_t kRegisterColumns = 2 * kLanes;
static_assert(kTileRows % kRegisterRows == 0 && kTileColumns % kRegisterColumns == 0);

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(alignof(float)), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector vector) { *reinterpret_cast<Vector*>(to) = vector; }

// One register tile. The sum over these channels is formed on its own and then added to the total: blocked summation, whose error
// grows with kTileChannels + C / kTileChannels in place of C.
inline void add_register_tile(const float* rows, const float* columns, int64_t channels, float* sums) {
  Vector sum[kRegisterRows][2] = {};
  for (int64_t c = 0; c < channels; ++c) {
    const Vector left = load(columns + c * kTileColumns), right = load(columns + c * kTileColumns + kLanes);
#pragma GCC unroll 8
    for (int64_t r = 0; r < kRegisterRows; ++r) {
      const float x = rows[r * kTileChannels + c];
      const Vector d_left = left - x, d_right = right - x;
      sum[r][0] += d_left * d_left;
      sum[r][1] += d_right * d_right;
    }
  }
#pragma GCC unroll 8
  for (int64_t r = 0; r < kRegisterRows; ++r) {
    float* total = sums + r * kTileColumns;
    store(total, load(total) + sum[r][0]);
    store(total + kLanes, load(total + kLanes) + sum[r][1]);
  }
}

void add_squared_distances(const float* rows, const float* columns, int64_t channels, int64_t num_rows, int64_t num_columns,
                           float* sums) {
  for (int64_t j = 0; j < num_columns; j += kRegisterColumns) {
    for (int64_t r = 0; r < num_rows; r += kRegisterRows) {
      add_register_tile(rows + r * kTileChannels, columns + j, channels, sums + r * kTileColumns + j);
    }
  }
}

void add_scaled(float* sum, const float* x, float weight, int64_t n) {
  for (int64_t c = 0; c < n; ++c) sum[c] += weight * x[c];
}

// The exponent of a half moves from bias 15 to 127 by a multiplication, which also normalises subnormals; infinity and NaN are those
// that reach 2^16 on the way.
inline float to_float(uint16_t half) {
  const uint32_t magnitude = (half & 0x7fffu) << 13, sign = (half & 0x8000u) << 16;
  float value = __builtin_bit_cast(float, magnitude) * 0x1p112f;
  uint32_t bits = __builtin_bit_cast(uint32_t, value);
  bits |= value >= 0x1p16f ? 0x7f800000u : 0u;
  return __builtin_bit_cast(float, bits | sign);
}

void half_to_float(const uint16_t* half, float* single, int64_t n) {
  int64_t c = 0;
#if defined(__F16C__)
  for (; c + 8 <= n; c += 8) {
    _mm256_storeu_ps(single + c, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(half + c))));
  }
#endif
  for (; c < n; ++c) single[c] = to_float(half[c]);
}

}  // namespace

extern const VectorKernels DYNFOCUS_VARIANT;
const VectorKernels DYNFOCUS_VARIANT = {add_squared_distances, add_scaled, half_to_float};

}  // namespace dynfocus::cpu
