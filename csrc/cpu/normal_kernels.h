// Standard normal numbers from a counter: Philox4x32-10 and Box-Muller, as in dynfocus_ops/reference/perturbed_topk.py.
#pragma once

#include <cstdint>

namespace dynfocus::cpu {

constexpr int64_t kNormalsPadding = 32;

struct NormalKernels {
  // z[i] = Z of the counter first + i, for i < n rounded up to a multiple of kNormalsPadding. The same bits on every instruction set;
  // within 4 units in the last place of Z in float64.
  void (*normals)(uint64_t first, uint64_t seed, int64_t n, float* z);
};

const NormalKernels& normal_kernels();

}  // namespace dynfocus::cpu
