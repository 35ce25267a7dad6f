// Density, distance to the nearest denser point, centres and assignment of a frame, a thread for each point. Each stage bounds what it
// looks for, has the doubtful distances within those bounds mended, and looks again until there are none.
#pragma once

#include "frame_mending.cuh"

namespace dynfocus::cuda {

// What the thread of a point finds out about it.
struct Point {
  int index;
  bool is_there;  // the thread has a point, though one that may be masked out
  bool is_valid;
  float log_density, delta;
  int label;  // -1 for a masked-out point
};

// The smallest of the numbers put in, ascending. A warp's lanes put at the same time.
template <int kCount>
struct Smallest {
  float values[kCount];

  __device__ __forceinline__ Smallest() {
#pragma unroll
    for (float& value : values) value = INFINITY;
  }

  __device__ __forceinline__ void put(float x) {
    if (!__any_sync(kAllLanes, x < values[kCount - 1])) return;
#pragma unroll
    for (float& value : values) {
      const float smaller = fminf(value, x);
      x = fmaxf(value, x);
      value = smaller;
    }
  }

  __device__ __forceinline__ float sum(int k) const {
    float total = 0.0f;
#pragma unroll
    for (int n = 0; n < kCount; ++n) total += n < k ? values[n] : 0.0f;
    return total;
  }

  __device__ __forceinline__ float largest(int k) const {
    float value = 0.0f;
#pragma unroll
    for (int n = 0; n < kCount; ++n) value = n < k ? values[n] : value;
    return value;
  }
};

// log(e^a + noise); a noise of 0 changes no bit.
__device__ __forceinline__ float log_add(float a, float noise) {
  if (noise == 0.0f) return a;
  const float b = logf(noise), low = fminf(a, b), high = fmaxf(a, b);
  return high + log1pf(expf(low - high));
}

// log rho_i = -mean of the k smallest squared distances, / scale. Distances no larger than the k-th smallest upper bound matter.
template <class Element, int kCount>
__device__ __forceinline__ void find_density(const Frames& frames, const uint16_t* points, const float* noise, FrameMemory& shared,
                                             Point& point) {
  const int i = point.index;
  const float error = product_error(frames.num_channels);
  float total = 0.0f;
  for (;;) {
    bool is_in_doubt = false;
    if (point.is_there) {
      Smallest<kCount> nearest;
      float doubtful = INFINITY;
      visit_row(triangle(shared), i, frames.num_points, [&](int j, float entry) {
        const Bounds of = bounds(shared, i, j, entry, error);
        if (of.doubtful) doubtful = fminf(doubtful, of.low);
        nearest.put(of.high);
      });
      const float farthest = nearest.largest(frames.k);
      shared.threshold[i] = farthest;
      is_in_doubt = doubtful < INFINITY && doubtful <= farthest;
      total = nearest.sum(frames.k);
    }
    if (!__syncthreads_or(is_in_doubt)) break;
    mend<Element>(frames, points, shared, [&](int i, int j, const Bounds& of) {
      return of.low <= fmaxf(shared.threshold[i], shared.threshold[j]);
    });
  }

  constexpr float kLargestSquare = 0x1p125f;  // beyond it distances may overflow, as they do for NaN
  float log_density = -(total / static_cast<float>(frames.k)) / frames.distance_scale;
  if (point.is_valid && noise != nullptr) log_density = log_add(log_density, noise[i]);
  if (point.is_valid && !(shared.square[i] <= kLargestSquare)) log_density = NAN;
  point.log_density = point.is_valid ? log_density : -INFINITY;
  if (point.is_there) shared.density[i] = point.log_density;
  __syncthreads();
}

__device__ __forceinline__ bool is_denser(float density_j, int j, float density_i, int i) {
  return density_j > density_i || (density_j == density_i && j < i);
}

__device__ __forceinline__ float largest_of_warp(float value) {
#pragma unroll
  for (int other = kWarp / 2; other > 0; other /= 2) value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, other));
  return value;
}

// delta_i = distance to the nearest denser point; for the densest, which has none, the largest distance of all.
template <class Element>
__device__ __forceinline__ void find_delta(const Frames& frames, const uint16_t* points, FrameMemory& shared, Point& point) {
  const int i = point.index, num_warps = blockDim.x / kWarp;
  const float error = product_error(frames.num_channels);
  float squared;
  for (;;) {
    float nearest = INFINITY, doubtful = INFINITY;  // of the denser points
    float largest = 0.0f, doubtful_largest = 0.0f;  // at least, and at most: of all points
    if (point.is_there) {
      visit_row(triangle(shared), i, frames.num_points, [&](int j, float entry) {
        const Bounds of = bounds(shared, i, j, entry, error);
        const bool denser = is_denser(shared.density[j], j, point.log_density, i);
        if (denser) nearest = fminf(nearest, of.high);
        if (denser && of.doubtful) doubtful = fminf(doubtful, of.low);
        if (of.high < INFINITY) largest = fmaxf(largest, of.low);
        if (of.doubtful) doubtful_largest = fmaxf(doubtful_largest, of.high);
      });
      shared.threshold[i] = nearest;
    }
    largest = largest_of_warp(largest);
    doubtful_largest = largest_of_warp(doubtful_largest);
    if (i % kWarp == 0) {
      shared.largest[0][i / kWarp] = largest;
      shared.largest[1][i / kWarp] = doubtful_largest;
    }
    __syncthreads();
    for (int warp = 0; warp < num_warps; ++warp) {
      largest = fmaxf(largest, shared.largest[0][warp]);
      doubtful_largest = fmaxf(doubtful_largest, shared.largest[1][warp]);
    }
    squared = nearest < INFINITY ? nearest : largest;
    const bool is_in_doubt = (doubtful < INFINITY && doubtful <= nearest) || (doubtful_largest > 0.0f && doubtful_largest >= largest);
    if (!__syncthreads_or(is_in_doubt)) break;
    mend<Element>(frames, points, shared, [&](int i, int j, const Bounds& of) {
      const int less_dense = is_denser(shared.density[j], j, shared.density[i], i) ? i : j;
      return of.low <= shared.threshold[less_dense] || of.high >= largest;
    });
  }
  point.delta = point.is_valid ? sqrtf(squared / frames.distance_scale) : 0.0f;
}

// The num_clusters highest log rho + log delta, of equals the lower index first; points that are masked out come last.
__device__ __forceinline__ void find_centers(const Frames& frames, FrameMemory& shared, Point& point) {
  const int i = point.index;
  if (point.is_there) {
    const float score = point.log_density + logf(point.delta) + 0.0f;  // no -0
    const int bits = __float_as_int(isnan(score) ? -INFINITY : score);
    const uint32_t ordered = bits < 0 ? ~static_cast<uint32_t>(bits) : static_cast<uint32_t>(bits) | 0x80000000u;
    shared.key[i] = point.is_valid ? ordered : 0;
  }
  __syncthreads();
  if (i < frames.num_points) {
    const uint32_t key = shared.key[i];
    int rank = 0;
#pragma unroll 4
    for (int j = 0; j < frames.num_points; ++j) rank += shared.key[j] > key || (shared.key[j] == key && j < i);
    if (rank < frames.num_clusters) shared.center[rank] = i;
    point.label = rank < frames.num_clusters && point.is_valid ? rank : -1;
  }
  __syncthreads();
}

// Every other point joins its nearest centre, of equals the earlier.
template <class Element>
__device__ __forceinline__ void find_assignment(const Frames& frames, const uint16_t* points, FrameMemory& shared, Point& point) {
  const int i = point.index;
  const float error = product_error(frames.num_channels);
  const bool joins = point.is_valid && point.label < 0;
  if (point.is_there) shared.threshold[i] = -INFINITY;  // marks a centre; masked-out points are in no doubt
  int joined = -1;
  for (;;) {
    bool is_in_doubt = false;
    if (joins) {
      float nearest = INFINITY, doubtful = INFINITY;
      joined = 0;
      for (int m = 0; m < frames.num_clusters; ++m) {
        const int j = shared.center[m];
        const float entry = triangle(shared)[entry_offset(max(i, j), min(i, j))];
        const Bounds of = bounds(shared, i, j, entry, error);
        if (of.high < nearest) {
          nearest = of.high;
          joined = m;
        }
        if (of.doubtful) doubtful = fminf(doubtful, of.low);
      }
      shared.threshold[i] = nearest;
      is_in_doubt = doubtful < INFINITY && doubtful <= nearest;
    }
    if (!__syncthreads_or(is_in_doubt)) break;
    mend<Element>(frames, points, shared, [&](int i, int j, const Bounds& of) {
      const float a = shared.threshold[i], b = shared.threshold[j];
      return (a == -INFINITY) != (b == -INFINITY) && of.low <= fmaxf(a, b);
    });
  }
  if (joins) point.label = joined;
}

// Calls of all threads, after compute_distances.
template <class Element, int kCount>
__device__ __forceinline__ Point select(const Frames& frames, const uint16_t* points, const float* noise, FrameMemory& shared, int blocks) {
  const int i = threadIdx.x;
  const bool is_there = i < blocks * kBlock;
  Point point = {i, is_there, is_there && (shared.valid[i >> 5] >> (i & 31) & 1u) != 0, -INFINITY, 0.0f, -1};
  find_density<Element, kCount>(frames, points, noise, shared, point);
  find_delta<Element>(frames, points, shared, point);
  find_centers(frames, shared, point);
  find_assignment<Element>(frames, points, shared, point);
  return point;
}

}  // namespace dynfocus::cuda
