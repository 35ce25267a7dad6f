// Inner loops over panels: the channels of 32 points, packed channel by channel, so that a product of two panels reads memory in order.
#pragma once

#include <cstdint>

namespace dynfocus::cpu {

constexpr int64_t kPanel = 32;   // points
constexpr int64_t kSlab = 128;   // channels packed at a time: two panels of a slab fit the first cache
constexpr int64_t kAtOnce = 4;   // pairs of points that are compared at a time

// How the entry of a pair of points is formed. Swapping the two changes no bit in any of them, and an entry depends on its two points
// alone. Sums run over the channels of a slab and are then added to the total: their error grows with kSlab + C / kSlab in place of C.
struct PanelProduct {
  // squares[p] += |p|^2, with the bits of add_products of p with itself; null where the entry is a squared difference
  void (*add_squares)(const float* panel, int64_t depth, float* squares);
  // sums[i][j] += entry of rows' point i and columns' point j, for i < num_rows and j < num_columns, both rounded up to the registers'
  void (*add_products)(const float* rows, int64_t num_rows, const float* columns, int64_t num_columns, int64_t depth, float* sums,
                       int64_t stride);
  // The same of a panel with itself, only surely for i <= j, both below count
  void (*add_own_products)(const float* panel, int64_t count, int64_t depth, float* sums, int64_t stride);
};

struct PanelKernels {
  // panel[c][p] = points[p][c] - offset[c]
  void (*pack)(const float* const* points, const float* offset, int64_t channels, float* panel);
  // panel[c / 2][p] = the bfloat16 channels c and c + 1 of points[p], in one float's place; an odd last one is paired with 0
  void (*pack_pairs)(const uint16_t* const* points, int64_t channels, float* panel);

  PanelProduct squared_differences;  // (x_c - y_c)^2
  PanelProduct products;             // x_c y_c
  PanelProduct pair_products;        // of pack_pairs: x_c y_c + x_{c+1} y_{c+1}; null where no instruction multiplies bfloat16

  // sums[p] += sum of (xs[p][c] - ys[p][c])^2, for p < count <= kAtOnce; no bit depends on the other pairs
  void (*squared_distances)(const float* const* xs, const float* const* ys, int64_t count, int64_t n, float* sums);
};

const PanelKernels& panel_kernels();

}  // namespace dynfocus::cpu
