// Inner loops over points rounded to bytes. Their products are whole numbers, so exact, and four times as fast as those of floats; what
// the rounding took away bounds how far a distance may be from that of the rounded points.
#pragma once

#include <cstdint>

namespace dynfocus::cpu {

// A point y = step * bytes + rest, |rest| <= error. square = |step * bytes|^2.
struct RoundedPoint {
  float step, error, square;
};

// Rounded points j as kernels see them, in arrays; a pair (i, j) may matter if its distance is at most reach[i] or reach[j].
struct RoundedPoints {
  const float *steps, *errors, *squares, *reaches;
};

// Where a panel's points go.
struct RoundedPanel {
  float *steps, *errors, *squares;
  int32_t* sums_of_bytes;
};

// The point i of a row of pairs (i, j).
struct RoundedRow {
  RoundedPoint point;
  float reach, far;
};

// All null where no instruction multiplies bytes. Of pairs, n is a multiple of kPanel, or of half of it for lower_bounds: points beyond the
// last have step 0 and square infinity, whatever their products.
struct ByteKernels {
  // bytes[p * stride + c] = (points[p][c] - offset[c]) / step to the nearest, step the largest magnitude / 127, for p < count <= kPanel.
  // No offset is one of 0
  void (*round)(const float* const* points, int64_t count, const float* offset, int64_t n, int8_t* bytes, int64_t stride,
                const RoundedPanel& to);
  // Of panels [depth][kPanel], four bytes a place: sums[i][j] = start[i] + product of rows' point i with columns' point j plus 128, for
  // i < num_rows and j < num_columns, both rounded up to the registers'; without start, added to sums. From -128 times the sum of point
  // i's bytes the sums come to its products with j itself.
  void (*add_products)(const int32_t* rows, int64_t num_rows, const int32_t* columns, int64_t num_columns, int64_t depth,
                       const int32_t* start, int32_t* sums, int64_t stride);
  // -to[j] = what the squared distance of a pair is at least, beyond the last point 0; returns the largest. `to` may be the products' own
  // memory
  float (*lower_bounds)(const int32_t* products, const RoundedPoint& point, const RoundedPoints& columns, int64_t n, float* to);
  // Of lower bounds, negative, and distances in n rows: to[j] = about the k-th smallest magnitude in column j, and no less, for kPanel
  // columns; k <= kFew
  void (*kth_of_columns)(const float* rows, int64_t stride, int64_t n, int64_t k, float* to);
  // At least k of the n pairs of `point` have a distance of at most this, and not many more; k <= kPanel
  float (*kth_upper_bound)(const int32_t* products, const RoundedPoint& point, const RoundedPoints& columns, int64_t n, int64_t k);
  // The places j of pairs that may be within reach, or as far apart as row.far, ascending, points beyond the last maybe among them;
  // returns how many. There is room for n
  int64_t (*notable)(const int32_t* products, const RoundedRow& row, const RoundedPoints& columns, int64_t n, int32_t* places);
};

const ByteKernels& byte_kernels();

}  // namespace dynfocus::cpu
