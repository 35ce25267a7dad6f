// The vector of floats of the instruction set this file is compiled for.
// Sources in this folder include nothing with inline functions that others include too: the linker keeps one copy of those, and that
// copy must not need AVX-512. What they define stays in an unnamed namespace, in dynfocus::cpu::vector.
#pragma once

#include <cstdint>

#if defined(__AVX2__) || defined(__F16C__)
#if !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 says so of its own _mm512_undefined_ps()
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif

namespace dynfocus::cpu::vector {

namespace {

#if defined(__AVX512F__)
constexpr int64_t kLanes = 16, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int64_t kLanes = 8, kRegisters = 16;
#else
constexpr int64_t kLanes = 4, kRegisters = 16;
#endif

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(alignof(float)), may_alias));

[[maybe_unused]] inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
// Bit for bit, whatever x stands for: 0 + x would be an addition, which quiets a NaN, and flushes what is too small where that is wanted.
[[maybe_unused]] inline Vector broadcast(float x) {
#if defined(__AVX512F__)
  return (Vector)_mm512_set1_ps(x);
#elif defined(__AVX2__)
  return (Vector)_mm256_set1_ps(x);
#else
  return Vector{x, x, x, x};
#endif
}
[[maybe_unused]] inline void store(float* to, Vector vector) { *reinterpret_cast<Vector*>(to) = vector; }

// By halves: one lane after the other would each wait for the one before.
[[maybe_unused]] inline float sum_of(Vector x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)x);
#elif defined(__AVX2__)
  const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
  const __m128 pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
#else
  return (x[0] + x[2]) + (x[1] + x[3]);
#endif
}

}  // namespace

}  // namespace dynfocus::cpu::vector
