// Inner loops over the channels of a point.
#pragma once

#include <cstdint>

namespace dynfocus::cpu {

struct PointKernels {
  // sum[c] += weight * x[c]
  void (*add_scaled)(float* sum, const float* x, float weight, int64_t n);
  // IEEE half precision to single, exact
  void (*half_to_float)(const uint16_t* half, float* single, int64_t n);
};

const PointKernels& point_kernels();

}  // namespace dynfocus::cpu
