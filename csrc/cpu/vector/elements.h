// Elements of a tensor, as vectors of floats: exact to load, rounded to nearest even to store.
#pragma once

#include "lanes.h"

namespace dynfocus::cpu::vector {

namespace {

struct BFloat16 {
  uint16_t bits;
};

struct Half {
  uint16_t bits;
};

typedef uint32_t Words __attribute__((vector_size(kLanes * sizeof(uint32_t)), aligned(alignof(uint32_t)), may_alias));
typedef uint16_t HalfWords __attribute__((vector_size(kLanes * sizeof(uint16_t)), aligned(alignof(uint16_t)), may_alias));

[[maybe_unused]] inline Words load_words(const uint16_t* from) {
  return __builtin_convertvector(*reinterpret_cast<const HalfWords*>(from), Words);
}

[[maybe_unused]] inline void store_words(uint16_t* to, Words words) {
  *reinterpret_cast<HalfWords*>(to) = __builtin_convertvector(words, HalfWords);
}

// bfloat16 is the upper half of a float.
[[maybe_unused]] inline Vector load(const BFloat16* from) { return reinterpret_cast<Vector>(load_words(&from->bits) << 16); }

[[maybe_unused]] inline void store(BFloat16* to, Vector vector) {
  const Words bits = reinterpret_cast<Words>(vector);
  const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  store_words(&to->bits, vector == vector ? rounded : (bits >> 16) | 0x40u);  // a NaN stays one
}

// The exponent of a half moves from bias 15 to 127 by a multiplication, which also normalises subnormals; infinity and NaN are those
// that reach 2^16 on the way.
[[maybe_unused]] inline Vector load(const Half* from) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__AVX2__) && defined(__F16C__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
  const Words half = load_words(&from->bits);
  const Vector value = reinterpret_cast<Vector>((half & 0x7fffu) << 13) * 0x1p112f;
  const Words above = reinterpret_cast<Words>(value >= 0x1p16f) & 0x7f800000u;
  return reinterpret_cast<Vector>(reinterpret_cast<Words>(value) | above | (half & 0x8000u) << 16);
#endif
}

// And back: a float addition of 0.5 rounds those below 2^-14 at the place where a half's subnormals end; for the others the carry of an
// integer addition does, into the exponent where it must.
[[maybe_unused]] inline void store(Half* to, Vector vector) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(vector, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__) && defined(__F16C__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(vector, _MM_FROUND_TO_NEAREST_INT));
#else
  const Words bits = reinterpret_cast<Words>(vector), magnitude = bits & 0x7fffffffu;
  const Words normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const Words subnormal = reinterpret_cast<Words>(reinterpret_cast<Vector>(magnitude) + 0.5f) - 0x3f000000u;
  Words half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude < 0x47800000u ? half : (magnitude > 0x7f800000u ? (magnitude >> 13 & 0x3ffu) | 0x7e00u : (Words{} + 0x7c00u));
  store_words(&to->bits, half | (bits >> 16 & 0x8000u));
#endif
}

// The first n < kLanes of a vector; the others are 0.
template <class T>
[[maybe_unused]] inline Vector load_first(const T* from, int64_t n) {
  T elements[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) elements[i] = from[i];
  return load(elements);
}

template <class T>
[[maybe_unused]] inline void store_first(T* to, Vector vector, int64_t n) {
  T elements[kLanes];
  store(elements, vector);
  for (int64_t i = 0; i < n; ++i) to[i] = elements[i];
}

}  // namespace

}  // namespace dynfocus::cpu::vector
