#include "points.h"

#include <cstring>

#include "variants.h"

namespace dynfocus::cpu {

DYNFOCUS_CHOOSE_VARIANT(PointKernels, point_kernels)

using torch::headeronly::ScalarType;

Points::Points(const torch::stable::Tensor& x)
    : batch(x.size(0)),
      points(x.size(1)),
      channels(x.size(2)),
      data_(static_cast<const char*>(x.const_data_ptr())),
      dtype_(x.scalar_type()),
      element_size_(static_cast<int64_t>(x.element_size())),
      batch_stride_(x.stride(0)),
      point_stride_(x.stride(1)),
      channel_stride_(x.stride(2)),
      kernels_(point_kernels()) {
  STD_TORCH_CHECK(dtype_ == ScalarType::Float || dtype_ == ScalarType::BFloat16 || dtype_ == ScalarType::Half,
                  "x has an unsupported dtype, it must be float32, bfloat16 or float16");
}

namespace {

// The n elements of a strided run, as a contiguous one: the run itself where it is contiguous already.
template <class T>
const T* contiguous_run(const char* from, int64_t stride, int64_t n, T* buffer) {
  const T* run = reinterpret_cast<const T*>(from);
  if (stride == 1) return run;
  for (int64_t c = 0; c < n; ++c) buffer[c] = run[c * stride];
  return buffer;
}

}  // namespace

void Points::read(int64_t b, int64_t i, int64_t c, int64_t n, float* to) const {
  const char* from = at(b, i, c);
  if (dtype_ == ScalarType::Float) {
    const float* run = contiguous_run(from, channel_stride_, n, to);
    if (run != to) std::memcpy(to, run, n * sizeof(float));
    return;
  }
  uint16_t buffer[kMaxRead];
  const uint16_t* run = contiguous_run(from, channel_stride_, n, buffer);
  if (dtype_ == ScalarType::Half) {
    kernels_.half_to_float(run, to, n);
    return;
  }
  for (int64_t k = 0; k < n; ++k) {  // bfloat16 is the upper half of a float32
    const uint32_t bits = static_cast<uint32_t>(run[k]) << 16;
    std::memcpy(to + k, &bits, sizeof(float));
  }
}

const float* Points::run(int64_t b, int64_t i, int64_t c, int64_t n, float* buffer) const {
  if (dtype_ == ScalarType::Float && channel_stride_ == 1) return reinterpret_cast<const float*>(at(b, i, c));
  read(b, i, c, n, buffer);
  return buffer;
}

const uint16_t* Points::bfloat16_run(int64_t b, int64_t i, int64_t c, int64_t n, uint16_t* buffer) const {
  return contiguous_run(at(b, i, c), channel_stride_, n, buffer);
}

}  // namespace dynfocus::cpu
