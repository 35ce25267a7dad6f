#include "rods_attention.h"

#include <torch/csrc/stable/ops.h>

#include "variants.h"

namespace dynfocus::cpu {

DYNFOCUS_CHOOSE_VARIANT(RodsKernels, rods_kernels)

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kTokens = 64;     // terms of a query's gradient added up at a time,
constexpr int64_t kChannels = 128;  // for so many channels: the tokens' part of it fits the first cache
constexpr int64_t kPooled = 8;      // tokens pooled at a time

static_assert(kTokens <= kTileDepth);

int64_t tiles(int64_t n, int64_t size) { return (n + size - 1) / size; }

// Calls body(first, rows) for tiles of nearly equal height, at most kTileRows.
template <class Body>
void for_each_tile(int64_t count, const Body& body) {
  const int64_t n = tiles(count, kTileRows);
  for (int64_t i = 0; i < n; ++i) body(i * count / n, (i + 1) * count / n - i * count / n);
}

}  // namespace

Rows::Rows(const Points& tokens, const Points& query, const Tensor& frame_query, const std::optional<Tensor>& query_mask) {
  const int64_t T = tokens.batch, B = query.batch, Q = query.points;
  STD_TORCH_CHECK(query.channels == tokens.channels, "queries must be [B, Q, C] with C of tokens");
  STD_TORCH_CHECK(frame_query.dim() == 1 && frame_query.size(0) == T && frame_query.scalar_type() == ScalarType::Long,
                  "frame_query must be int64 [T]");
  STD_TORCH_CHECK(!query_mask || (query_mask->dim() == 2 && query_mask->size(0) == B && query_mask->size(1) == Q &&
                                  query_mask->scalar_type() == ScalarType::Bool),
                  "query_mask must be bool [B, Q]");
  const Tensor row = torch::stable::contiguous(frame_query);
  row_of.assign(row.const_data_ptr<int64_t>(), row.const_data_ptr<int64_t>() + T);
  first_frame.assign(B + 1, 0);
  for (int64_t t = 0; t < T; ++t) {
    STD_TORCH_CHECK(row_of[t] >= 0 && row_of[t] < B, "frame_query[", t, "] is ", row_of[t], ", it must be a row of queries, below ", B);
    ++first_frame[row_of[t] + 1];
  }
  for (int64_t b = 0; b < B; ++b) first_frame[b + 1] += first_frame[b];
  frames.resize(T);
  std::vector<int64_t> next(first_frame.begin(), first_frame.end() - 1);
  for (int64_t t = 0; t < T; ++t) frames[next[row_of[t]]++] = t;

  const Tensor mask = query_mask ? torch::stable::contiguous(*query_mask) : Tensor();
  const bool* counts = query_mask ? mask.const_data_ptr<bool>() : nullptr;
  for (int64_t b = 0; b < B; ++b) {
    first_query.push_back(queries.size());
    for (int64_t q = 0; q < Q; ++q) {
      if (counts == nullptr || counts[b * Q + q]) queries.push_back(q);
    }
    most_queries = std::max(most_queries, static_cast<int64_t>(queries.size()) - first_query.back());
  }
  first_query.push_back(queries.size());
}

Attention::Attention(const Points& tokens, const Points& query, const Rows& rows, float scale)
    : tokens_(tokens),
      query_(query),
      rows_(rows),
      scale_(scale),
      M_(tokens.points),
      C_(tokens.channels),
      stride_(padded(C_)),
      points_(point_kernels()),
      kernels_(rods_kernels()),
      zeros_(stride_),
      factors_((rows.most_queries + 2) * stride_),
      panels_(tiles(rows.most_queries, kPanel) * kPanel * C_),
      attention_(M_ * padded(rows.most_queries)),
      weights_(M_),
      products_(M_),
      tiles_((rows.most_queries + 2 + kTileRows + kTileDepth) * kTileStride),
      sums_(std::max(kTileRows * kTileDepth, kTokens * kChannels)) {}

void Attention::ask(int64_t row) {
  if (row == row_) return;
  row_ = row;
  num_queries_ = rows_.num_queries(row);
  width_ = padded(num_queries_);
  for (int64_t q = 0; q < num_queries_; ++q) query_.read(row, rows_.query(row, q), 0, C_, &factors_[q * stride_]);
  for (int64_t first = 0; first < num_queries_; first += kPanel) {
    const float* panel[kPanel];
    for (int64_t q = 0; q < kPanel; ++q) panel[q] = first + q < num_queries_ ? &factors_[(first + q) * stride_] : zeros_.data();
    panel_kernels().pack(panel, zeros_.data(), C_, &panels_[first * C_]);
  }
}

// The rows read after channels [c, c + kTileDepth) of tokens [m, m + rows) of frame t.
Ahead Attention::what_follows(int64_t t, int64_t m, int64_t rows, int64_t c, int64_t next) const {
  c += kTileDepth;
  if (c >= C_) {
    c = 0;
    m += rows;
  }
  if (m >= M_) {
    m = 0;
    t = next;
  }
  Ahead ahead{{}, tokens_.element == kFloat32 ? 4 : 2};
  for (int64_t r = 0; r < kTileRows; ++r) ahead.rows[r] = tokens_.at(t, std::min(m + r, M_ - 1), c);
  return ahead;
}

void Attention::attend(int64_t t, int64_t next, const Points* gradients) {
  float* const pooled_grad = &factors_[num_queries_ * stride_];
  float* const mean_grad = pooled_grad + stride_;
  if (gradients != nullptr) {
    gradients->read(t, 0, 0, C_, pooled_grad);
    gradients->read(t, 1, 0, C_, mean_grad);
    points_.divide(mean_grad, static_cast<float>(M_), C_);
  }
  std::fill_n(attention_.data(), M_ * width_, 0.0f);
  std::fill(products_.begin(), products_.end(), 0.0f);
  for_each_tile(M_, [&](int64_t m, int64_t rows) {
    for (int64_t c = 0; c < C_; c += kTileDepth) {
      const int64_t depth = std::min(kTileDepth, C_ - c);
      for (int64_t r = 0; r < rows; ++r) tokens_.read(t, m + r, c, depth, &tiles_[r * kTileStride]);
      const Ahead ahead = what_follows(t, m, rows, c, next);
      for (int64_t q = 0; q < width_; q += kPanel) {
        kernels_.multiply_add(tiles_.data(), rows, depth, &panels_[q * C_ + c * kPanel], kPanel, std::min(kPanel, width_ - q),
                              &attention_[m * width_ + q], width_, q == 0 && tokens_.in_place() ? &ahead : nullptr);
      }
      if (gradients != nullptr) kernels_.add_products(tiles_.data(), rows, depth, pooled_grad + c, &products_[m]);
    }
  });
  kernels_.softmax(attention_.data(), M_, width_, num_queries_, scale_, weights_.data());
  if (gradients == nullptr) return;
  kernels_.softmax_backward(attention_.data(), M_, width_, scale_ / static_cast<float>(num_queries_), products_.data());
}

void Attention::pool(int64_t t, void* pooled, void* mean) {
  std::vector<float> buffer(tokens_.in_place() ? 0 : kPooled * C_), weighted(C_), plain(C_);
  for (int64_t m = (M_ - 1) / kPooled * kPooled; m >= 0; m -= kPooled) {  // the last tokens are still in the cache
    const int64_t rows = std::min(kPooled, M_ - m);
    const void* row[kPooled];
    for (int64_t r = 0; r < rows; ++r) {
      row[r] = tokens_.in_place() ? tokens_.at(t, m + r, 0) : &buffer[r * C_];
      if (!tokens_.in_place()) tokens_.read(t, m + r, 0, C_, &buffer[r * C_]);
    }
    const Element element = tokens_.in_place() ? tokens_.element : kFloat32;
    kernels_.pool[element](row, &weights_[m], rows, C_, weighted.data(), plain.data());
  }
  points_.divide(plain.data(), static_cast<float>(M_), C_);
  points_.scale_from_float[tokens_.element](weighted.data(), 1.0f, pooled, C_);
  points_.scale_from_float[tokens_.element](plain.data(), 1.0f, mean, C_);
}

void Attention::write_token_gradients(char* out) {
  const int64_t element_size = tokens_.element == kFloat32 ? 4 : 2, terms = num_queries_ + 2;
  for_each_tile(M_, [&](int64_t m, int64_t rows) {
    for (int64_t r = 0; r < rows; ++r) {  // row r of the factors' coefficients, in tiles of kTileDepth
      const auto coefficient = [&](int64_t k) -> float& {
        return tiles_[(k / kTileDepth * kTileRows + r) * kTileStride + k % kTileDepth];
      };
      for (int64_t q = 0; q < num_queries_; ++q) coefficient(q) = attention_[(m + r) * width_ + q];
      coefficient(num_queries_) = weights_[m + r];
      coefficient(num_queries_ + 1) = 1.0f;
    }
    for (int64_t c = 0; c < C_; c += kTileDepth) {
      const int64_t n = std::min(kTileDepth, C_ - c);
      std::fill_n(sums_.data(), kTileRows * kTileDepth, 0.0f);
      for (int64_t k = 0; k < terms; k += kTileDepth) {
        kernels_.multiply_add(&tiles_[k / kTileDepth * kTileRows * kTileStride], rows, std::min(kTileDepth, terms - k),
                              &factors_[k * stride_ + c], stride_, padded(n), sums_.data(), kTileDepth, nullptr);
      }
      for (int64_t r = 0; r < rows; ++r) {
        points_.scale_from_float[tokens_.element](&sums_[r * kTileDepth], 1.0f, out + ((m + r) * C_ + c) * element_size, n);
      }
    }
  });
}

void Attention::add_query_gradients(int64_t t, float* out) {
  for (int64_t m = (M_ - 1) / kTokens * kTokens; m >= 0; m -= kTokens) {  // the last tokens are still in the cache
    const int64_t depth = std::min(kTokens, M_ - m);
    for (int64_t q = 0; q < num_queries_; ++q) {
      for (int64_t k = 0; k < depth; ++k) tiles_[q * kTileStride + k] = attention_[(m + k) * width_ + q];
    }
    for (int64_t c = 0; c < C_; c += kChannels) {
      const int64_t n = std::min(kChannels, C_ - c);
      for (int64_t k = 0; k < depth; ++k) tokens_.read(t, m + k, c, n, &sums_[k * kChannels]);
      for_each_tile(num_queries_, [&](int64_t q, int64_t rows) {
        kernels_.multiply_add(&tiles_[q * kTileStride], rows, depth, sums_.data(), kChannels, padded(n), out + q * stride_ + c, stride_,
                              nullptr);
      });
    }
  }
}

}  // namespace dynfocus::cpu
