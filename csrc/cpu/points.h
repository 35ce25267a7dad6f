// The points of a tensor [B, N, C] of any strides: as float32, or in place.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "point_kernels.h"

namespace dynfocus::cpu {

class Points {
 public:
  // x: [B, N, C], float32, bfloat16 or float16; must outlive this.
  explicit Points(const torch::stable::Tensor& x);

  static constexpr int64_t kMaxRead = 256;  // channels that fit a buffer on the stack

  // Writes channels [c, c + n) of point i of sample b to `to`; any n.
  void read(int64_t b, int64_t i, int64_t c, int64_t n, float* to) const;

  // The same channels where they lie, if they lie there as float32 one after the other; else written to `buffer`.
  const float* run(int64_t b, int64_t i, int64_t c, int64_t n, float* buffer) const;

  // Likewise their bfloat16s; only for a tensor of those.
  const uint16_t* bfloat16_run(int64_t b, int64_t i, int64_t c, int64_t n, uint16_t* buffer) const;

  bool is_bfloat16() const { return element == kBFloat16; }

  // Where a point's channels lie one after the other: channel c of point i of sample b, for the kernels of this `element`.
  bool in_place() const { return channel_stride_ == 1 || channels == 1; }
  const void* at(int64_t b, int64_t i, int64_t c) const {
    return data_ + (b * batch_stride_ + i * point_stride_ + c * channel_stride_) * element_size_;
  }

  int64_t batch, points, channels;
  Element element;

 private:
  const char* data_;
  int64_t element_size_, batch_stride_, point_stride_, channel_stride_;
  const PointKernels& kernels_;
};

// Throws unless dtype is float32, bfloat16 or float16.
Element element_of(torch::headeronly::ScalarType dtype);

}  // namespace dynfocus::cpu
