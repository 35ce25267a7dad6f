// Inner loops over tiles of squared distances.
#pragma once

#include <cstdint>

namespace dynfocus::cpu {

// The fixed tiles of exact distances: kTileRows x kTileColumns squared distances, summed over kTileChannels channels at a time.
constexpr int64_t kTileRows = 128;
constexpr int64_t kTileColumns = 64;
constexpr int64_t kTileChannels = 64;

struct DistanceKernels {
  // sums[r][j] += sum over c < channels of (rows[r][c] - columns[c][j])^2, for r < num_rows and j < num_columns, both rounded up to
  // what fits the registers: rows [kTileRows][kTileChannels], columns [kTileChannels][kTileColumns], sums [kTileRows][kTileColumns].
  // An entry depends on its own two points alone, never on its place in the tile, and swapping the two changes no bit.
  void (*add_squared_distances)(const float* rows, const float* columns, int64_t channels, int64_t num_rows, int64_t num_columns,
                                float* sums);
};

const DistanceKernels& distance_kernels();

}  // namespace dynfocus::cpu
