#include "points.h"

#include <algorithm>

#include "variants.h"

namespace dynfocus::cpu {

DYNFOCUS_CHOOSE_VARIANT(PointKernels, point_kernels)

using torch::headeronly::ScalarType;

Element element_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return kFloat32;
    case ScalarType::BFloat16: return kBFloat16;
    case ScalarType::Half: return kFloat16;
    default: STD_TORCH_CHECK(false, "x has an unsupported dtype, it must be float32, bfloat16 or float16");
  }
}

Points::Points(const torch::stable::Tensor& x)
    : batch(x.size(0)),
      points(x.size(1)),
      channels(x.size(2)),
      element(element_of(x.scalar_type())),
      data_(static_cast<const char*>(x.const_data_ptr())),
      element_size_(static_cast<int64_t>(x.element_size())),
      batch_stride_(x.stride(0)),
      point_stride_(x.stride(1)),
      channel_stride_(x.stride(2)),
      kernels_(point_kernels()) {}

namespace {

template <class T>
void gather(const void* from, int64_t stride, int64_t n, T* to) {
  for (int64_t c = 0; c < n; ++c) to[c] = static_cast<const T*>(from)[c * stride];
}

}  // namespace

void Points::read(int64_t b, int64_t i, int64_t c, int64_t n, float* to) const {
  const void* from = at(b, i, c);
  if (in_place()) {
    kernels_.to_float[element](from, to, n);
  } else if (element == kFloat32) {
    gather(from, channel_stride_, n, to);
  } else {
    uint16_t halves[kMaxRead];
    for (int64_t k = 0; k < n; k += kMaxRead) {
      const int64_t length = std::min(kMaxRead, n - k);
      gather(at(b, i, c + k), channel_stride_, length, halves);
      kernels_.to_float[element](halves, to + k, length);
    }
  }
}

const float* Points::run(int64_t b, int64_t i, int64_t c, int64_t n, float* buffer) const {
  if (element == kFloat32 && in_place()) return static_cast<const float*>(at(b, i, c));
  read(b, i, c, n, buffer);
  return buffer;
}

const uint16_t* Points::bfloat16_run(int64_t b, int64_t i, int64_t c, int64_t n, uint16_t* buffer) const {
  if (in_place()) return static_cast<const uint16_t*>(at(b, i, c));
  gather(at(b, i, c), channel_stride_, n, buffer);
  return buffer;
}

}  // namespace dynfocus::cpu
