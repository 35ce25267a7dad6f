// Inner loops over the channels of points.
#pragma once

#include <cstdint>

namespace dynfocus::cpu {

// The kernels that read or write a tensor come once for each of its possible elements, in this order.
enum Element { kFloat32, kBFloat16, kFloat16 };
constexpr int64_t kElements = 3;

struct PointKernels {
  // to[c] = from[c], exact
  void (*to_float[kElements])(const void* from, float* to, int64_t n);
  // to[c] = factor * from[c], rounded to nearest even
  void (*scale_from_float[kElements])(const float* from, float factor, void* to, int64_t n);
  // sum[c] += weights[r] * rows[r][c] for r = 0, 1, ... num_rows - 1 in this order; weights of nullptr are all 1. Another num_ahead rows
  // follow that are wanted next. A sum's bits depend neither on n nor on how the rows are dealt out to several calls.
  void (*add_rows[kElements])(const void* const* rows, const float* weights, int64_t num_rows, int64_t num_ahead, float* sum, int64_t n);
  // x[c] /= divisor
  void (*divide)(float* x, float divisor, int64_t n);
  // sum over c of x[c] * y[c], in double
  double (*dot)(const float* x, const float* y, int64_t n);
};

const PointKernels& point_kernels();

}  // namespace dynfocus::cpu
