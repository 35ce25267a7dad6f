// The shared memory of the block of threads that clusters a frame, and how its squared distances lie in it.
#pragma once

#include "device.h"
#include "frames.h"

namespace dynfocus::cuda {

constexpr int kWarp = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;
constexpr int kBlock = 64;          // points to a block: a warp multiplies one block of points with another
constexpr int kMaxThreads = 320;    // ten blocks of the lower triangle of 256 x 256
constexpr int kStages = 4;          // of the ring through which the channels come
constexpr int kSlab = 64;           // channels to a stage: 128 bytes of each point
constexpr uint8_t kNoLabel = 255;

struct alignas(128) FrameMemory {
  float square[kMaxPoints];     // |x_i|^2; infinity for points that are masked out or not there
  float density[kMaxPoints];    // log rho; -infinity for those
  float threshold[kMaxPoints];  // distances that may matter for point i: see frame_selection.cuh
  uint32_t key[kMaxPoints];     // its score in the order of unsigned integers
  float largest[2][kMaxThreads / kWarp];
  uint32_t valid[kMaxPoints / 32];
  int center[kMaxClusters], first[kMaxClusters], size[kMaxClusters];
  uint8_t label[kMaxPoints], order[kMaxPoints];
};

// After it first the ring of tiles, then, once that is used up, the triangle of squared distances.
__host__ __device__ constexpr int num_blocks(int num_points) { return (num_points + kBlock - 1) / kBlock; }
__host__ __device__ constexpr int stage_bytes(int blocks) { return blocks * kBlock * kSlab * 2; }
__host__ __device__ constexpr int triangle_bytes(int blocks) { return 4 * 32 * 32 * blocks * (2 * blocks + 1); }

constexpr int shared_bytes(int blocks) {
  const int ring = kStages * stage_bytes(blocks), triangle = triangle_bytes(blocks);
  return static_cast<int>(sizeof(FrameMemory)) + (ring > triangle ? ring : triangle);
}

// A warp for each block of the triangle, and a thread for each point.
constexpr int num_threads(int blocks) {
  const int warps = blocks * (blocks + 1) / 2;
  return kWarp * (warps > 2 * blocks ? warps : 2 * blocks);
}

__device__ __forceinline__ unsigned char* tiles(FrameMemory& shared) { return reinterpret_cast<unsigned char*>(&shared + 1); }
__device__ __forceinline__ float* triangle(FrameMemory& shared) { return reinterpret_cast<float*>(&shared + 1); }

// The triangle is stored by blocks of 32 x 32, i >= j. Within one, column c of row r lies at place c ^ rotated(r) of the row: a warp that
// reads along a row or down a column, or writes what a matrix product left in its lanes, meets 32 different banks.
__device__ __forceinline__ int rotated(int row) { return (row << 3 | row >> 2) & 31; }
__device__ __forceinline__ int block_offset(int row, int column) { return (row * (row + 1) / 2 + column) << 10; }

// Where the entry of points i >= j is.
__device__ __forceinline__ int entry_offset(int i, int j) {
  const int row = i & 31;
  return block_offset(i >> 5, j >> 5) + (row << 5) + ((j & 31) ^ rotated(row));
}

// Calls visit(j, entry) for the entries of point i with all points j, in order, and with those that fill the last 32.
template <class Visit>
__device__ __forceinline__ void visit_row(const float* triangle, int i, int num_points, const Visit& visit) {
  const int row = i & 31, own = row << 5, turn = rotated(row);
  for (int j = 0; j < num_points; j += 32) {
    const int high = max(i >> 5, j >> 5), low = min(i >> 5, j >> 5);
    const float* block = triangle + block_offset(high, low);
#pragma unroll 4
    for (int c = 0; c < 32; ++c) visit(j + c, block[j + c <= i ? own + (c ^ turn) : (c << 5) + (row ^ rotated(c))]);
  }
}

// An entry is |x_i - x_j|^2 as a sum of products gives it. Where that may have cancelled it is doubtful, and stored with a minus sign
// until it is computed again from differences. Entries with a point that is masked out, not there or not finite are infinity.
__device__ __forceinline__ bool is_doubtful(float entry) { return __float_as_int(entry) < 0; }

// A product of C channels is summed in C / 8 steps at the least, each of which may cut off a unit of rounding; here twice that.
__device__ __forceinline__ float product_error(int num_channels) { return static_cast<float>(num_channels / 4 + 8) * 0x1p-23f; }

// What the squared distance of an entry is at least and at most. `error` is that of a product relative to |x_i|^2 + |x_j|^2.
struct Bounds {
  float low, high;
  bool doubtful;
};
__device__ __forceinline__ Bounds bounds(const FrameMemory& shared, int i, int j, float entry, float error) {
  if (!is_doubtful(entry)) return {entry, entry, false};
  const float margin = error * (shared.square[i] + shared.square[j]);
  return {fabsf(entry) - margin, fabsf(entry) + margin, true};
}

}  // namespace dynfocus::cuda
