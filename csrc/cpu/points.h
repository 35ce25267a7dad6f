// Reads the points of a tensor [B, N, C] of any strides as float32, a few channels at a time.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "point_kernels.h"

namespace dynfocus::cpu {

class Points {
 public:
  // x: [B, N, C], float32, bfloat16 or float16; must outlive this.
  explicit Points(const torch::stable::Tensor& x);

  static constexpr int64_t kMaxRead = 256;

  // Writes channels [c, c + n) of point i of sample b to `to`; n <= kMaxRead.
  void read(int64_t b, int64_t i, int64_t c, int64_t n, float* to) const;

  // The same channels where they lie, if they lie there as float32 one after the other; else written to `buffer`.
  const float* run(int64_t b, int64_t i, int64_t c, int64_t n, float* buffer) const;

  // Likewise their bfloat16s; only for a tensor of those.
  const uint16_t* bfloat16_run(int64_t b, int64_t i, int64_t c, int64_t n, uint16_t* buffer) const;

  bool is_bfloat16() const { return dtype_ == torch::headeronly::ScalarType::BFloat16; }

  int64_t batch, points, channels;

 private:
  const char* at(int64_t b, int64_t i, int64_t c) const {
    return data_ + (b * batch_stride_ + i * point_stride_ + c * channel_stride_) * element_size_;
  }

  const char* data_;
  torch::headeronly::ScalarType dtype_;
  int64_t element_size_, batch_stride_, point_stride_, channel_stride_;
  const PointKernels& kernels_;
};

}  // namespace dynfocus::cpu
