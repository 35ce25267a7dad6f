// The samples of a batch of points, for the clustering ops. Samples are independent: where there are enough of them a thread takes one at
// a time, else all threads share one.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "neighborhood.h"
#include "parallel.h"
#include "points.h"

namespace dynfocus::cpu {

// The points of one sample that are not masked out, as rows of x[b].
struct Sample {
  int64_t b;
  std::vector<int64_t> points;

  int64_t size() const { return static_cast<int64_t>(points.size()); }
};

inline bool is_batch_of_points(const torch::stable::Tensor& t, const Points& x) { return t.dim() == 2 && t.size(0) == x.batch && t.size(1) == x.points; }

// Rows [first, last) of x[b], less those that mask leaves out.
inline Sample make_sample(int64_t b, int64_t first, int64_t last, const bool* mask) {
  Sample sample{b, {}};
  sample.points.reserve(last - first);
  for (int64_t i = first; i < last; ++i) {
    if (mask == nullptr || mask[i]) sample.points.push_back(i);
  }
  return sample;
}

// The mask of all samples, contiguous; of no elements where there is none.
inline torch::stable::Tensor mask_values(const std::optional<torch::stable::Tensor>& mask, const Points& x) {
  if (!mask) return torch::stable::Tensor();
  STD_TORCH_CHECK(is_batch_of_points(*mask, x) && mask->scalar_type() == torch::headeronly::ScalarType::Bool,
                  "mask must be bool, one for each point of x");
  return torch::stable::contiguous(*mask);
}

// The samples of a batch x [B, N, C] with its mask [B, N].
inline std::vector<Sample> batch_samples(const Points& x, const std::optional<torch::stable::Tensor>& mask) {
  const torch::stable::Tensor values = mask_values(mask, x);
  std::vector<Sample> samples;
  for (int64_t b = 0; b < x.batch; ++b) {
    samples.push_back(make_sample(b, 0, x.points, mask ? values.const_data_ptr<bool>() + b * x.points : nullptr));
  }
  return samples;
}

// Calls body(s, scratch) for each of `count` samples.
template <class Body>
void for_each_sample(int64_t count, double work, const Body& body) {
  if (count >= 4 * static_cast<int64_t>(torch::stable::get_num_threads())) {
    for_each_task(count, work, [] { return Scratch(); }, body);
  } else {
    Scratch scratch;
    scratch.num_threads = static_cast<int64_t>(torch::stable::get_num_threads());
    for (int64_t s = 0; s < count; ++s) body(s, scratch);
  }
}

// The multiplications of all their pairs of points.
inline double pair_work(const std::vector<Sample>& samples, const Points& x) {
  double work = 0.0;
  for (const Sample& sample : samples) work += 0.5 * static_cast<double>(sample.size() * sample.size() * x.channels);
  return work;
}

// The values of a sample's points among all of its row.
inline std::vector<float> gather(const std::vector<int64_t>& points, const float* values) {
  std::vector<float> gathered(points.size());
  for (size_t i = 0; i < points.size(); ++i) gathered[i] = values[points[i]];
  return gathered;
}

template <class From, class To>
void scatter(const std::vector<int64_t>& points, const std::vector<From>& values, To* to) {
  for (size_t i = 0; i < points.size(); ++i) to[points[i]] = values[i];
}

template <class T>
torch::stable::Tensor filled(const torch::stable::Tensor& like, std::initializer_list<int64_t> shape, torch::headeronly::ScalarType dtype,
                             T value) {
  torch::stable::Tensor tensor = torch::stable::new_empty(like, shape, dtype);
  std::fill_n(tensor.mutable_data_ptr<T>(), tensor.numel(), value);
  return tensor;
}

// The noise of all samples, contiguous; of no elements where there is none.
inline torch::stable::Tensor noise_values(const std::optional<torch::stable::Tensor>& noise, const Points& x) {
  if (!noise) return torch::stable::Tensor();
  STD_TORCH_CHECK(is_batch_of_points(*noise, x) && noise->scalar_type() == torch::headeronly::ScalarType::Float,
                  "noise must be float32, one number for each point of x");
  return torch::stable::contiguous(*noise);
}

inline void check_counts(const Sample& sample, int64_t s, int64_t num_clusters, int64_t k) {
  STD_TORCH_CHECK(num_clusters >= 1 && k >= 1, "num_clusters and k must be at least 1");
  STD_TORCH_CHECK(k <= sample.size() && num_clusters <= sample.size(), "sample ", s, " has ", sample.size(), " valid points, fewer than k=", k,
                  " or num_clusters=", num_clusters);
}

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

}  // namespace dynfocus::cpu
