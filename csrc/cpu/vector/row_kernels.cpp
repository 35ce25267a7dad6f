#include "../row_kernels.h"

#include "../panel_kernels.h"
#include "../variants.h"
#include "lanes.h"
#include "transpose.h"

namespace dynfocus::cpu {

namespace vector {

namespace {

constexpr float kInfinity = __builtin_inff();

typedef int32_t Ints __attribute__((vector_size(kLanes * sizeof(int32_t)), aligned(alignof(int32_t)), may_alias));

inline Ints load(const int32_t* from) { return *reinterpret_cast<const Ints*>(from); }
inline void store(int32_t* to, Ints ints) { *reinterpret_cast<Ints*>(to) = ints; }

// One bit for each lane that is true (-1).
inline uint32_t bits(Ints truth) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)truth);
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)truth));
#else
  uint32_t found = 0;
  for (int64_t i = 0; i < kLanes; ++i) found |= truth[i] ? 1u << i : 0u;
  return found;
#endif
}

inline int64_t append(uint32_t found, int64_t at, int32_t* places, int64_t count) {
  for (; found != 0; found &= found - 1) places[count++] = static_cast<int32_t>(at + __builtin_ctz(found));
  return count;
}

inline float smallest_of(Vector x) {
  float smallest = x[0];
  for (int64_t i = 1; i < kLanes; ++i) smallest = x[i] < smallest ? x[i] : smallest;
  return smallest;
}

// -1 where an entry is not to be trusted; a NaN is not.
inline Ints doubtful(Vector entry, Vector sum) { return ~((entry * kTrust >= sum) & (entry < kInfinity)); }

int64_t to_distances(float* row, float square, const float* squares, int64_t n) {
  Ints untrusted = {};
  for (int64_t j = 0; j < n; j += kLanes) {
    const Vector sum = load(squares + j) + square;
    Vector entry = sum - 2.0f * load(row + j);
    entry = entry < 0.0f ? Vector{} : entry;  // keeps NaN
    untrusted -= doubtful(entry, sum);
    store(row + j, entry);
  }
  int64_t count = 0;
  for (int64_t i = 0; i < kLanes; ++i) count += untrusted[i];
  return count;
}

int64_t untrusted(const float* row, float square, const float* squares, int64_t n, int32_t* places) {
  int64_t count = 0;
  for (int64_t j = 0; j < n; j += kLanes) {
    count = append(bits(doubtful(load(row + j), load(squares + j) + square)), j, places, count);
  }
  return count;
}

void transpose(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to, int64_t to_stride) {
  for (int64_t i = 0; i < rows; i += kLanes) {
    for (int64_t j = 0; j < columns; j += kLanes) {
      Vector block[kLanes];
#pragma GCC unroll 16
      for (int64_t q = 0; q < kLanes; ++q) block[q] = load(from + (i + q) * from_stride + j);
      transpose(block);
#pragma GCC unroll 16
      for (int64_t q = 0; q < kLanes; ++q) store(to + (j + q) * to_stride + i, block[q]);
    }
  }
}

float largest(const float* row, int64_t n) {
  Vector most = {};
  for (int64_t j = 0; j < n; j += kLanes) {
    const Vector entry = load(row + j);
    most = ((entry > most) & (entry < kInfinity)) ? entry : most;
  }
  float largest = 0.0f;
  for (int64_t i = 0; i < kLanes; ++i) largest = most[i] > largest ? most[i] : largest;
  return largest;
}

int64_t at_most(const float* row, float limit, int64_t n, int32_t* places) {
  int64_t count = 0;
  for (int64_t j = 0; j < n; j += kLanes) count = append(bits(load(row + j) <= limit), j, places, count);
  return count;
}

int64_t at_most_each(const float* row, const float* limits, int64_t n, int32_t* places) {
  int64_t count = 0;
  for (int64_t j = 0; j < n; j += kLanes) count = append(bits(load(row + j) <= load(limits + j)), j, places, count);
  return count;
}

float kth_group_minimum(const float* row, int64_t n, int64_t k) {
  constexpr int64_t kVectors = kPanel / kLanes;
  Vector least[kVectors];
#pragma GCC unroll 8
  for (int64_t v = 0; v < kVectors; ++v) least[v] = load(row + v * kLanes);
  for (int64_t j = kPanel; j < n; j += kPanel) {
#pragma GCC unroll 8
    for (int64_t v = 0; v < kVectors; ++v) {
      const Vector entry = load(row + j + v * kLanes);
      least[v] = entry < least[v] ? entry : least[v];
    }
  }
  float minima[kPanel];
  for (int64_t v = 0; v < kVectors; ++v) store(minima + v * kLanes, least[v]);
  Ints no_larger[kVectors] = {};  // how many minima are at most this one
  for (int64_t w = 0; w < kPanel; ++w) {
#pragma GCC unroll 8
    for (int64_t v = 0; v < kVectors; ++v) no_larger[v] -= minima[w] <= least[v];
  }
  Vector bound = broadcast(kInfinity);  // the smallest one that at least k are at most
  for (int64_t v = 0; v < kVectors; ++v) {
    bound = ((no_larger[v] >= static_cast<int32_t>(k)) & (least[v] < bound)) ? least[v] : bound;
  }
  return smallest_of(bound);
}

bool all_finite(const float* row, int64_t n) {
  Ints bad = {};
  for (int64_t j = 0; j < n; j += kLanes) bad |= ~(load(row + j) < kInfinity);
  return bits(bad) == 0;
}

float smallest_before(const float* row, const int32_t* rank, int32_t own_rank, int64_t n) {
  Vector least = broadcast(kInfinity);
  for (int64_t j = 0; j < n; j += kLanes) {
    const Vector entry = load(row + j);
    least = ((load(rank + j) < own_rank) & (entry < least)) ? entry : least;
  }
  return smallest_of(least);
}

void keep_smaller(const float* row, int32_t own_label, int64_t n, float* best, int32_t* label) {
  for (int64_t j = 0; j < n; j += kLanes) {
    const Vector entry = load(row + j), old = load(best + j);
    const Ints less = entry < old;
    store(best + j, less ? entry : old);
    store(label + j, less ? Ints{} + own_label : load(label + j));
  }
}

}  // namespace

}  // namespace vector

DYNFOCUS_DEFINE_VARIANT(RowKernels, row_kernels, vector::to_distances, vector::untrusted, vector::transpose, vector::largest,
                        vector::at_most, vector::at_most_each, vector::kth_group_minimum, vector::all_finite, vector::smallest_before, vector::keep_smaller)

}  // namespace dynfocus::cpu
