// What the clustering kernel is given and what it writes; no torch in it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dynfocus::cuda {

constexpr int kMaxPoints = 256, kMaxClusters = 64, kMaxNeighbors = 16;
constexpr int kChannelsPerLoad = 8;  // 16 bytes: C, both strides and the address of the points are multiples of that

// B samples of N points with C channels, which lie one after the other. Strides count elements.
struct Frames {
  const void* points;
  int64_t sample_stride, point_stride;
  const bool* mask;    // [B, N], or null
  const float* noise;  // [B, N], or null
  int num_points, num_channels, num_clusters, k;
  float distance_scale;
};

// Semantics in dynfocus_ops/reference. Each may be null but the assignment.
struct Clusterings {
  int64_t* assignment;  // sample b's from b * assignment_stride
  int64_t assignment_stride;
  int64_t* centers;              // [B, num_clusters]
  float *log_density, *delta;    // [B, N]
  void* prototypes;              // [num_clusters, C] of sample b from b * prototypes_stride elements
  int64_t prototypes_stride;     // a sample with points that are not finite then has assignments -1 and prototypes 0
};

enum class Precision { kBFloat16, kFloat16 };

// Clusters each sample on `stream`, a cudaStream_t of the current device. Returns what went wrong, as CUDA says it, or null.
const char* cluster_frames(const Frames& frames, const Clusterings& to, int64_t num_samples, Precision precision, void* stream);

}  // namespace dynfocus::cuda
