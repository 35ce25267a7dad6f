// Density-peaks clustering of a batch of small samples, and their clusters' means: a block of threads for each sample.
#pragma once

#include "frame_distances.cuh"
#include "frame_merging.cuh"
#include "frame_selection.cuh"

namespace dynfocus::cuda {

// Launched with num_threads(blocks) threads and shared_bytes(blocks) of shared memory, blocks = num_blocks(num_points), k <= kCount.
template <class Element, int kCount>
__global__ void __launch_bounds__(kMaxThreads, 1) cluster_frame(const Frames frames, const Clusterings to) {
  DYNFOCUS_SHARED_MEMORY(memory);
  FrameMemory& shared = *reinterpret_cast<FrameMemory*>(memory);
  const int64_t b = blockIdx.x, first = b * frames.num_points;
  const int blocks = num_blocks(frames.num_points), i = threadIdx.x;
  const uint16_t* points = static_cast<const uint16_t*>(frames.points) + b * frames.sample_stride;

  compute_distances<Element>(frames, points, frames.mask == nullptr ? nullptr : frames.mask + first, shared, blocks);
  Point point = select<Element, kCount>(frames, points, frames.noise == nullptr ? nullptr : frames.noise + first, shared, blocks);

  if (to.prototypes != nullptr) {
    const bool is_bad = point.is_valid && !(isfinite(point.log_density) && isfinite(point.delta));
    if (__syncthreads_or(is_bad)) point.label = -1;
    sort_by_label(frames, shared, point.label);
    write_means<Element>(frames, points, shared, static_cast<uint16_t*>(to.prototypes) + b * to.prototypes_stride);
  }
  if (i < frames.num_points) {
    to.assignment[b * to.assignment_stride + i] = point.label;
    if (to.log_density != nullptr) to.log_density[first + i] = point.log_density;
    if (to.delta != nullptr) to.delta[first + i] = point.delta;
  }
  if (to.centers != nullptr && i < frames.num_clusters) to.centers[b * frames.num_clusters + i] = shared.center[i];
}

using Kernel = void (*)(Frames, Clusterings);

inline Kernel kernel_for(Precision precision, int k) {
  if (precision == Precision::kBFloat16) return k <= 8 ? cluster_frame<BFloat16, 8> : cluster_frame<BFloat16, kMaxNeighbors>;
  return k <= 8 ? cluster_frame<Float16, 8> : cluster_frame<Float16, kMaxNeighbors>;
}

}  // namespace dynfocus::cuda
