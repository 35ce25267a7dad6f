// Doubtful squared distances computed again, from differences: those that may change the outcome, and no others.
#pragma once

#include "frame_memory.cuh"

namespace dynfocus::cuda {

// |x - y|^2 of two points, the same in all lanes of the warp that calls, and the same for (y, x).
template <class Element>
__device__ __forceinline__ float squared_difference(const uint16_t* x, const uint16_t* y, int num_channels) {
  float sum = 0.0f;
#pragma unroll 2
  for (int c = threadIdx.x % kWarp * kChannelsPerLoad; c < num_channels; c += kWarp * kChannelsPerLoad) {
    const uint4 a = __ldg(reinterpret_cast<const uint4*>(x + c)), b = __ldg(reinterpret_cast<const uint4*>(y + c));
    const uint32_t of_x[4] = {a.x, a.y, a.z, a.w}, of_y[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const float2 p = Element::unpack(of_x[pair]), q = Element::unpack(of_y[pair]);
      sum += (p.x - q.x) * (p.x - q.x);
      sum += (p.y - q.y) * (p.y - q.y);
    }
  }
#pragma unroll
  for (int other = kWarp / 2; other > 0; other /= 2) sum += __shfl_xor_sync(kAllLanes, sum, other);
  return sum;
}

// Mends each doubtful entry of which matters(i, j, bounds) is true, i > j. Each is one warp's: no other reads it meanwhile, nor after:
// a reader who missed one would be in doubt and come back, but the compute sanitizer would be right to call it a race.
template <class Element, class Matters>
__device__ __forceinline__ void mend(const Frames& frames, const uint16_t* points, FrameMemory& shared, const Matters& matters) {
  const int lane = threadIdx.x % kWarp;
  const float error = product_error(frames.num_channels);
  for (int i = threadIdx.x / kWarp; i < frames.num_points; i += blockDim.x / kWarp) {
    for (int start = 0; start < i; start += kWarp) {
      const int j = start + lane;
      bool wanted = false;
      if (j < i) {
        const Bounds of = bounds(shared, i, j, triangle(shared)[entry_offset(i, j)], error);
        wanted = of.doubtful && matters(i, j, of);
      }
      for (uint32_t left = __ballot_sync(kAllLanes, wanted); left != 0; left &= left - 1) {
        const int found = start + __ffs(static_cast<int>(left)) - 1;
        const uint16_t *x = points + i * frames.point_stride, *y = points + found * frames.point_stride;
        const float distance = squared_difference<Element>(x, y, frames.num_channels);
        if (lane == 0) triangle(shared)[entry_offset(i, found)] = distance;
      }
    }
  }
  __syncthreads();
}

}  // namespace dynfocus::cuda
