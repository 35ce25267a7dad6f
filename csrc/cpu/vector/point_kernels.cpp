#include "../point_kernels.h"

#include "../variants.h"
#include "lanes.h"

namespace dynfocus::cpu {

namespace vector {

namespace {

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

}  // namespace vector

DYNFOCUS_DEFINE_VARIANT(PointKernels, point_kernels, vector::add_scaled, vector::half_to_float)

}  // namespace dynfocus::cpu
