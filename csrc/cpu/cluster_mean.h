// The mean of a cluster, for every op that averages clusters: one order of summation, the same bits.
#pragma once

#include <cstdint>

#include "points.h"

namespace dynfocus::cpu {

// mean[k] = sum_i w_i x[b, i, c + k] / (epsilon + sum_i w_i) for k < n, over the members i in their order, in float32; 0 where that is
// divided by 0. weights: of the sample's points [N], or nullptr where all are 1. After the members come num_ahead that will be wanted next.
void mean_of_members(const Points& x, int64_t b, const int64_t* members, int64_t count, const float* weights, int64_t c, int64_t n,
                     float* mean, int64_t num_ahead = 0, float epsilon = 0.0f);

}  // namespace dynfocus::cpu
