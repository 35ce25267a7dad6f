#include "../distance_kernels.h"

#include "../variants.h"
#include "lanes.h"

namespace dynfocus::cpu {

namespace vector {

namespace {

constexpr int64_t kRegisterRows = kRegisters / 4, kRegisterColumns = 2 * kLanes;  // half of the registers hold sums
static_assert(kTileRows % kRegisterRows == 0 && kTileColumns % kRegisterColumns == 0);

// One register tile. The sum over these channels is formed on its own and then added to the total: blocked summation, whose error
// grows with kTileChannels + C / kTileChannels in place of C.
inline void add_register_tile(const float* rows, const float* columns, int64_t channels, float* sums) {
  Vector sum[kRegisterRows][2] = {};
  for (int64_t c = 0; c < channels; ++c) {
    const Vector left = load(columns + c * kTileColumns), right = load(columns + c * kTileColumns + kLanes);
#pragma GCC unroll 8
    for (int64_t r = 0; r < kRegisterRows; ++r) {
      const float x = rows[r * kTileChannels + c];
      const Vector d_left = left - x, d_right = right - x;
      sum[r][0] += d_left * d_left;
      sum[r][1] += d_right * d_right;
    }
  }
#pragma GCC unroll 8
  for (int64_t r = 0; r < kRegisterRows; ++r) {
    float* total = sums + r * kTileColumns;
    store(total, load(total) + sum[r][0]);
    store(total + kLanes, load(total + kLanes) + sum[r][1]);
  }
}

void add_squared_distances(const float* rows, const float* columns, int64_t channels, int64_t num_rows, int64_t num_columns,
                           float* sums) {
  for (int64_t j = 0; j < num_columns; j += kRegisterColumns) {
    for (int64_t r = 0; r < num_rows; r += kRegisterRows) {
      add_register_tile(rows + r * kTileChannels, columns + j, channels, sums + r * kTileColumns + j);
    }
  }
}

}  // namespace

}  // namespace vector

DYNFOCUS_DEFINE_VARIANT(DistanceKernels, distance_kernels, vector::add_squared_distances)

}  // namespace dynfocus::cpu
