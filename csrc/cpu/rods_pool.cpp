// Attention pooling of each frame's tokens x [M, C] by the queries q [Q, C] of its row, their plain mean, and the gradient of both.
#include "rods_attention.h"

#include <torch/csrc/stable/ops.h>

#include <memory>

#include "huge_pages.h"
#include "ops.h"
#include "parallel.h"

namespace dynfocus::cpu {

namespace {

constexpr int64_t kMaxGroups = 16;      // of the frames of a row of queries; each has a partial sum of the queries' gradient
constexpr int64_t kGroupsAtATime = 64;  // whose partial sums are kept

// The frames that one task goes through: rows.frames[first], ..., all of one row.
struct Group {
  int64_t row, first, last;
};

double multiplications(const Points& tokens, const Rows& rows) {
  return static_cast<double>(tokens.batch * tokens.points * tokens.channels) * static_cast<double>(rows.most_queries + 1);
}

// The gradient of a row's queries from its groups' partial sums, added in their order; that of masked-out queries is 0.
class QueryGradients {
 public:
  QueryGradients(const Tensor& queries, const Rows& rows)
      : tensor_(torch::stable::new_zeros(queries, {queries.size(0), queries.size(1), queries.size(2)})), rows_(rows),
        element_(element_of(queries.scalar_type())), element_size_(queries.element_size()) {}

  void add_up(int64_t row, const float* const* partial, int64_t groups, int64_t stride) {
    const int64_t Q = tensor_.size(1), C = tensor_.size(2);
    char* out = static_cast<char*>(tensor_.mutable_data_ptr());
    torch::stable::parallel_for(0, rows_.num_queries(row), (1 << 15) / C + 1, [&](int64_t begin, int64_t end) {
      std::vector<float> sum(C);
      for (int64_t q = begin; q < end; ++q) {
        std::fill(sum.begin(), sum.end(), 0.0f);
        const void* terms[kMaxGroups];
        for (int64_t g = 0; g < groups; ++g) terms[g] = partial[g] + q * stride;
        kernels_.add_rows[kFloat32](terms, nullptr, groups, 0, sum.data(), C);
        kernels_.scale_from_float[element_](sum.data(), 1.0f, out + (row * Q + rows_.query(row, q)) * C * element_size_, C);
      }
    });
  }

  const Tensor& tensor() const { return tensor_; }

 private:
  Tensor tensor_;
  const Rows& rows_;
  const Element element_;
  const int64_t element_size_;
  const PointKernels& kernels_ = point_kernels();
};

}  // namespace

Tensor rods_pool(const Tensor& tokens, const Tensor& queries, const Tensor& frame_query, const std::optional<Tensor>& query_mask,
                 double scale) {
  STD_TORCH_CHECK(tokens.dim() == 3, "tokens must be [T, M, C]");
  STD_TORCH_CHECK(queries.dim() == 3, "queries must be [B, Q, C]");
  const Points points(tokens), query(queries);
  const Rows rows(points, query, frame_query, query_mask);
  const int64_t T = points.batch, C = points.channels, row_size = C * tokens.element_size();
  Tensor result = in_huge_pages(torch::stable::new_empty(tokens, {T, 2, C}));
  char* out = static_cast<char*>(result.mutable_data_ptr());
  const int64_t frames = std::clamp<int64_t>(T / (4 * torch::stable::get_num_threads()), 1, 8);  // of a task
  const auto make_state = [&] { return Attention(points, query, rows, static_cast<float>(scale)); };
  for_each_task((T + frames - 1) / frames, multiplications(points, rows), make_state, [&](int64_t task, Attention& attention) {
    const int64_t last = std::min((task + 1) * frames, T);
    for (int64_t i = task * frames; i < last; ++i) {
      const int64_t t = rows.frames[i];
      attention.ask(rows.row_of[t]);
      attention.attend(t, rows.frames[std::min(i + 1, last - 1)]);
      attention.pool(t, out + 2 * t * row_size, out + (2 * t + 1) * row_size);
    }
  });
  return result;
}

// The frames of a row of queries are dealt out to at most kMaxGroups groups, by their number alone. A group's sum for the queries runs
// over its frames in order and belongs to one thread; the groups' sums are added in order. Memory: kGroupsAtATime sums of [Q, C].
std::tuple<Tensor, Tensor> rods_pool_backward(const Tensor& grad, const Tensor& tokens, const Tensor& queries, const Tensor& frame_query,
                                              const std::optional<Tensor>& query_mask, double scale, bool needs_tokens,
                                              bool needs_queries) {
  STD_TORCH_CHECK(tokens.dim() == 3, "tokens must be [T, M, C]");
  STD_TORCH_CHECK(queries.dim() == 3, "queries must be [B, Q, C]");
  STD_TORCH_CHECK(grad.dim() == 3 && grad.size(0) == tokens.size(0) && grad.size(1) == 2 && grad.size(2) == tokens.size(2),
                  "grad must be [T, 2, C]");
  const Points points(tokens), query(queries), gradients(grad);
  const Rows rows(points, query, frame_query, query_mask);
  const int64_t T = points.batch, M = points.points, C = points.channels;
  Tensor grad_tokens = needs_tokens ? in_huge_pages(torch::stable::new_empty(tokens, {T, M, C})) : torch::stable::new_empty(tokens, {0});
  char* out = static_cast<char*>(grad_tokens.mutable_data_ptr());
  std::optional<QueryGradients> grad_queries;
  if (needs_queries) grad_queries.emplace(queries, rows);

  std::vector<Group> groups;
  for (int64_t row = 0; row < query.batch; ++row) {
    const int64_t first = rows.first_frame[row], frames = rows.first_frame[row + 1] - first;
    const int64_t count = needs_queries ? std::min(frames, kMaxGroups) : frames;
    for (int64_t g = 0; g < count; ++g) groups.push_back({row, first + g * frames / count, first + (g + 1) * frames / count});
  }
  const auto make_state = [&] { return Attention(points, query, rows, static_cast<float>(scale)); };
  const int64_t stride = padded(C), at_a_time = needs_queries ? kGroupsAtATime : T;
  std::vector<std::unique_ptr<float[]>> partial(needs_queries ? std::min<int64_t>(groups.size(), at_a_time) : 0);
  for (auto& sums : partial) sums = std::make_unique_for_overwrite<float[]>(rows.most_queries * stride);

  const int64_t num_groups = static_cast<int64_t>(groups.size());
  for (int64_t begin = 0, end; begin < num_groups; begin = end) {
    end = std::min(begin + at_a_time, num_groups);
    while (end < num_groups && groups[end].row == groups[end - 1].row) --end;  // whole rows
    const double work = 3.0 * multiplications(points, rows) * static_cast<double>(end - begin) / static_cast<double>(num_groups);
    for_each_task(end - begin, work, make_state, [&](int64_t task, Attention& attention) {
      const Group& group = groups[begin + task];
      attention.ask(group.row);
      if (needs_queries) std::fill_n(partial[task].get(), rows.num_queries(group.row) * stride, 0.0f);
      for (int64_t i = group.first; i < group.last; ++i) {
        const int64_t t = rows.frames[i];
        attention.attend(t, rows.frames[std::min(i + 1, group.last - 1)], &gradients);
        if (needs_tokens) attention.write_token_gradients(out + t * M * C * tokens.element_size());
        if (needs_queries) attention.add_query_gradients(t, partial[task].get());
      }
    });
    for (int64_t first = begin, last; needs_queries && first < end; first = last) {
      for (last = first; last < end && groups[last].row == groups[first].row;) ++last;
      const float* sums[kMaxGroups];
      for (int64_t g = first; g < last; ++g) sums[g - first] = partial[g - begin].get();
      grad_queries->add_up(groups[first].row, sums, last - first, stride);
    }
  }
  return {grad_tokens, needs_queries ? grad_queries->tensor() : torch::stable::new_empty(queries, {0})};
}

}  // namespace dynfocus::cpu
