#include "../byte_kernels.h"

#include "../panel_kernels.h"
#include "../row_kernels.h"
#include "../variants.h"
#include "lanes.h"

namespace dynfocus::cpu {

#if defined(__AVX512VNNI__)

namespace vector {

namespace {

typedef int32_t Ints __attribute__((vector_size(kLanes * sizeof(int32_t)), aligned(alignof(int32_t)), may_alias));

inline Ints load(const int32_t* from) { return *reinterpret_cast<const Ints*>(from); }

constexpr float kInfinity = __builtin_inff();

// What float arithmetic may be off by, with room: sums of squares relatively; and a length where squares below the smallest float are lost,
// of a step too, which up to 2^30 then multiplies.
constexpr float kSumError = 0x1p-10f, kSquareError = 0x1p-20f, kUnderflow = 0x1p-46f;

inline __mmask16 first_lanes(int64_t count) { return static_cast<__mmask16>(count < kLanes ? (1u << count) - 1u : 0xffffu); }

template <bool kIsShifted>
float largest_magnitude(const float* x, const float* offset, int64_t n) {
  Vector most = {};
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) {
    const Vector y = kIsShifted ? load(x + c) - load(offset + c) : load(x + c);
    most = (Vector)_mm512_max_ps((__m512)most, _mm512_abs_ps((__m512)y));
  }
  float largest = _mm512_reduce_max_ps((__m512)most);
  for (; c < n; ++c) {
    const float y = kIsShifted ? x[c] - offset[c] : x[c], magnitude = y < 0.0f ? -y : y;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

// Of one point: the rest's square, the sum of the bytes' squares, and of the bytes.
struct Rounded {
  float rest_square;
  int32_t byte_square, sum_of_bytes;
};

template <bool kIsShifted>
inline Rounded round_one(const float* x, const float* offset, int64_t n, float step, float per_step, int8_t* bytes, const float* ahead) {
  Vector rest_square = {};
  for (int64_t c = 0; c < n; c += kLanes) {
    const __mmask16 valid = first_lanes(n - c);
    Vector y = (Vector)_mm512_maskz_loadu_ps(valid, x + c);
    if (kIsShifted) y -= (Vector)_mm512_maskz_loadu_ps(valid, offset + c);
    __builtin_prefetch(ahead + c);
    const __m512i nearest = _mm512_cvtps_epi32((__m512)(y * per_step));  // beyond a byte only if the step is not finite
    const Vector rest = y - step * (Vector)_mm512_cvtepi32_ps(nearest);
    rest_square += rest * rest;
    const __m128i packed = _mm512_cvtepi32_epi8(nearest);
    if (n - c >= kLanes) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + c), packed);
    } else {
      _mm_mask_storeu_epi8(bytes + c, valid, packed);
    }
  }
  __m512i sum = _mm512_setzero_si512(), byte_square = _mm512_setzero_si512();
  for (int64_t c = 0; c < n; c += 64) {
    const __mmask64 valid = n - c < 64 ? (uint64_t{1} << (n - c)) - 1u : ~uint64_t{0};
    const __m512i some = _mm512_maskz_loadu_epi8(valid, bytes + c), magnitudes = _mm512_abs_epi8(some);
    sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), some);
    byte_square = _mm512_dpbusd_epi32(byte_square, magnitudes, magnitudes);
  }
  return {_mm512_reduce_add_ps((__m512)rest_square), _mm512_reduce_add_epi32(byte_square), _mm512_reduce_add_epi32(sum)};
}

// A few points together, step by step: what each step ends with takes long, and the next point need not wait for it. As many as stay in the
// first cache with the next few, which are fetched meanwhile; one at least.
template <bool kIsShifted>
void round_from(const float* const* points, int64_t count, const float* offset, int64_t n, int8_t* bytes, int64_t stride,
                const RoundedPanel& to) {
  constexpr int64_t kMostTogether = 4, kNear = 2048;
  const int64_t together = n * kMostTogether <= kNear ? kMostTogether : n < kNear ? kNear / n : 1;
  float steps[kPanel] = {}, rest_squares[kPanel] = {}, byte_squares[kPanel] = {};
  for (int64_t first = 0; first < count; first += together) {
    const int64_t last = first + together < count ? first + together : count;
    float per_step[kMostTogether];
    for (int64_t p = first; p < last; ++p) steps[p] = largest_magnitude<kIsShifted>(points[p], offset, n) / 127.0f;
    for (int64_t p = first; p < last; ++p) per_step[p - first] = steps[p] >= 0x1p-126f ? 1.0f / steps[p] : 0.0f;
    for (int64_t p = first; p < last; ++p) {
      const float* ahead = points[p + together < count ? p + together : count - 1];
      const Rounded rounded = round_one<kIsShifted>(points[p], offset, n, steps[p], per_step[p - first], bytes + p * stride, ahead);
      rest_squares[p] = rounded.rest_square;
      byte_squares[p] = static_cast<float>(rounded.byte_square);
      to.sums_of_bytes[p] = rounded.sum_of_bytes;
    }
  }
  for (int64_t p = 0; p < count; p += kLanes) {
    const __mmask16 valid = first_lanes(count - p);
    const Vector step = load(steps + p), square = step * step * load(byte_squares + p);
    const Vector rests = (Vector)_mm512_sqrt_ps((__m512)load(rest_squares + p)), length = (Vector)_mm512_sqrt_ps((__m512)square);
    // The subtraction of the offset has rounded y, too.
    const Vector error = rests * (1.0f + kSumError) + (length + rests) * 0x1p-22f + kUnderflow;
    _mm512_mask_storeu_ps(to.steps + p, valid, (__m512)step);
    _mm512_mask_storeu_ps(to.errors + p, valid, (__m512)error);
    _mm512_mask_storeu_ps(to.squares + p, valid, (__m512)square);
  }
}

void round(const float* const* points, int64_t count, const float* offset, int64_t n, int8_t* bytes, int64_t stride,
           const RoundedPanel& to) {
  (offset == nullptr ? round_from<false> : round_from<true>)(points, count, offset, n, bytes, stride, to);
}

// The instruction takes bytes from 0 to 255 on one side: those of the columns, plus 128.
template <int64_t kRows, int64_t kVectors>
inline void add_tile(const int32_t* rows, const int32_t* columns, int64_t depth, const int32_t* start, int32_t* sums, int64_t stride) {
  const __m512i shift = _mm512_set1_epi8(-128);
  __m512i sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int64_t v = 0; v < kVectors; ++v) {
      sum[r][v] = start ? _mm512_set1_epi32(start[r]) : _mm512_loadu_si512(sums + r * stride + v * kLanes);
    }
  }
  for (int64_t c = 0; c < depth; ++c) {
    __m512i column[kVectors];
#pragma GCC unroll 2
    for (int64_t v = 0; v < kVectors; ++v) {
      column[v] = _mm512_xor_si512(_mm512_loadu_si512(columns + c * kPanel + v * kLanes), shift);
    }
#pragma GCC unroll 16
    for (int64_t r = 0; r < kRows; ++r) {
      const __m512i row = _mm512_set1_epi32(rows[c * kPanel + r]);
#pragma GCC unroll 2
      for (int64_t v = 0; v < kVectors; ++v) sum[r][v] = _mm512_dpbusd_epi32(sum[r][v], column[v], row);
    }
  }
#pragma GCC unroll 16
  for (int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int64_t v = 0; v < kVectors; ++v) _mm512_storeu_si512(sums + r * stride + v * kLanes, sum[r][v]);
  }
}

void add_products(const int32_t* rows, int64_t num_rows, const int32_t* columns, int64_t num_columns, int64_t depth,
                  const int32_t* start, int32_t* sums, int64_t stride) {
  constexpr int64_t kRows = 8, kFewRows = 4;
  static_assert(kPanel == 2 * kLanes);
  for (int64_t i = 0; i < num_rows; i += kRows) {
    const bool is_few = num_rows - i <= kFewRows, is_narrow = num_columns <= kLanes;
    const auto add = is_narrow ? (is_few ? add_tile<kFewRows, 1> : add_tile<kRows, 1>) : (is_few ? add_tile<kFewRows, 2> : add_tile<kRows, 2>);
    add(rows + i, columns, depth, start ? start + i : nullptr, sums + i * stride, stride);
  }
}

// |z_i|^2 + |z_j|^2 - 2 z_i.z_j of the rounded points z, at least and at most; and error_i + error_j.
struct Pairs {
  Pairs(const int32_t* products, const RoundedPoint& point, const RoundedPoints& columns)
      : products_(products), steps_(columns.steps), errors_(columns.errors), squares_(columns.squares), square_(broadcast(point.square)),
        twice_step_(broadcast(2.0f * point.step)), error_(broadcast(point.error)) {}

  void squares(int64_t j, Vector& least, Vector& most) const {
    const Vector product = (Vector)_mm512_cvtepi32_ps((__m512i)load(products_ + j));
    const Vector sum = load(squares_ + j) + square_, twice = load(steps_ + j) * twice_step_ * product;
    least = sum * (1.0f - kSquareError) - twice;
    most = sum * (1.0f + kSquareError) - twice;
  }
  Vector errors(int64_t j) const { return load(errors_ + j) + error_; }

 private:
  const int32_t* const products_;
  const float *const steps_, *const errors_, *const squares_;  // a copy of all at once would wait for the caller to have stored each
  const Vector square_, twice_step_, error_;
};

inline Vector larger(Vector x, Vector y) { return (Vector)_mm512_max_ps((__m512)x, (__m512)y); }
inline Vector smaller(Vector x, Vector y) { return (Vector)_mm512_min_ps((__m512)x, (__m512)y); }

// At least the square root, and no more than 2^-12 of it above: the instruction is off by 2^-14 and four times as fast as the root's. Of
// infinity, NaN.
inline Vector root_above(Vector square) {
  const Vector positive = larger(square, broadcast(0x1p-120f));
  return positive * (Vector)_mm512_rsqrt14_ps((__m512)positive) * (1.0f + 0x1p-13f);
}

// (|z_i - z_j| - error_i - error_j)^2, if that is the square of something positive. The root's factor leaves room for all rounding, and
// for that of a distance computed from differences: where something positive is left, that distance is below twice |z_i - z_j|.
float lower_bounds(const int32_t* products, const RoundedPoint& point, const RoundedPoints& columns, int64_t n, float* to) {
  const Pairs pairs(products, point, columns);
  Vector largest = {};
  for (int64_t j = 0; j < n; j += kLanes) {
    Vector least, most;
    pairs.squares(j, least, most);
    const Vector positive = larger(least, broadcast(0x1p-120f));  // of a root below any error
    const Vector root = positive * (Vector)_mm512_rsqrt14_ps((__m512)positive) * (1.0f - 0x1p-12f);
    const Vector bound = larger(root - pairs.errors(j), Vector{});  // of NaN and 0, 0
    largest = larger(largest, bound * bound);
    store(to + j, -(bound * bound));
  }
  return _mm512_reduce_max_ps((__m512)largest);
}

// Each lane a column: in sorted order, what is least so far of the groups' least. A prime number of groups: points near each other are often
// a row or a column of patches, and on a grid of any width those fall into many.
template <int64_t k>
void kth_of_few_columns(const float* rows, int64_t stride, int64_t n, float* to) {
  constexpr int64_t kGroups = 61;
  Vector least[k];
#pragma GCC unroll 16
  for (int64_t at = 0; at < k; ++at) least[at] = broadcast(kInfinity);
  for (int64_t group = 0; group < kGroups; ++group) {
    Vector next = broadcast(kInfinity);
    for (int64_t i = group; i < n; i += kGroups) next = smaller((Vector)_mm512_abs_ps((__m512)load(rows + i * stride)), next);
#pragma GCC unroll 16
    for (int64_t at = 0; at < k; ++at) {
      const Vector rest = larger(next, least[at]);
      least[at] = smaller(next, least[at]);
      next = rest;
    }
  }
  store(to, least[k - 1]);
}

template <int64_t least_k = 1>
void kth_of_columns(const float* rows, int64_t stride, int64_t n, int64_t k, float* to) {
  if constexpr (least_k < kFew) {
    if (k > least_k) return kth_of_columns<least_k + 1>(rows, stride, n, k, to);
  }
  for (int64_t j = 0; j < kPanel; j += kLanes) kth_of_few_columns<least_k>(rows + j, stride, n, to + j);
}

// Of the pairs in kPanel groups, each group's least upper bound: the k-th smallest of those. A group takes another lane at each step, as
// points near each other are often a row of patches, so maybe kPanel, apart.
float kth_upper_bound(const int32_t* products, const RoundedPoint& point, const RoundedPoints& columns, int64_t n, int64_t k) {
  constexpr int64_t kVectors = kPanel / kLanes;
  constexpr int kTurn = 5;
  const Pairs pairs(products, point, columns);
  Vector least_bound[kVectors] = {broadcast(kInfinity), broadcast(kInfinity)};
  for (int64_t j = 0; j < n; j += kPanel) {
#pragma GCC unroll 2
    for (int64_t v = 0; v < kVectors; ++v) {
      Vector least, most;
      pairs.squares(j + v * kLanes, least, most);
      const Vector turned = (Vector)_mm512_alignr_epi32((__m512i)least_bound[v], (__m512i)least_bound[v], kTurn);
      least_bound[v] = smaller(root_above(most) + pairs.errors(j + v * kLanes), turned);  // of NaN and y, y
    }
  }
  float bounds[kPanel];
  for (int64_t v = 0; v < kVectors; ++v) store(bounds + v * kLanes, least_bound[v]);
  Ints no_larger[kVectors] = {};  // how many of all are at most this one
  for (int64_t w = 0; w < kPanel; ++w) {
#pragma GCC unroll 2
    for (int64_t v = 0; v < kVectors; ++v) no_larger[v] -= bounds[w] <= least_bound[v];
  }
  __m512 kth = _mm512_set1_ps(kInfinity);
  for (int64_t v = 0; v < kVectors; ++v) {
    const __mmask16 enough = _mm512_cmpge_epi32_mask((__m512i)no_larger[v], _mm512_set1_epi32(static_cast<int32_t>(k)));
    kth = _mm512_mask_min_ps(kth, enough, kth, (__m512)least_bound[v]);
  }
  return _mm512_reduce_min_ps(kth);
}

// | |z_i - z_j| - d | <= error_i + error_j
int64_t notable(const int32_t* products, const RoundedRow& row, const RoundedPoints& columns, int64_t n, int32_t* places) {
  const Pairs pairs(products, row.point, columns);
  const float* reaches = columns.reaches;
  const Vector reach = broadcast(row.reach), far = broadcast(row.far);
  __m512i place = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  int32_t* end = places;
  for (int64_t j = 0; j < n; j += kLanes) {
    Vector least, most;
    pairs.squares(j, least, most);
    const Vector errors = pairs.errors(j), within = larger(load(reaches + j), reach) + errors, beyond = larger(far - errors, Vector{});
    const __mmask16 found = _mm512_cmp_ps_mask((__m512)least, (__m512)(within * within), _CMP_LE_OQ) |
                            _mm512_cmp_ps_mask((__m512)most, (__m512)(beyond * beyond), _CMP_GE_OQ);
    _mm512_storeu_si512(end, _mm512_maskz_compress_epi32(found, place));
    end += __builtin_popcount(found);
    place = _mm512_add_epi32(place, _mm512_set1_epi32(kLanes));
  }
  return end - places;
}

}  // namespace

}  // namespace vector

DYNFOCUS_DEFINE_VARIANT(ByteKernels, byte_kernels, vector::round, vector::add_products, vector::lower_bounds,
                        vector::kth_of_columns<>, vector::kth_upper_bound, vector::notable)

#else

DYNFOCUS_DEFINE_VARIANT(ByteKernels, byte_kernels, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr)

#endif

}  // namespace dynfocus::cpu
