#include "squared_distances.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "variants.h"

namespace dynfocus::cpu {

DYNFOCUS_CHOOSE_VARIANT(PanelKernels, panel_kernels)
DYNFOCUS_CHOOSE_VARIANT(RowKernels, row_kernels)

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Channels whose squared differences are summed at a time.
constexpr int64_t kRun = 1024;

// Entries are mended by blocks of this size: one by one, or all if more than one in kManyOf is not to be trusted.
constexpr int64_t kMendedBlock = 128, kManyOf = 8;

}  // namespace

struct SquaredDistances::Block {
  const int64_t* rows;
  int64_t num_rows;
  const int64_t* columns;
  int64_t num_columns;
  float* to;
  int64_t stride;
  bool symmetric;  // rows and columns are the same: only panels on and above the diagonal are computed

  // Of the row: the first column that is computed.
  int64_t first_column(int64_t row) const { return symmetric ? row / kPanel * kPanel : 0; }

  Block part(int64_t row, int64_t column) const {
    return {rows + row,
            std::min(kMendedBlock, num_rows - row),
            columns + column,
            std::min(kMendedBlock, num_columns - column),
            to + row * stride + column,
            stride,
            symmetric && row == column};
  }
};

SquaredDistances::SquaredDistances(const Points& x, int64_t b, const std::vector<int64_t>& points)
    : x_(x),
      b_(b),
      points_(points),
      panels_(panel_kernels()),
      rows_(row_kernels()),
      product_(&panels_.squared_differences),
      offset_(x.channels, 0.0f) {
  if (x.channels > kCheap && static_cast<int64_t>(points.size()) > kCheap) choose_offset();
}

// The middle is the mean m of a few points, s their mean squared distance from it. Points relative to m have squares of about s, relative
// to 0 of about s + |m|^2: it pays where |m|^2 > s / 2. Its coordinates are rounded to a power of two well below the points' spread, so
// that points of few binary places keep few, and equal distances between such points stay equal.
void SquaredDistances::choose_offset() {
  constexpr int64_t kSampled = 8;
  static_assert(kSampled <= kCheap);
  const int64_t step = static_cast<int64_t>(points_.size()) / kSampled;
  float reading[kSampled][Points::kMaxRead], mean[Points::kMaxRead], deviation[Points::kMaxRead];
  const float* values[kSampled];
  double spread = 0.0, length = 0.0;
  for (int64_t c = 0; c < x_.channels; c += Points::kMaxRead) {
    const int64_t n = std::min(Points::kMaxRead, x_.channels - c);
    for (int64_t p = 0; p < kSampled; ++p) values[p] = x_.run(b_, points_[p * step], c, n, reading[p]);
    for (int64_t k = 0; k < n; ++k) {
      mean[k] = deviation[k] = 0.0f;
      for (int64_t p = 0; p < kSampled; ++p) mean[k] += values[p][k];
      mean[k] /= kSampled;
      for (int64_t p = 0; p < kSampled; ++p) deviation[k] += (values[p][k] - mean[k]) * (values[p][k] - mean[k]);
    }
    for (int64_t k = 0; k < n; ++k) {
      spread += deviation[k] / kSampled;
      length += static_cast<double>(mean[k]) * mean[k];
      offset_[c + k] = mean[k];
    }
  }
  if (!(length > spread / 2)) {  // nor if one is not finite
    std::fill(offset_.begin(), offset_.end(), 0.0f);
    const bool pairs = x_.is_bfloat16() && panels_.pair_products.add_products != nullptr;
    product_ = pairs ? &panels_.pair_products : &panels_.products;
    return;
  }
  const double typical = std::sqrt(spread / static_cast<double>(x_.channels));
  const float grid = std::exp2(std::floor(std::log2(std::max(typical, 1e-30))) - 4);
  for (float& value : offset_) value = std::nearbyint(value / grid) * grid;
  is_shifted_ = true;
  product_ = &panels_.products;
}

void SquaredDistances::pack(const PanelProduct& product, const int64_t* points, int64_t count, int64_t channel, int64_t channels,
                            float* panels, float* squares, float* reading) const {
  const bool pairs = &product == &panels_.pair_products;
  const int64_t depth = pairs ? (channels + 1) / 2 : channels;
  static constexpr uint16_t kNothing[kSlab] = {};
  for (int64_t first = 0; first < count; first += kPanel) {
    float* panel = panels + first * kSlab;
    const float* runs[kPanel];
    const uint16_t* bfloat16_runs[kPanel];
    for (int64_t p = 0; p < kPanel; ++p) {
      const bool is_padding = first + p >= count;
      if (pairs) {
        uint16_t* buffer = reinterpret_cast<uint16_t*>(reading + p * kSlab);
        bfloat16_runs[p] = is_padding ? kNothing : x_.bfloat16_run(b_, points_[points[first + p]], channel, channels, buffer);
      } else {
        runs[p] = is_padding ? offset_.data() + channel : x_.run(b_, points_[points[first + p]], channel, channels, reading + p * kSlab);
      }
    }
    if (pairs) {
      panels_.pack_pairs(bfloat16_runs, channels, panel);
    } else {
      panels_.pack(runs, offset_.data() + channel, channels, panel);
    }
    if (product.add_squares != nullptr) product.add_squares(panel, depth, squares + first);
  }
}

// block.to = sums of the products over all channels, and the squares of rows and columns in the workspace.
void SquaredDistances::add_products(const PanelProduct& product, const Block& block, Workspace& workspace) const {
  const int64_t num_rows = padded(block.num_rows), num_columns = padded(block.num_columns);
  workspace.rows_.reserve(num_rows * kSlab);
  workspace.reading_.reserve(kPanel * kSlab);
  if (!block.symmetric) workspace.columns_.reserve(num_columns * kSlab);
  for (int64_t i = 0; i < num_rows; ++i) {
    std::fill(block.to + i * block.stride + block.first_column(i), block.to + i * block.stride + num_columns, 0.0f);
  }
  if (product.add_squares != nullptr) {
    std::fill_n(workspace.row_squares_.reserve(num_rows), num_rows, 0.0f);
    if (!block.symmetric) std::fill_n(workspace.column_squares_.reserve(num_columns), num_columns, 0.0f);
  }
  const float* columns = block.symmetric ? workspace.rows_.data() : workspace.columns_.data();
  for (int64_t c = 0; c < x_.channels; c += kSlab) {
    const int64_t n = std::min(kSlab, x_.channels - c), depth = &product == &panels_.pair_products ? (n + 1) / 2 : n;
    pack(product, block.rows, block.num_rows, c, n, workspace.rows_.data(), workspace.row_squares_.data(), workspace.reading_.data());
    if (!block.symmetric) {
      pack(product, block.columns, block.num_columns, c, n, workspace.columns_.data(), workspace.column_squares_.data(),
           workspace.reading_.data());
    }
    for (int64_t j = 0; j < num_columns; j += kPanel) {
      const float* column = columns + j * kSlab;
      const int64_t in_column = std::min(kPanel, block.num_columns - j);
      for (int64_t i = 0; i < (block.symmetric ? j : num_rows); i += kPanel) {
        product.add_products(workspace.rows_.data() + i * kSlab, std::min(kPanel, block.num_rows - i), column, in_column, depth,
                             block.to + i * block.stride + j, block.stride);
      }
      if (block.symmetric) product.add_own_products(column, in_column, depth, block.to + j * block.stride + j, block.stride);
    }
  }
}

float SquaredDistances::from_differences(int64_t i, int64_t j) const {
  float x[kRun], y[kRun], sum = 0.0f;
  for (int64_t c = 0; c < x_.channels; c += kRun) {
    const int64_t n = std::min(kRun, x_.channels - c);
    const float *one = x_.run(b_, points_[i], c, n, x), *other = x_.run(b_, points_[j], c, n, y);
    panels_.squared_distances(&one, &other, 1, n, &sum);
  }
  return sum;
}

void SquaredDistances::from_differences(const Pair* pairs, int64_t count, float* to) const {
  const float *xs[kAtOnce], *ys[kAtOnce];
  for (int64_t first = 0; first < count; first += kAtOnce) {
    const int64_t num = std::min(kAtOnce, count - first);
    std::fill_n(to + first, num, 0.0f);
    for (int64_t c = 0; c < x_.channels; c += kRun) {
      for (int64_t p = 0; p < num; ++p) {
        xs[p] = in_place(pairs[first + p].i) + c;
        ys[p] = in_place(pairs[first + p].j) + c;
      }
      panels_.squared_distances(xs, ys, num, std::min(kRun, x_.channels - c), to + first);
    }
  }
}

bool SquaredDistances::all_finite(const Block& block) const {
  for (int64_t i = 0; i < block.num_rows; ++i) {
    const int64_t first = block.first_column(i);
    if (!rows_.all_finite(block.to + i * block.stride + first, padded(block.num_columns) - first)) return false;
  }
  return true;
}

// Computes the entries of `part` that are not to be trusted from differences. False if one is not finite even so.
bool SquaredDistances::mend(const Block& part, const float* row_squares, const float* column_squares, int64_t num_doubtful,
                            Workspace& workspace) const {
  if (num_doubtful * kManyOf > part.num_rows * part.num_columns) {
    add_products(panels_.squared_differences, part, workspace);
    return all_finite(part);
  }
  bool is_finite = true;
  for (int64_t i = 0; i < part.num_rows && num_doubtful > 0; ++i) {
    int32_t places[kMendedBlock];
    const int64_t first = part.first_column(i);
    float* row = part.to + i * part.stride + first;
    const int64_t found = rows_.untrusted(row, row_squares[i], column_squares + first, padded(part.num_columns) - first, places);
    for (int64_t at = 0; at < found; ++at) {
      const int64_t j = first + places[at];
      const bool is_mirrored = part.symmetric && j <= i;  // a point with itself is 0 already, unless that is not finite
      if (j < part.num_columns && !is_mirrored) row[places[at]] = from_differences(part.rows[i], part.columns[j]);
      if (j < part.num_columns && (!is_mirrored || j == i)) is_finite &= row[places[at]] < kInfinity;
    }
  }
  return is_finite;
}

bool SquaredDistances::compute(const Block& block, Workspace& workspace) const {
  add_products(*product_, block, workspace);
  if (product_->add_squares == nullptr) return all_finite(block);

  const float* row_squares = workspace.row_squares_.data();
  const float* column_squares = block.symmetric ? row_squares : workspace.column_squares_.data();
  bool is_finite = true;
  for (int64_t row = 0; row < block.num_rows; row += kMendedBlock) {
    for (int64_t column = block.symmetric ? row : 0; column < block.num_columns; column += kMendedBlock) {
      const Block part = block.part(row, column);
      int64_t num_doubtful = 0;
      for (int64_t i = 0; i < part.num_rows; ++i) {
        const int64_t first = part.first_column(i);
        num_doubtful += rows_.to_distances(part.to + i * part.stride + first, row_squares[row + i], column_squares + column + first,
                                           padded(part.num_columns) - first);
      }
      is_finite &= mend(part, row_squares + row, column_squares + column, num_doubtful, workspace);
    }
  }
  return is_finite;
}

bool SquaredDistances::between(const int64_t* rows, int64_t num_rows, const int64_t* columns, int64_t num_columns, float* to,
                               int64_t stride, Workspace& workspace) const {
  const bool is_finite = compute({rows, num_rows, columns, num_columns, to, stride, false}, workspace);
  for (int64_t i = 0; i < num_rows; ++i) std::fill(to + i * stride + num_columns, to + i * stride + padded(num_columns), kInfinity);
  return is_finite;
}

bool SquaredDistances::among(const int64_t* points, int64_t count, float* to, int64_t stride, Workspace& workspace) const {
  const bool is_finite = compute({points, count, points, count, to, stride, true}, workspace);
  for (int64_t i = 0; i < padded(count); i += kPanel) {
    for (int64_t r = i; r < i + kPanel; ++r) {
      for (int64_t c = r + 1; c < i + kPanel; ++c) to[c * stride + r] = to[r * stride + c];
    }
    const int64_t right = i + kPanel;
    rows_.transpose(to + i * stride + right, stride, kPanel, padded(count) - right, to + right * stride + i, stride);
  }
  for (int64_t i = 0; i < count; ++i) std::fill(to + i * stride + count, to + i * stride + padded(count), kInfinity);
  return is_finite;
}

}  // namespace dynfocus::cpu
