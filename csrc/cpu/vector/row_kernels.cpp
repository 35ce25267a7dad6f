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

inline Vector magnitude(Vector x) { return (Vector)((Ints)x & 0x7fffffff); }

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

// Appends the places from `at` on whose lanes are true; a whole vector may be written.
#if defined(__AVX512F__)
typedef __mmask16 Truth;
inline Truth at_most(Vector x, Vector y) { return _mm512_cmp_ps_mask((__m512)x, (__m512)y, _CMP_LE_OQ); }
inline Truth as_truth(Ints truth) { return _mm512_movepi32_mask((__m512i)truth); }
inline int64_t append(Truth truth, int64_t at, int32_t* places, int64_t count) {
  const __m512i place = _mm512_add_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(at));
  _mm512_storeu_si512(places + count, _mm512_maskz_compress_epi32(truth, place));
  return count + __builtin_popcount(truth);
}
#else
typedef Ints Truth;
inline Truth at_most(Vector x, Vector y) { return x <= y; }
inline Truth as_truth(Ints truth) { return truth; }
inline int64_t append(Truth truth, int64_t at, int32_t* places, int64_t count) {
  for (uint32_t found = bits(truth); found != 0; found &= found - 1) places[count++] = static_cast<int32_t>(at + __builtin_ctz(found));
  return count;
}
#endif

inline float smallest_of(Vector x) {
#if defined(__AVX512F__)
  return _mm512_reduce_min_ps((__m512)x);
#else
  float smallest = x[0];
  for (int64_t i = 1; i < kLanes; ++i) smallest = x[i] < smallest ? x[i] : smallest;
  return smallest;
#endif
}

// The lowest of the places whose lanes are true (-1), if any is.
inline int32_t first_of(Ints truth, Ints places) {
#if defined(__AVX512F__)
  return _mm512_mask_reduce_min_epi32(_mm512_movepi32_mask((__m512i)truth), (__m512i)places);
#else
  int32_t first = 0x7fffffff;
  for (int64_t i = 0; i < kLanes; ++i) first = truth[i] && places[i] < first ? places[i] : first;
  return first;
#endif
}

inline Ints lanes_from(int64_t at) {
  Ints lanes = {};
  for (int64_t i = 0; i < kLanes; ++i) lanes[i] = static_cast<int32_t>(at + i);
  return lanes;
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
    count = append(as_truth(doubtful(load(row + j), load(squares + j) + square)), j, places, count);
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
  for (int64_t j = 0; j < n; j += kLanes) count = append(at_most(magnitude(load(row + j)), broadcast(limit)), j, places, count);
  return count;
}

int64_t at_most_each(const float* row, const float* limits, int64_t n, int32_t* places) {
  int64_t count = 0;
  for (int64_t j = 0; j < n; j += kLanes) count = append(at_most(load(row + j), load(limits + j)), j, places, count);
  return count;
}

int64_t at_most_before(const float* row, float limit, const int32_t* rank, int32_t own_rank, int64_t n, int32_t* places) {
  int64_t count = 0;
  for (int64_t j = 0; j < n; j += kLanes) {
    const Ints is_before = load(rank + j) < own_rank;
    count = append(at_most(magnitude(load(row + j)), broadcast(limit)) & as_truth(is_before), j, places, count);
  }
  return count;
}

float kth_group_minimum(const float* row, int64_t n, int64_t k) {
  constexpr int64_t kVectors = kPanel / kLanes;
  Vector least[kVectors];
#pragma GCC unroll 8
  for (int64_t v = 0; v < kVectors; ++v) least[v] = magnitude(load(row + v * kLanes));
  for (int64_t j = kPanel; j < n; j += kPanel) {
#pragma GCC unroll 8
    for (int64_t v = 0; v < kVectors; ++v) {
      const Vector entry = magnitude(load(row + j + v * kLanes));
      least[v] = entry < least[v] ? entry : least[v];
    }
  }
  float minima[kPanel];
  for (int64_t v = 0; v < kVectors; ++v) store(minima + v * kLanes, least[v]);
#if defined(__AVX512F__)
  // The k-th smallest of two groups' smaller minima is hardly above that of all, and found in half the time; if those are enough.
  static_assert(kVectors == 2);
  const __m512 pairs[] = {_mm512_min_ps((__m512)least[0], (__m512)least[1]), _mm512_max_ps((__m512)least[0], (__m512)least[1])};
  float bound = kInfinity;
  for (int64_t v = 0; v < (k > kLanes ? 2 : 1); ++v) {
    __m512i no_larger = _mm512_setzero_si512();  // how many minima are at most this one
#pragma GCC unroll 8
    for (int64_t w = 0; w < kPanel; ++w) {
      const __mmask16 is_no_larger = _mm512_cmp_ps_mask(_mm512_set1_ps(minima[w]), pairs[v], _CMP_LE_OQ);
      no_larger = _mm512_mask_sub_epi32(no_larger, is_no_larger, no_larger, _mm512_set1_epi32(-1));
    }
    const __mmask16 enough = _mm512_cmpge_epi32_mask(no_larger, _mm512_set1_epi32(static_cast<int32_t>(k)));
    const float smallest = _mm512_mask_reduce_min_ps(enough, pairs[v]);
    bound = smallest < bound ? smallest : bound;
  }
  return bound;
#else
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
#endif
}

void sort_few(const float* row, const int32_t* places, int64_t n, float* values, int32_t* sorted_places) {
  int32_t rank[kFew];  // how many are smaller, or equal and before it
  float own[kFew];
#if defined(__AVX512F__)
  const __mmask16 valid = static_cast<__mmask16>((1u << n) - 1u);
  const __m512 entries = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), valid, _mm512_maskz_loadu_epi32(valid, places), row, sizeof(float));
  __m512i ranks = _mm512_setzero_si512();
  for (int32_t i = 0; i < n; ++i) {
    const __m512 entry = _mm512_permutexvar_ps(_mm512_set1_epi32(i), entries);
    const __mmask16 up_to_it = static_cast<__mmask16>((2u << i) - 1u);
    const __mmask16 after = _mm512_mask_cmp_ps_mask(up_to_it, entry, entries, _CMP_LT_OQ) |
                            _mm512_mask_cmp_ps_mask(~up_to_it, entry, entries, _CMP_LE_OQ);
    ranks = _mm512_mask_sub_epi32(ranks, after, ranks, _mm512_set1_epi32(-1));
  }
  _mm512_storeu_si512(rank, ranks);
  _mm512_storeu_ps(own, entries);
#else
  for (int64_t i = 0; i < n; ++i) {
    own[i] = row[places[i]];
    rank[i] = 0;
    for (int64_t before = 0; before < i; ++before) {
      const bool is_after = own[before] <= own[i];
      rank[i] += is_after;
      rank[before] += !is_after;
    }
  }
#endif
  for (int64_t i = 0; i < n; ++i) {
    values[rank[i]] = own[i];
    sorted_places[rank[i]] = places[i];
  }
}

bool all_finite(const float* row, int64_t n) {
  Ints bad = {};
  for (int64_t j = 0; j < n; j += kLanes) bad |= ~(load(row + j) < kInfinity);
  return bits(bad) == 0;
}

int64_t nearest_before(const float* row, const int32_t* rank, int32_t own_rank, int64_t n) {
  Vector least = broadcast(kInfinity);
  Ints place = {}, lanes = lanes_from(0);
  for (int64_t j = 0; j < n; j += kLanes) {
    const Vector entry = magnitude(load(row + j));
    const Ints nearer = (load(rank + j) < own_rank) & (entry < least);
    least = nearer ? entry : least;
    place = nearer ? lanes : place;
    lanes += static_cast<int32_t>(kLanes);
  }
  return first_of(least == broadcast(smallest_of(least)), place);
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
                        vector::at_most, vector::at_most_each, vector::at_most_before, vector::kth_group_minimum, vector::sort_few,
                        vector::all_finite, vector::nearest_before, vector::keep_smaller)

}  // namespace dynfocus::cpu
