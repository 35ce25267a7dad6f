// The top-k of perturbed scores, one sample at a time.
#pragma once

#include <cstdint>

namespace dynfocus::cpu {

constexpr int64_t kTopkPadding = 32;

struct TopkKernels {
  // chosen[j], j < k: the indices of the k largest of scores + sigma * z, ascending; NaN is the largest, the lower index wins among
  // equals. The product is rounded before the sum. keys and chosen are scratch of length + kTopkPadding.
  void (*perturbed_topk)(const float* scores, const float* z, float sigma, int64_t length, int64_t k, int32_t* keys, int32_t* chosen);
  // weighted[l] += sum over s < n of weight[s] z[s][l], plain[l] += sum over s of z[s][l], for z [n][length]
  void (*add_samples)(const float* z, const double* weight, int64_t n, int64_t length, double* weighted, double* plain);
};

const TopkKernels& topk_kernels();

}  // namespace dynfocus::cpu
