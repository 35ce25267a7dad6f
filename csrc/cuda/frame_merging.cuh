// The mean of each cluster's members, in the points' precision.
#pragma once

#include "frame_memory.cuh"

namespace dynfocus::cuda {

// Fills shared.order with the points by label, then index, and where each cluster starts there.
__device__ __forceinline__ void sort_by_label(const Frames& frames, FrameMemory& shared, int label) {
  const int i = threadIdx.x;
  if (i < kMaxPoints) shared.label[i] = label < 0 ? kNoLabel : static_cast<uint8_t>(label);
  __syncthreads();
  if (label >= 0) {
    int place = 0;
    for (int j = 0; j < frames.num_points; ++j) place += shared.label[j] < label || (shared.label[j] == label && j < i);
    shared.order[place] = static_cast<uint8_t>(i);
  }
  if (i < frames.num_clusters) {
    int first = 0, size = 0;
    for (int j = 0; j < frames.num_points; ++j) {
      first += shared.label[j] < i;
      size += shared.label[j] == i;
    }
    shared.first[i] = first;
    shared.size[i] = size;
  }
  __syncthreads();
}

// A warp takes a cluster's next 256 channels; members are added in the order of their index. The last channels first: those the products
// have read last, and which a cache may still have.
template <class Element>
__device__ __forceinline__ void write_means(const Frames& frames, const uint16_t* points, FrameMemory& shared, uint16_t* prototypes) {
  constexpr int kSpan = kWarp * kChannelsPerLoad;
  const int spans = (frames.num_channels + kSpan - 1) / kSpan;
  for (int task = threadIdx.x / kWarp; task < spans * frames.num_clusters; task += blockDim.x / kWarp) {
    const int cluster = task % frames.num_clusters;
    const int channel = (spans - 1 - task / frames.num_clusters) * kSpan + threadIdx.x % kWarp * kChannelsPerLoad;
    if (channel >= frames.num_channels) continue;
    const uint8_t* members = shared.order + shared.first[cluster];
    const int size = shared.size[cluster];
    float2 sums[4] = {};
#pragma unroll 8
    for (int n = 0; n < size; ++n) {
      const uint4 words = __ldg(reinterpret_cast<const uint4*>(points + members[n] * frames.point_stride + channel));
      const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        const float2 values = Element::unpack(pairs[p]);
        sums[p].x += values.x;
        sums[p].y += values.y;
      }
    }
    const float count = static_cast<float>(max(size, 1));
    uint32_t means[4];
#pragma unroll
    for (int p = 0; p < 4; ++p) means[p] = Element::pack(sums[p].x / count, sums[p].y / count);
    const uint4 words = {means[0], means[1], means[2], means[3]};
    *reinterpret_cast<uint4*>(prototypes + static_cast<int64_t>(cluster) * frames.num_channels + channel) = words;
  }
}

}  // namespace dynfocus::cuda
