#include "rounded_sample.h"

#include <algorithm>
#include <limits>

#include "parallel.h"
#include "variants.h"

namespace dynfocus::cpu {

DYNFOCUS_CHOOSE_VARIANT(ByteKernels, byte_kernels)

RoundedSample::RoundedSample(const SquaredDistances& distances, int64_t count, Floats& memory)
    : kernels_(byte_kernels()),
      count_(count),
      depth_((distances.channels() + 3) / 4),
      panels_(reinterpret_cast<int32_t*>(memory.reserve(padded(count) * depth_))),
      steps_(padded(count)),
      errors_(padded(count)),
      squares_(padded(count), std::numeric_limits<float>::infinity()),
      starts_(padded(count)) {
  const double work = static_cast<double>(count * distances.channels());
  for_each_task(padded(count) / kPanel, work, [] { return std::vector<uint16_t>(); }, [&](int64_t panel, std::vector<uint16_t>& pairs) {
    pack(distances, panel * kPanel, std::min(kPanel, count - panel * kPanel), pairs);
  });
  is_usable_ = std::all_of(squares_.begin(), squares_.begin() + count, [](float square) { return square < 0x1p120f; }) &&
               std::all_of(errors_.begin(), errors_.end(), [](float error) { return error < 0x1p60f; });
}

void RoundedSample::pack(const SquaredDistances& distances, int64_t first, int64_t count, std::vector<uint16_t>& pairs) {
  pairs.resize(kPanel * 2 * depth_);  // 0 beyond the channels; what is beyond the last point tells nothing
  const float* points[kPanel];
  const uint16_t* rounded[kPanel];
  for (int64_t p = 0; p < kPanel; ++p) {
    if (p < count) points[p] = distances.in_place(first + p);
    rounded[p] = &pairs[p * 2 * depth_];
  }
  kernels_.round(points, count, distances.offset(), distances.channels(), reinterpret_cast<int8_t*>(pairs.data()), 4 * depth_,
                 {&steps_[first], &errors_[first], &squares_[first], &starts_[first]});
  for (int64_t i = first; i < first + count; ++i) starts_[i] *= -128;
  panel_kernels().pack_pairs(rounded, 2 * depth_, reinterpret_cast<float*>(&panels_[first * depth_]));
}

int64_t RoundedSample::longest() const {
  return std::max_element(squares_.begin(), squares_.begin() + count_) - squares_.begin();
}

void RoundedSample::multiply(int64_t i, int64_t rows, int64_t j, int64_t columns, int32_t* to, int64_t stride) const {
  for (int64_t d = 0; d < depth_; d += kSlab) {
    for (int64_t c = -(j % kPanel); c < columns; c += kPanel) {
      const int64_t left = std::max<int64_t>(c, 0), off = left - c;
      const int32_t* column = &panels_[(j + c) * depth_ + d * kPanel + off];
      for (int64_t r = 0; r < rows; r += kPanel) {
        const int64_t within = (i + r) % kPanel;
        kernels_.add_products(&panels_[(i + r - within) * depth_ + d * kPanel + within], std::min(kPanel, rows - r), column,
                              std::min(c + kPanel, columns) - left, std::min(kSlab, depth_ - d), d == 0 ? &starts_[i + r] : nullptr,
                              to + r * stride + left, stride);
      }
    }
  }
}

}  // namespace dynfocus::cpu
