// Attention of a frame's tokens x [M, C] to the queries q [Q, C] of its row:
//   A_q = softmax over m of scale q . x_m      a_m = mean over q of A_qm
// A frame belongs to one thread and is gone through in a fixed order: neither threads nor other frames change a bit of it. Masked-out
// queries are not there at all.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "panel_kernels.h"
#include "points.h"
#include "rods_kernels.h"

namespace dynfocus::cpu {

inline int64_t padded(int64_t n) { return (n + kPad - 1) / kPad * kPad; }

// Which frames ask with which queries.
struct Rows {
  std::vector<int64_t> row_of;                // of each frame
  std::vector<int64_t> frames, first_frame;   // row b has frames[first_frame[b]], ..., ascending
  std::vector<int64_t> queries, first_query;  // likewise its queries, less those masked out
  int64_t most_queries = 0;                   // of a row

  Rows(const Points& tokens, const Points& query, const torch::stable::Tensor& frame_query,
       const std::optional<torch::stable::Tensor>& query_mask);

  int64_t num_queries(int64_t row) const { return first_query[row + 1] - first_query[row]; }
  int64_t query(int64_t row, int64_t q) const { return queries[first_query[row] + q]; }
};

// One thread's work, a frame at a time. Memory: O(Q (C + M)) numbers.
class Attention {
 public:
  Attention(const Points& tokens, const Points& query, const Rows& rows, float scale);

  // Takes the queries of a row.
  void ask(int64_t row);

  // A and a of frame t; `next` is the frame that comes after. With gradients [T, 2, C] = (g_0, g_1) of the two results, and w the weight
  // of a query in the mean, also the logits' gradients: ds_qm = scale w A_qm (g_0 . x_m - sum_n A_qn g_0 . x_n).
  void attend(int64_t t, int64_t next, const Points* gradients = nullptr);

  // pooled = sum_m a_m x_m and mean = sum_m x_m / M, in the dtype of the tokens
  void pool(int64_t t, void* pooled, void* mean);

  // out[m] = sum_q ds_qm q + a_m g_0 + g_1 / M, in the dtype of the tokens
  void write_token_gradients(char* out);

  // out[q] += sum_m ds_qm x_m; out: [queries of the row, padded(C)]
  void add_query_gradients(int64_t t, float* out);

 private:
  Ahead what_follows(int64_t t, int64_t m, int64_t rows, int64_t c, int64_t next) const;

  const Points &tokens_, &query_;
  const Rows& rows_;
  const float scale_;
  const int64_t M_, C_, stride_;
  const PointKernels& points_;
  const RodsKernels& kernels_;
  int64_t row_ = -1, num_queries_ = 0, width_ = 0;
  std::vector<float> zeros_;      // [stride]
  std::vector<float> factors_;    // [Q + 2, stride]: the queries, then g_0 and g_1 / M
  std::vector<float> panels_;     // the queries in panels, [Q / kPanel, C, kPanel]
  std::vector<float> attention_;  // [M, width]: A, or ds
  std::vector<float> weights_;    // [M]: a
  std::vector<float> products_;   // [M]: g_0 . x_m
  std::vector<float> tiles_, sums_;
};

}  // namespace dynfocus::cpu
