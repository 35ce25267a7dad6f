// Compiled without contraction to fused multiply-adds: each operation rounds on its own, so that all instruction sets agree bit for bit.
#include "../normal_kernels.h"

#include "../variants.h"
#include "lanes.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace dynfocus::cpu {

namespace vector {

namespace {

typedef int32_t Integers __attribute__((vector_size(kLanes * sizeof(float))));
typedef uint32_t Words __attribute__((vector_size(kLanes * sizeof(float))));
typedef uint64_t WideWords __attribute__((vector_size(kLanes * sizeof(float))));  // kLanes / 2 of them

// The 64-bit products of the low halves.
inline WideWords multiply_low(WideWords x, uint32_t factor) {
#if defined(__AVX512F__)
  return (WideWords)_mm512_maskz_mul_epu32(0xff, (__m512i)x, _mm512_set1_epi64(factor));
#elif defined(__AVX2__)
  return (WideWords)_mm256_mul_epu32((__m256i)x, _mm256_set1_epi64x(factor));
#elif defined(__SSE2__)
  return (WideWords)_mm_mul_epu32((__m128i)x, _mm_set1_epi64x(factor));
#else
  return (x & 0xffffffffu) * static_cast<uint64_t>(factor);
#endif
}

inline Vector square_root(Vector x) {
  for (int64_t i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);  // one instruction
  return x;
}

constexpr int kChains = 4;  // vectors of counters in work at a time, to hide the latency of the products
static_assert(kNormalsPadding % (kChains / 2 * kLanes) == 0);

// Replaces each counter by the first two output words. A word lives in the low half of a lane of 64 bits, the natural place for
// products; what is in the upper half is never read.
inline void philox4x32(WideWords (&c0)[kChains], WideWords (&c1)[kChains], uint64_t seed) {
  WideWords c2[kChains] = {}, c3[kChains] = {};
  for (int i = 0; i < kChains; ++i) c1[i] = c0[i] >> 32;
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 4
    for (int i = 0; i < kChains; ++i) {
      const WideWords p0 = multiply_low(c0[i], 0xD2511F53u), p1 = multiply_low(c2[i], 0xCD9E8D57u);
      c0[i] = (p1 >> 32) ^ c1[i] ^ static_cast<uint64_t>(k0);
      c1[i] = p1;
      c2[i] = (p0 >> 32) ^ c3[i] ^ static_cast<uint64_t>(k1);
      c3[i] = p0;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

// The upper 24 bits of the words of even and of odd lanes, merged.
inline Integers upper_bits(WideWords even, WideWords odd) { return (Integers)((Words)((even & 0xffffffffu) | (odd << 32)) >> 8); }

// sqrt(-2 ln u) for u = (word + 1) 2^-24: with u = 2^-n (1 + x), 1 + x in [sqrt(1/2), sqrt(2)),
// -2 ln u = 2 ln(2) n - 2x + x^2 (1 + x Q(x)), Q the minimax polynomial of the remainder.
inline Vector radius(Integers word) {
  const Integers bits = (Integers)__builtin_convertvector(word + 1, Vector);
  const Integers exponent = (bits - 0x3f3504f3) >> 23;  // the bits of sqrt(1/2)
  const Vector x = (Vector)(bits - (exponent << 23)) - 1.0f;
  const Vector n = __builtin_convertvector(24 - exponent, Vector);
  Vector q = -0.174051728901f * x + 0.285325848478f;
  q = q * x - 0.298268071137f;
  q = q * x + 0.331554029014f;
  q = q * x - 0.399264435631f;
  q = q * x + 0.500026698178f;
  q = q * x - 0.666678117914f;
  const Vector square = x * x;
  constexpr float kHigh = 0x1.62e4p0f, kLow = 0x1.7f7d1cp-19f;  // 2 ln 2; n kHigh is exact
  return square_root((n * kHigh - (x + x)) + ((square + square * (x * q)) + n * kLow));
}

// cos(2 pi u) for u = word 2^-24, as sin(t pi / 2) with t = |4u - 2| - 1, which is exact:
// t (3/2 + P(t^2)), P the minimax polynomial, and 3/2 t is exact too.
inline Vector cosine(Integers word) {
  const Integers centred = word - (1 << 23);
  const Integers magnitude = centred < 0 ? -centred : centred;
  const Vector t = __builtin_convertvector(magnitude - (1 << 22), Vector) * 0x1p-22f;
  const Vector s = t * t;
  Vector p = 0.000151485130733f * s - 0.0046737666124f;
  p = p * s + 0.0796896789478f;
  p = p * s - 0.6459637106f;
  p = p * s + 0.07079631845f;
  return t * 1.5f + t * p;
}

void normals(uint64_t first, uint64_t seed, int64_t n, float* z) {
  WideWords even;
  for (int64_t i = 0; i < kLanes / 2; ++i) even[i] = first + 2 * i;
  n = (n + kNormalsPadding - 1) / kNormalsPadding * kNormalsPadding;
  for (int64_t i = 0; i < n; i += kChains / 2 * kLanes) {
    WideWords word0[kChains], word1[kChains];
    for (int j = 0; j < kChains; ++j) word0[j] = even + static_cast<uint64_t>(j / 2 * kLanes + j % 2);
    philox4x32(word0, word1, seed);
#pragma GCC unroll 2
    for (int j = 0; j < kChains; j += 2) {
      store(z + i + j / 2 * kLanes, radius(upper_bits(word0[j], word0[j + 1])) * cosine(upper_bits(word1[j], word1[j + 1])));
    }
    even += static_cast<uint64_t>(kChains / 2 * kLanes);
  }
}

}  // namespace

}  // namespace vector

DYNFOCUS_DEFINE_VARIANT(NormalKernels, normal_kernels, vector::normals)

}  // namespace dynfocus::cpu
