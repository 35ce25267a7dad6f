// The inner loops that are compiled once per instruction set and chosen at run time.
#pragma once

#include <cstdint>

namespace dynfocus::cpu {

// The fixed tiles of the distance kernel: kTileRows x kTileColumns squared distances, summed over kTileChannels channels at a time.
constexpr int64_t kTileRows = 128;
constexpr int64_t kTileColumns = 64;
constexpr int64_t kTileChannels = 64;

struct VectorKernels {
  // sums[r][j] += sum over c < channels of (rows[r][c] - columns[c][j])^2, for r < num_rows and j < num_columns, both rounded up to
  // what fits the registers: rows [kTileRows][kTileChannels], columns [kTileChannels][kTileColumns], sums [kTileRows][kTileColumns].
  // An entry depends on its own two points alone, never on its place in the tile, and swapping the two changes no bit.
  void (*add_squared_distances)(const float* rows, const float* columns, int64_t channels, int64_t num_rows, int64_t num_columns,
                                float* sums);
  // sum[c] += weight * x[c]
  void (*add_scaled)(float* sum, const float* x, float weight, int64_t n);
  // IEEE half precision to single, exact
  void (*half_to_float)(const uint16_t* half, float* single, int64_t n);
};

// For the instruction set capability() names.
const VectorKernels& vector_kernels();

}  // namespace dynfocus::cpu
