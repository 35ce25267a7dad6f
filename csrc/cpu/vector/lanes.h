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

}  // namespace

}  // namespace dynfocus::cpu::vector
