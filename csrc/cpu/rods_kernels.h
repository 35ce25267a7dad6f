// Inner loops of attention pooling. Rows of numbers are padded to whole multiples of kPad.
#pragma once

#include <cstdint>

#include "point_kernels.h"

namespace dynfocus::cpu {

constexpr int64_t kPad = 16;
constexpr int64_t kTileRows = 12;                 // rows of a product formed at a time
constexpr int64_t kTileDepth = 128;               // terms of its sums added up at a time: their error grows with that, not with all
constexpr int64_t kTileStride = kTileDepth + 16;  // between a tile's rows: not a power of two, for which a cache has few places

// Rows of a tensor that are read next, to be brought near meanwhile.
struct Ahead {
  const void* rows[kTileRows];
  int64_t element_size;
};

struct RodsKernels {
  // out[r][j] += sum over k < depth of a[r][k] b[k][j], for r < rows <= kTileRows and j < columns, a multiple of kPad; a is a tile, its
  // rows kTileStride apart. An entry's bits depend on its own row and column alone. `ahead` may be null.
  void (*multiply_add)(const float* a, int64_t rows, int64_t depth, const float* b, int64_t b_stride, int64_t columns, float* out,
                       int64_t out_stride, const Ahead* ahead);
  // products[r] += sum over k < depth of a[r][k] b[k]; a is a tile
  void (*add_products)(const float* a, int64_t rows, int64_t depth, const float* b, float* products);
  // From logits [M, width] of `queries` queries to A = softmax(scale * logits) over M, in place; weights[m] = mean over queries of A[m].
  void (*softmax)(float* logits, int64_t M, int64_t width, int64_t queries, float scale, float* weights);
  // From A to its logits' gradients, in place: A[m][q] = factor A[m][q] (d[m] - sum over n of A[n][q] d[n])
  void (*softmax_backward)(float* attention, int64_t M, int64_t width, float factor, const float* d);
  // pooled[c] += weights[r] rows[r][c] and sum[c] += rows[r][c], r = 0, 1, ... in this order
  void (*pool[kElements])(const void* const* rows, const float* weights, int64_t num_rows, int64_t n, float* pooled, float* sum);
};

const RodsKernels& rods_kernels();

}  // namespace dynfocus::cpu
