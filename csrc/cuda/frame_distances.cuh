// The squared distances between all points of a frame, from one pass over its channels: x x^T by matrix products, half of it.
#pragma once

#include "frame_memory.cuh"

namespace dynfocus::cuda {

// Sums of products of 64 points with 64: sums[m][n] are rows 16 m .. and columns 8 n .. as multiply_add holds them.
using BlockSums = float[4][8][4];

// Points and channels that are masked out or not there are read as zeros.
__device__ __forceinline__ void start_copies(const Frames& frames, const uint16_t* points, FrameMemory& shared, int blocks, int slab) {
  const SharedAddress stage = shared_address(tiles(shared) + slab % kStages * stage_bytes(blocks));
  for (int piece = threadIdx.x; piece < blocks * kBlock * 8; piece += blockDim.x) {
    const int point = piece >> 3, part = piece & 7, channel = slab * kSlab + part * kChannelsPerLoad;
    const bool is_there = channel < frames.num_channels && (shared.valid[point >> 5] >> (point & 31) & 1u) != 0;
    const uint16_t* from = is_there ? points + point * frames.point_stride + channel : points;
    start_copy(stage + (point << 7) + ((part ^ (point & 7)) << 4), from, is_there);
  }
}

// Adds the products of a slab of channels: blocks `row` and `column` of the points, both from `stage`, where the eight 16-byte parts of
// a point's 128 bytes are exchanged so that eight points' same part lies in all banks.
template <class Element>
__device__ __forceinline__ void add_products(SharedAddress stage, int row, int column, BlockSums& sums) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int step = 0; step < kSlab / 16; ++step) {
    uint32_t a[4][4];
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const int point = row * kBlock + m * 16 + (lane & 15), part = 2 * step + (lane >> 4);
      load_matrices(a[m], stage + (point << 7) + ((part ^ (point & 7)) << 4));
    }
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const int point = column * kBlock + n * 16 + (lane & 7) + (lane >> 4 << 3), part = 2 * step + (lane >> 3 & 1);
      uint32_t b[4];
      load_matrices(b, stage + (point << 7) + ((part ^ (point & 7)) << 4));
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        Element::multiply_add(sums[m][2 * n], a[m], b[0], b[1]);
        Element::multiply_add(sums[m][2 * n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

template <class Element>
__device__ __forceinline__ void multiply_blocks(const Frames& frames, const uint16_t* points, FrameMemory& shared, int blocks, int row,
                                                int column, BlockSums& sums) {
  const int slabs = (frames.num_channels + kSlab - 1) / kSlab;
  for (int slab = 0; slab < kStages - 1; ++slab) {
    if (slab < slabs) start_copies(frames, points, shared, blocks, slab);
    close_copy_group();
  }
  for (int slab = 0; slab < slabs; ++slab) {
    wait_for_copies<kStages - 2>();
    __syncthreads();  // all threads' copies of this slab are there, and all have done with the stage that comes next
    if (slab + kStages - 1 < slabs) start_copies(frames, points, shared, blocks, slab + kStages - 1);
    close_copy_group();
    const SharedAddress stage = shared_address(tiles(shared) + slab % kStages * stage_bytes(blocks));
    if (row < blocks) add_products<Element>(stage, row, column, sums);
  }
}

// Of the block on the diagonal: the sums of points with themselves.
__device__ __forceinline__ void store_squares(const BlockSums& sums, int row, FrameMemory& shared) {
  const int lane = threadIdx.x % kWarp, lane_row = lane >> 2, lane_column = (lane & 3) * 2;
#pragma unroll
  for (int m = 0; m < 4; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = row * kBlock + m * 16 + half * 8 + lane_row;
      const bool is_valid = (shared.valid[i >> 5] >> (i & 31) & 1u) != 0;
      if (is_valid && lane_row == lane_column) shared.square[i] = sums[m][2 * m + half][half * 2];
      if (is_valid && lane_row == lane_column + 1) shared.square[i] = sums[m][2 * m + half][half * 2 + 1];
    }
  }
}

__device__ __forceinline__ float to_entry(float squares, float sum) {
  constexpr float kTrusted = 8.0f;  // |x|^2 + |y|^2 of that many squared distances loses three bits
  const float difference = fmaf(-2.0f, sum, squares);
  const float distance = difference < INFINITY ? fmaxf(difference, 0.0f) : INFINITY;
  return squares > kTrusted * distance ? -distance : distance;
}

__device__ __forceinline__ void store_entries(const BlockSums& sums, int row, int column, FrameMemory& shared) {
  const int lane = threadIdx.x % kWarp, lane_row = lane >> 2, lane_column = (lane & 3) * 2;
  // What entry_offset adds up of a lane's part and of a place's: `rotated` is linear in the bits, and theirs are different ones.
  const int lane_offset = (lane_row << 5) + (lane_column ^ rotated(lane_row));
  const float *of_rows = shared.square + row * kBlock + lane_row, *of_columns = shared.square + column * kBlock + lane_column;
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    const float row_squares[2] = {of_rows[m * 16], of_rows[m * 16 + 8]};
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float column_squares[2] = {of_columns[n * 8], of_columns[n * 8 + 1]};
      float* block = triangle(shared) + block_offset(2 * row + m / 2, 2 * column + n / 4);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int r = m * 16 + e / 2 * 8, c = n * 8 + e % 2;
        const int beyond = (row - column) * kBlock + r - c + lane_row - lane_column;  // i - j
        const float distance = to_entry(row_squares[e / 2] + column_squares[e % 2], sums[m][n][e]);
        const float entry = beyond == 0 ? fabsf(distance) : distance;
        if (beyond >= 0) block[(r % 32 << 5) + (lane_offset ^ c % 32 ^ rotated(r % 32))] = entry;
      }
    }
  }
}

// Fills shared.valid, shared.square and the triangle. Calls of all threads; the triangle may be read after it.
template <class Element>
__device__ __forceinline__ void compute_distances(const Frames& frames, const uint16_t* points, const bool* mask, FrameMemory& shared,
                                                  int blocks) {
  const int i = threadIdx.x, warp = threadIdx.x / kWarp;
  if (i < blocks * kBlock) {
    const uint32_t valid = __ballot_sync(kAllLanes, i < frames.num_points && (mask == nullptr || mask[i]));
    if (i % kWarp == 0) shared.valid[warp] = valid;
    shared.square[i] = INFINITY;
  }
  __syncthreads();

  int row = 0, column = warp;
  while (column > row) column -= ++row;
  BlockSums sums = {};
  multiply_blocks<Element>(frames, points, shared, blocks, row, column, sums);
  if (row == column && row < blocks) store_squares(sums, row, shared);
  __syncthreads();  // the ring is used up: all groups but the last, which are empty, have been waited for
  if (row < blocks) store_entries(sums, row, column, shared);
  __syncthreads();
}

}  // namespace dynfocus::cuda
