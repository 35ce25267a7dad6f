// Weighted mean of each cluster's members, and its gradient. Sums run over the members in order of index, in float32, one thread per
// cluster: no atomics, the same bits on any number of threads.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops.h"
#include "points.h"

namespace dynfocus::cpu {

namespace {

using torch::headeronly::ScalarType;

// The members of each cluster of a batch of assignments [B, N], ascending, and each cluster's total weight.
struct Clusters {
  std::vector<int64_t> members;  // points of one sample after another, sorted by cluster, then index; those of no cluster left out
  std::vector<int64_t> start;    // [B * num_clusters + 1]: cluster m of sample b owns members [start[b * M + m], start[b * M + m + 1])
  std::vector<float> weight;     // [B * N]
  std::vector<float> total;      // [B * num_clusters]

  Clusters(const Tensor& x, const Tensor& assignment, int64_t num_clusters, const std::optional<Tensor>& weights) {
    STD_TORCH_CHECK(x.dim() == 3, "x must be [B, N, C]");
    STD_TORCH_CHECK(num_clusters >= 1, "num_clusters must be at least 1");
    const int64_t B = x.size(0), N = x.size(1);
    const auto is_batch_of_points = [&](const Tensor& t) { return t.dim() == 2 && t.size(0) == B && t.size(1) == N; };
    STD_TORCH_CHECK(is_batch_of_points(assignment) && assignment.scalar_type() == ScalarType::Long, "assignment must be int64 [B, N]");
    STD_TORCH_CHECK(!weights || is_batch_of_points(*weights), "weight must be [B, N]");

    const Tensor contiguous = torch::stable::contiguous(assignment);
    const int64_t* cluster = contiguous.const_data_ptr<int64_t>();
    start.assign(B * num_clusters + 1, 0);
    for (int64_t i = 0; i < B * N; ++i) {
      STD_TORCH_CHECK(cluster[i] >= -1 && cluster[i] < num_clusters, "assignment[", i / N, ", ", i % N, "] is ", cluster[i],
                      ", it must be -1 (no cluster) or below num_clusters=", num_clusters);
      if (cluster[i] >= 0) ++start[i / N * num_clusters + cluster[i] + 1];
    }
    for (size_t m = 1; m < start.size(); ++m) start[m] += start[m - 1];

    weight.assign(B * N, 1.0f);
    if (weights) {
      const Points as_points(torch::stable::unsqueeze(*weights, 2));
      for (int64_t i = 0; i < B * N; ++i) as_points.read(i / N, i % N, 0, 1, &weight[i]);
    }
    members.resize(start.back());
    total.assign(B * num_clusters, 0.0f);
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t i = 0; i < B * N; ++i) {
      if (cluster[i] < 0) continue;
      const int64_t m = i / N * num_clusters + cluster[i];
      members[next[m]++] = i % N;
      total[m] += weight[i];
    }
  }
};

void write(const float* from, ScalarType dtype, void* to, int64_t at, int64_t n) {
  for (int64_t c = 0; c < n; ++c) {
    if (dtype == ScalarType::Float) {
      static_cast<float*>(to)[at + c] = from[c];
    } else if (dtype == ScalarType::BFloat16) {
      static_cast<torch::headeronly::BFloat16*>(to)[at + c] = from[c];
    } else {
      static_cast<torch::headeronly::Half*>(to)[at + c] = from[c];
    }
  }
}

}  // namespace

// mean_m = sum_i w_i x_i / sum_i w_i over the members of m; 0 where the weights sum to 0.
Tensor cluster_mean(const Tensor& x, const Tensor& assignment, int64_t num_clusters, const std::optional<Tensor>& weight) {
  const Clusters clusters(x, assignment, num_clusters, weight);
  const Points points(x);
  const PointKernels& kernels = point_kernels();
  const int64_t B = points.batch, N = points.points, C = points.channels, M = num_clusters;
  Tensor mean = torch::stable::new_empty(x, {B, M, C});
  void* out = mean.mutable_data_ptr();
  torch::stable::parallel_for(0, B * M, 1, [&](int64_t begin, int64_t end) {
    float value[Points::kMaxRead], sum[Points::kMaxRead];
    for (int64_t m = begin; m < end; ++m) {
      for (int64_t c = 0; c < C; c += Points::kMaxRead) {
        const int64_t n = std::min(Points::kMaxRead, C - c), b = m / M;
        std::fill_n(sum, n, 0.0f);
        for (int64_t at = clusters.start[m]; at < clusters.start[m + 1]; ++at) {
          const int64_t i = clusters.members[at];
          points.read(b, i, c, n, value);
          kernels.add_scaled(sum, value, clusters.weight[b * N + i], n);
        }
        if (clusters.total[m] != 0.0f) {
          for (int64_t k = 0; k < n; ++k) sum[k] /= clusters.total[m];
        } else {
          std::fill_n(sum, n, 0.0f);
        }
        write(sum, x.scalar_type(), out, m * C + c, n);
      }
    }
  });
  return mean;
}

// With W = sum of w over the cluster of i and g its incoming gradient:
//   grad_x_i = w_i / W g        grad_w_i = g . (x_i - mean) / W = (g . x_i - sum_j w_j (g . x_j) / W) / W
std::tuple<Tensor, Tensor> cluster_mean_backward(const Tensor& grad, const Tensor& x, const Tensor& assignment,
                                                 const std::optional<Tensor>& weight) {
  STD_TORCH_CHECK(grad.dim() == 3 && x.dim() == 3 && grad.size(0) == x.size(0) && grad.size(2) == x.size(2),
                  "grad must be [B, num_clusters, C]");
  const int64_t M = grad.size(1);
  const Clusters clusters(x, assignment, M, weight);
  const Points points(x), gradients(grad);
  const int64_t B = points.batch, N = points.points, C = points.channels;
  Tensor grad_x = torch::stable::new_zeros(x, {B, N, C});
  Tensor grad_weight = weight ? torch::stable::new_zeros(*weight, {B, N}) : torch::stable::new_empty(x, {0});
  void* out_x = grad_x.mutable_data_ptr();
  void* out_weight = grad_weight.mutable_data_ptr();
  torch::stable::parallel_for(0, B * M, 1, [&](int64_t begin, int64_t end) {
    float g[Points::kMaxRead], value[Points::kMaxRead];
    std::vector<double> product;  // g . x_i per member, in double: the two terms of grad_w may nearly cancel
    for (int64_t m = begin; m < end; ++m) {
      const int64_t b = m / M, first = clusters.start[m], count = clusters.start[m + 1] - first;
      const float total = clusters.total[m];
      if (total == 0.0f) continue;
      product.assign(count, 0.0);
      for (int64_t c = 0; c < C; c += Points::kMaxRead) {
        const int64_t n = std::min(Points::kMaxRead, C - c);
        gradients.read(b, m % M, c, n, g);
        for (int64_t at = 0; at < count; ++at) {
          const int64_t i = clusters.members[first + at];
          if (weight) {
            points.read(b, i, c, n, value);
            for (int64_t k = 0; k < n; ++k) product[at] += static_cast<double>(g[k]) * value[k];
          }
          for (int64_t k = 0; k < n; ++k) value[k] = clusters.weight[b * N + i] / total * g[k];
          write(value, x.scalar_type(), out_x, (b * N + i) * C + c, n);
        }
      }
      if (!weight) continue;
      double mean = 0.0;
      for (int64_t at = 0; at < count; ++at) mean += clusters.weight[b * N + clusters.members[first + at]] * product[at];
      mean /= total;
      for (int64_t at = 0; at < count; ++at) {
        const float gradient = static_cast<float>((product[at] - mean) / total);
        write(&gradient, weight->scalar_type(), out_weight, b * N + clusters.members[first + at], 1);
      }
    }
  });
  return {grad_x, grad_weight};
}

}  // namespace dynfocus::cpu
