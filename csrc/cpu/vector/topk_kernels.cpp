// Compiled without contraction to fused multiply-adds: the sums compared are those of plain torch.
#include "../topk_kernels.h"

#include "../variants.h"
#include "lanes.h"

namespace dynfocus::cpu {

namespace vector {

namespace {

constexpr int32_t kLowest = INT32_MIN, kNaN = INT32_MAX - 1;  // keys below and above those of all numbers

typedef int32_t Integers __attribute__((vector_size(kLanes * sizeof(float)), aligned(alignof(int32_t)), may_alias));

// Keys are in the order of the numbers; the map is its own inverse.
inline int32_t key_of(float value) {
  const int32_t bits = __builtin_bit_cast(int32_t, value + 0.0f);  // -0 and 0 are equal
  return value == value ? bits ^ ((bits >> 31) & 0x7fffffff) : kNaN;
}
inline float value_of(int32_t key) { return __builtin_bit_cast(float, key ^ ((key >> 31) & 0x7fffffff)); }

inline int64_t count_at_least(const int32_t* keys, int64_t length, int32_t threshold) {
  int32_t count = 0;
  for (int64_t l = 0; l < length; ++l) count += keys[l] >= threshold;
  return count;
}

// A key between low and high: by interpolation for the place where the count falls by `excess`, and by `lack` from there to high;
// should that take long, by halving.
inline int32_t between(int32_t low, int32_t high, float excess, float lack, int step) {
  if (step < 24) {
    const float a = value_of(low), b = value_of(high);
    const int32_t guess = key_of(a + (b - a) * (excess / (excess + lack)));
    if (guess > low && guess < high) return guess;
  }
  return static_cast<int32_t>((static_cast<int64_t>(low) + high) / 2);
}

// A threshold that just k keys reach, or, where the k-th has equals and none exists, the k-th itself. count: how many reach it.
inline int32_t find_threshold(const int32_t* keys, int64_t length, int64_t padded, int64_t k, int64_t& count) {
  int32_t low = INT32_MAX, high = kLowest;
  for (int64_t l = 0; l < length; ++l) {
    low = keys[l] < low ? keys[l] : low;
    high = keys[l] > high ? keys[l] : high;
  }
  ++high;  // k or more keys reach low, fewer than k reach high
  count = length;
  float excess = static_cast<float>(length - k) + 0.5f, lack = static_cast<float>(k) - 0.5f;
  bool rose = false, fell = false;  // the last step; an end that stays twice counts half, or it would stay for long (Illinois)
  for (int step = 0; count != k && high - static_cast<int64_t>(low) > 1; ++step) {
    const int32_t middle = between(low, high, excess, lack, step);
    const int64_t reached = count_at_least(keys, padded, middle);
    if (reached >= k) {
      low = middle;
      count = reached;
      excess = static_cast<float>(reached - k) + 0.5f;
      if (rose) lack *= 0.5f;
    } else {
      high = middle;
      lack = static_cast<float>(k - reached) - 0.5f;
      if (fell) excess *= 0.5f;
    }
    rose = reached >= k;
    fell = !rose;
  }
  return low;
}

// Positions of the keys at or above the threshold, ascending, and how many they are.
inline int64_t list_at_least(const int32_t* keys, int64_t length, int32_t threshold, int32_t* chosen) {
  int64_t j = 0;
#if defined(__AVX512F__)
  __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int64_t l = 0; l < length; l += kLanes) {
    const __mmask16 reached = _mm512_cmpge_epi32_mask(_mm512_loadu_si512(keys + l), _mm512_set1_epi32(threshold));
    _mm512_storeu_si512(chosen + j, _mm512_maskz_compress_epi32(reached, index));
    j += __builtin_popcount(reached);
    index = _mm512_add_epi32(index, _mm512_set1_epi32(kLanes));
  }
#else
  for (int64_t l = 0; l < length; ++l) {
    chosen[j] = static_cast<int32_t>(l);
    j += keys[l] >= threshold;
  }
#endif
  return j;
}

constexpr int64_t kFew = 32;

// Each of a few keys against all others: no branch to guess. Finds more than k where the k-th has equals.
inline int64_t topk_of_few(const int32_t* keys, int64_t length, int64_t k, int32_t* chosen) {
  Integers own[kFew / kLanes], larger[kFew / kLanes] = {};  // minus the number of larger keys
  for (int64_t v = 0; v < kFew / kLanes; ++v) own[v] = *reinterpret_cast<const Integers*>(keys + v * kLanes);
  for (int64_t l = 0; l < length; ++l) {
    for (int64_t v = 0; v < kFew / kLanes; ++v) larger[v] += keys[l] > own[v];
  }
  int32_t rank[kFew];
  for (int64_t v = 0; v < kFew / kLanes; ++v) *reinterpret_cast<Integers*>(rank + v * kLanes) = larger[v];
  return list_at_least(rank, kFew, static_cast<int32_t>(1 - k), chosen);
}

void perturbed_topk(const float* scores, const float* z, float sigma, int64_t length, int64_t k, int32_t* keys, int32_t* chosen) {
  for (int64_t l = 0; l < length; ++l) keys[l] = key_of(scores[l] + sigma * z[l]);
  const int64_t padded = length <= kFew ? kFew : (length + kLanes - 1) / kLanes * kLanes;
  for (int64_t l = length; l < padded; ++l) keys[l] = kLowest;
  if (length <= kFew && topk_of_few(keys, length, k, chosen) == k) return;

  int64_t count;
  const int32_t threshold = find_threshold(keys, length, padded, k, count);
  for (int64_t l = length - 1; count > k; --l) {  // equals of the k-th: the last ones go
    if (keys[l] != threshold) continue;
    keys[l] = kLowest;
    --count;
  }
  list_at_least(keys, padded, threshold, chosen);
}

typedef double Doubles __attribute__((vector_size(kLanes * sizeof(double)), aligned(alignof(double)), may_alias));

struct Sums {
  Doubles weighted, plain;
};

inline Sums sums_of(const float* z, const double* weight, int64_t n, int64_t length, const double* weighted, const double* plain) {
  Sums sums = {*reinterpret_cast<const Doubles*>(weighted), *reinterpret_cast<const Doubles*>(plain)};
  for (int64_t s = 0; s < n; ++s) {
    const Doubles value = __builtin_convertvector(load(z + s * length), Doubles);
    sums.weighted += value * weight[s];
    sums.plain += value;
  }
  return sums;
}

void add_samples(const float* z, const double* weight, int64_t n, int64_t length, double* weighted, double* plain) {
  if (length < kLanes) {
    for (int64_t l = 0; l < length; ++l) {
      for (int64_t s = 0; s < n; ++s) {
        const double value = z[s * length + l];
        weighted[l] += value * weight[s];
        plain[l] += value;
      }
    }
    return;
  }
  const int64_t last = length - kLanes;  // the last vector overlaps the one before: taken from the sums as they were
  const Sums end = sums_of(z + last, weight, n, length, weighted + last, plain + last);
  const auto put = [&](int64_t l, const Sums& sums) {
    *reinterpret_cast<Doubles*>(weighted + l) = sums.weighted;
    *reinterpret_cast<Doubles*>(plain + l) = sums.plain;
  };
  for (int64_t l = 0; l < last; l += kLanes) put(l, sums_of(z + l, weight, n, length, weighted + l, plain + l));
  put(last, end);
}

}  // namespace

}  // namespace vector

DYNFOCUS_DEFINE_VARIANT(TopkKernels, topk_kernels, vector::perturbed_topk, vector::add_samples)

}  // namespace dynfocus::cpu
