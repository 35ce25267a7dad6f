// Weighted mean of each cluster's members, and its gradient. A sum runs over the members in order of index, in float32, in one thread:
// no atomics, the same bits on any number of threads.
#include "cluster_mean.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "huge_pages.h"
#include "ops.h"

namespace dynfocus::cpu {

namespace {

using torch::headeronly::ScalarType;

// Channels a thread averages at a time: whole rows, which memory gives fastest, unless there are too few means for all threads.
constexpr int64_t kMostChannels = 4096, kFewestChannels = 512;
constexpr int64_t kGrain = 1 << 15;  // numbers worth a thread's while

// The members of each cluster of a batch of assignments [B, N]; in each sample, those of no cluster come last, as cluster num_clusters.
struct Clusters {
  std::vector<int64_t> members;  // [B * N]: points of one sample after another, sorted by cluster, then index
  std::vector<int64_t> start;    // [B * (num_clusters + 1) + 1]: list m has members [start[m], start[m + 1])
  std::vector<int64_t> list;     // [B * N]: the list of each point
  std::vector<float> weight;     // [B * N], or empty where all are 1

  Clusters(const Tensor& assignment, int64_t B, int64_t N, int64_t num_clusters, const std::optional<Tensor>& weights) {
    STD_TORCH_CHECK(num_clusters >= 1, "num_clusters must be at least 1");
    const auto is_batch_of_points = [&](const Tensor& t) { return t.dim() == 2 && t.size(0) == B && t.size(1) == N; };
    STD_TORCH_CHECK(is_batch_of_points(assignment) && assignment.scalar_type() == ScalarType::Long, "assignment must be int64 [B, N]");
    STD_TORCH_CHECK(!weights || is_batch_of_points(*weights), "weight must be [B, N]");

    const Tensor contiguous = torch::stable::contiguous(assignment);
    const int64_t* cluster = contiguous.const_data_ptr<int64_t>();
    list.resize(B * N);
    start.assign(B * (num_clusters + 1) + 1, 0);
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t i = 0; i < N; ++i) {
        STD_TORCH_CHECK(cluster[b * N + i] >= -1 && cluster[b * N + i] < num_clusters, "assignment[", b, ", ", i, "] is ",
                        cluster[b * N + i], ", it must be -1 (no cluster) or below num_clusters=", num_clusters);
        list[b * N + i] = b * (num_clusters + 1) + (cluster[b * N + i] < 0 ? num_clusters : cluster[b * N + i]);
        ++start[list[b * N + i] + 1];
      }
    }
    for (size_t m = 1; m < start.size(); ++m) start[m] += start[m - 1];
    members.resize(B * N);
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t i = 0; i < N; ++i) members[next[list[b * N + i]]++] = i;
    }
    if (weights) {
      weight.resize(B * N);
      const Points as_points(torch::stable::unsqueeze(*weights, 2));
      for (int64_t i = 0; i < B * N; ++i) as_points.read(i / N, i % N, 0, 1, &weight[i]);
    }
  }

  const int64_t* first(int64_t list) const { return members.data() + start[list]; }
  int64_t count(int64_t list) const { return start[list + 1] - start[list]; }
  const float* weights(int64_t first_of_sample) const { return weight.empty() ? nullptr : weight.data() + first_of_sample; }
};

float total_weight(const int64_t* members, int64_t count, const float* weights) {
  if (weights == nullptr) return static_cast<float>(count);
  float total = 0.0f;
  for (int64_t at = 0; at < count; ++at) total += weights[members[at]];
  return total;
}

}  // namespace

void mean_of_members(const Points& x, int64_t b, const int64_t* members, int64_t count, const float* weights, int64_t c, int64_t n,
                     float* mean, int64_t num_ahead, float epsilon) {
  constexpr int64_t kRows = 64, kAhead = 8;
  const PointKernels& kernels = point_kernels();
  std::fill_n(mean, n, 0.0f);
  const float total = total_weight(members, count, weights) + epsilon;
  if (total == 0.0f) return;
  const void* rows[kRows + kAhead];
  float row_weights[kRows];
  std::vector<float> value(x.in_place() ? 0 : n);
  for (int64_t at = 0; at < count; at += kRows) {
    const int64_t num_rows = std::min(kRows, count - at), ahead = std::min(kAhead, count + num_ahead - at - num_rows);
    for (int64_t r = 0; r < num_rows + ahead; ++r) rows[r] = x.at(b, members[at + r], c);
    for (int64_t r = 0; r < num_rows && weights != nullptr; ++r) row_weights[r] = weights[members[at + r]];
    if (x.in_place()) {
      kernels.add_rows[x.element](rows, weights == nullptr ? nullptr : row_weights, num_rows, ahead, mean, n);
      continue;
    }
    for (int64_t r = 0; r < num_rows; ++r) {
      const void* row = value.data();
      x.read(b, members[at + r], c, n, value.data());
      kernels.add_rows[kFloat32](&row, weights == nullptr ? nullptr : &row_weights[r], 1, 0, mean, n);
    }
  }
  kernels.divide(mean, total, n);
}

// mean_m = sum_i w_i x_i / (epsilon + sum_i w_i) over the members of m; 0 where that is divided by 0.
Tensor cluster_mean(const Tensor& x, const Tensor& assignment, int64_t num_clusters, const std::optional<Tensor>& weight, double epsilon) {
  STD_TORCH_CHECK(x.dim() == 3, "x must be [B, N, C]");
  const Points points(x);
  const int64_t B = points.batch, N = points.points, C = points.channels, M = num_clusters;
  const Clusters clusters(assignment, B, N, M, weight);
  const PointKernels& kernels = point_kernels();
  Tensor mean = in_huge_pages(torch::stable::new_empty(x, {B, M, C}));
  char* out = static_cast<char*>(mean.mutable_data_ptr());
  const bool are_enough = B * M >= 4 * static_cast<int64_t>(torch::stable::get_num_threads());
  const int64_t chunk = are_enough ? kMostChannels : kFewestChannels, chunks = (C + chunk - 1) / chunk;
  const int64_t element_size = static_cast<int64_t>(x.element_size());
  const int64_t numbers = N * std::min(C, chunk) / M + 1;  // in a task, on average
  torch::stable::parallel_for(0, B * chunks * M, kGrain / numbers + 1, [&](int64_t begin, int64_t end) {
    float sum[kMostChannels];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / (chunks * M), c = task / M % chunks * chunk, m = task % M, n = std::min(chunk, C - c);
      const int64_t list = b * (M + 1) + m;
      const int64_t ahead = clusters.start[(b + 1) * (M + 1)] - clusters.start[list + 1];  // of the same sample
      mean_of_members(points, b, clusters.first(list), clusters.count(list), clusters.weights(b * N), c, n, sum, ahead,
                      static_cast<float>(epsilon));
      kernels.scale_from_float[points.element](sum, 1.0f, out + ((b * M + m) * C + c) * element_size, n);
    }
  });
  return mean;
}

// With W = epsilon + sum of w over the cluster of i and g its incoming gradient:
//   grad_x_i = w_i / W g        grad_w_i = g . (x_i - mean) / W = (g . x_i - sum_j w_j (g . x_j) / W) / W
// The products are in double: the two terms of grad_w may nearly cancel. Without x there is no grad_w.
std::tuple<Tensor, Tensor> cluster_mean_backward(const Tensor& grad, const std::optional<Tensor>& x, const Tensor& assignment,
                                                 const std::optional<Tensor>& weight, double epsilon) {
  STD_TORCH_CHECK(grad.dim() == 3, "grad must be [B, num_clusters, C]");
  STD_TORCH_CHECK(assignment.dim() == 2, "assignment must be [B, N]");
  const Points gradients(grad);
  const int64_t B = gradients.batch, M = gradients.points, C = gradients.channels, N = assignment.size(1);
  STD_TORCH_CHECK(!x || (x->dim() == 3 && x->size(0) == B && x->size(1) == N && x->size(2) == C), "x must be [B, N, C]");
  const Clusters clusters(assignment, B, N, M, weight);
  const bool wants_weight = x && weight;
  const std::optional<Points> points = wants_weight ? std::optional<Points>(*x) : std::nullopt;
  std::vector<float> total(B * (M + 1));
  for (int64_t list = 0; list < B * (M + 1); ++list) {
    if (list % (M + 1) == M) continue;  // nobody's
    const float* weights = clusters.weights(list / (M + 1) * N);
    total[list] = total_weight(clusters.first(list), clusters.count(list), weights) + static_cast<float>(epsilon);
  }

  Tensor grad_x = in_huge_pages(torch::stable::new_empty(grad, {B, N, C}));
  char* out = static_cast<char*>(grad_x.mutable_data_ptr());
  const int64_t row_size = C * static_cast<int64_t>(grad.element_size());
  const PointKernels& kernels = point_kernels();
  std::vector<double> product(wants_weight ? B * N : 0);  // g . x_i
  // By clusters, whose members share w_i / W g where all weights are 1; else by points, so that x is read in the order it lies in.
  torch::stable::parallel_for(0, B * N, kGrain / C + 1, [&](int64_t begin, int64_t end) {
    std::vector<float> g_buffer(C), x_buffer(wants_weight ? C : 0);
    std::vector<char> row(weight ? 0 : row_size);
    const float* g = nullptr;
    int64_t list = -1;
    for (int64_t at = begin; at < end; ++at) {
      const int64_t b = at / N, i = weight ? at % N : clusters.members[at], previous = std::exchange(list, clusters.list[b * N + i]);
      char* const grad_row = out + (b * N + i) * row_size;
      if (total[list] == 0.0f) {
        std::memset(grad_row, 0, row_size);
        continue;
      }
      if (g == nullptr || list != previous) {
        g = gradients.run(b, list % (M + 1), 0, C, g_buffer.data());
        if (!weight) kernels.scale_from_float[gradients.element](g, 1.0f / total[list], row.data(), C);
      }
      if (weight) {
        kernels.scale_from_float[gradients.element](g, clusters.weight[b * N + i] / total[list], grad_row, C);
      } else {
        std::memcpy(grad_row, row.data(), row_size);
      }
      if (wants_weight) product[b * N + i] = kernels.dot(g, points->run(b, i, 0, C, x_buffer.data()), C);
    }
  });
  if (!wants_weight) return {grad_x, torch::stable::new_empty(grad, {0})};

  Tensor grad_weight = torch::stable::new_zeros(*weight, {B, N});
  char* out_weight = static_cast<char*>(grad_weight.mutable_data_ptr());
  const Element element = element_of(weight->scalar_type());
  for (int64_t list = 0; list < B * (M + 1); ++list) {
    if (total[list] == 0.0f) continue;
    const int64_t sample = list / (M + 1) * N;
    double mean = 0.0;
    for (int64_t at = clusters.start[list]; at < clusters.start[list + 1]; ++at) {
      const int64_t i = sample + clusters.members[at];
      mean += clusters.weight[i] * product[i];
    }
    mean /= total[list];
    for (int64_t at = clusters.start[list]; at < clusters.start[list + 1]; ++at) {
      const int64_t i = sample + clusters.members[at];
      const float gradient = static_cast<float>((product[i] - mean) / total[list]);
      kernels.scale_from_float[element](&gradient, 1.0f, out_weight + i * weight->element_size(), 1);
    }
  }
  return {grad_x, grad_weight};
}

}  // namespace dynfocus::cpu
