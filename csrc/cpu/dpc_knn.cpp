// Density-peaks clustering with k nearest neighbours, in three passes over fixed distance tiles:
//   log rho_i = -mean of the k smallest d^2(i, .)             all pairs
//   delta_i   = distance to the nearest denser point          the pairs (i, denser than i), half of all
//   nearest centre                                            N x num_clusters pairs
// A tile of rows belongs to one thread and goes through its columns in a fixed order, so neither the number of threads nor the other
// samples of the batch change a bit of the result. Extra memory: O(N) per sample, and per thread kTileRows * k distances and one tile.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "distance_tile.h"
#include "ops.h"
#include "variants.h"

namespace dynfocus::cpu {

DYNFOCUS_CHOOSE_VARIANT(DistanceKernels, distance_kernels)

namespace {

using torch::headeronly::ScalarType;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// One sample of the batch: its valid points, later ordered by density, and its row of each result.
struct Sample {
  int64_t b;
  std::vector<int64_t> valid;            // ascending
  std::vector<int64_t> by_density;       // the same points: log rho descending, then index ascending
  std::vector<float> largest;            // per tile of rows: its largest squared distance
  int64_t *assignment, *centers;         // [N], [num_clusters]
  float *log_density, *delta;            // [N]

  int64_t size() const { return static_cast<int64_t>(valid.size()); }
  int64_t tiles() const { return (size() + kTileRows - 1) / kTileRows; }
};

// Runs body(sample, first, last, tile) for every tile of rows [first, last) of every sample; a Tile is made once per thread and range.
// Within a sample the tiles go first, last, second, ...: the density order makes later ones dearer, and each thread takes neighbours.
template <class MakeTile, class Body>
void for_each_tile(std::vector<Sample>& samples, const MakeTile& make_tile, const Body& body) {
  std::vector<std::pair<Sample*, int64_t>> tasks;
  for (Sample& sample : samples) {
    const int64_t tiles = sample.tiles();
    for (int64_t t = 0; t < tiles; ++t) tasks.emplace_back(&sample, t % 2 == 0 ? t / 2 : tiles - 1 - t / 2);
  }
  torch::stable::parallel_for(0, static_cast<int64_t>(tasks.size()), 1, [&](int64_t begin, int64_t end) {
    auto tile = make_tile();
    for (int64_t t = begin; t < end; ++t) {
      Sample& sample = *tasks[t].first;
      const int64_t first = tasks[t].second * kTileRows;
      body(sample, first, std::min(first + kTileRows, sample.size()), tile);
    }
  });
}

// The k smallest values seen, ascending. A NaN is remembered: it must reach the result and not be passed over by a comparison.
class Smallest {
 public:
  explicit Smallest(int64_t k) : values_(k) {}

  void clear() {
    std::fill(values_.begin(), values_.end(), kInfinity);
    has_nan_ = false;
  }

  void add(float value) {
    if (value < values_.back()) {
      const auto at = std::upper_bound(values_.begin(), values_.end(), value);
      std::copy_backward(at, values_.end() - 1, values_.end());
      *at = value;
    } else if (std::isnan(value)) {
      has_nan_ = true;
    }
  }

  double mean() const {
    if (has_nan_) return kNaN;
    return std::accumulate(values_.begin(), values_.end(), 0.0) / static_cast<double>(values_.size());
  }

 private:
  std::vector<float> values_;
  bool has_nan_ = false;
};

// log(e^a + n) for n >= 0; n = 0 changes no bit.
float log_add(float a, float n) {
  if (n == 0.0f) return a;
  const double low = std::min<double>(a, std::log(n)), high = std::max<double>(a, std::log(n));
  return std::isnan(a) || std::isnan(n) ? kNaN : static_cast<float>(high + std::log1p(std::exp(low - high)));
}

void find_density(std::vector<Sample>& samples, const Points& x, int64_t k, double scale, const float* noise) {
  struct Tile {
    DistanceTile distances;
    std::vector<Smallest> nearest;
  };
  const auto make_tile = [&] { return Tile{DistanceTile(x), std::vector<Smallest>(kTileRows, Smallest(k))}; };
  for_each_tile(samples, make_tile, [&](Sample& sample, int64_t first, int64_t last, Tile& tile) {
    for (int64_t i = first; i < last; ++i) tile.nearest[i - first].clear();
    float largest = 0.0f;
    for (int64_t j = 0; j < sample.size(); j += kTileColumns) {
      const int64_t columns = std::min(kTileColumns, sample.size() - j);
      const float* squared = tile.distances.squared(sample.b, &sample.valid[first], last - first, &sample.valid[j], columns);
      for (int64_t r = 0; r < last - first; ++r) {
        for (int64_t c = 0; c < columns; ++c) {
          tile.nearest[r].add(squared[r * kTileColumns + c]);
          largest = std::max(largest, squared[r * kTileColumns + c]);
        }
      }
    }
    for (int64_t i = first; i < last; ++i) {
      const int64_t point = sample.valid[i];
      const float density = static_cast<float>(-tile.nearest[i - first].mean() / scale);
      sample.log_density[point] = noise == nullptr ? density : log_add(density, noise[sample.b * x.points + point]);
    }
    sample.largest[first / kTileRows] = largest;
  });
}

// Runs body(sample) for every sample.
template <class Body>
void for_each_sample(std::vector<Sample>& samples, const Body& body) {
  torch::stable::parallel_for(0, static_cast<int64_t>(samples.size()), 16, [&](int64_t begin, int64_t end) {
    std::for_each(samples.begin() + begin, samples.begin() + end, body);
  });
}

void sort_by_density(std::vector<Sample>& samples) {
  for_each_sample(samples, [](Sample& sample) {
    sample.by_density = sample.valid;
    std::stable_sort(sample.by_density.begin(), sample.by_density.end(),
                     [&](int64_t i, int64_t j) { return sample.log_density[i] > sample.log_density[j]; });
  });
}

void find_delta(std::vector<Sample>& samples, const Points& x, double scale) {
  const auto make_tile = [&] { return DistanceTile(x); };
  for_each_tile(samples, make_tile, [&](Sample& sample, int64_t first, int64_t last, DistanceTile& distances) {
    const std::vector<int64_t>& order = sample.by_density;
    std::vector<float> nearest(last - first, kInfinity);
    for (int64_t j = 0; j < last; j += kTileColumns) {
      const int64_t columns = std::min(kTileColumns, last - j);
      const float* squared = distances.squared(sample.b, &order[first], last - first, &order[j], columns);
      for (int64_t i = first; i < last; ++i) {
        for (int64_t c = 0; c < std::min(columns, i - j); ++c) {
          nearest[i - first] = std::min(nearest[i - first], squared[(i - first) * kTileColumns + c]);
        }
      }
    }
    if (first == 0) nearest[0] = *std::max_element(sample.largest.begin(), sample.largest.end());
    for (int64_t i = first; i < last; ++i) {
      sample.delta[order[i]] = static_cast<float>(std::sqrt(nearest[i - first] / scale));
    }
  });
}

// score = log rho + log delta; centres by score descending, then index ascending.
void choose_centers(std::vector<Sample>& samples, int64_t num_clusters) {
  for_each_sample(samples, [&](Sample& sample) {
    std::vector<std::pair<float, int64_t>> ranked;
    for (int64_t point : sample.valid) ranked.emplace_back(-(sample.log_density[point] + std::log(sample.delta[point])), point);
    std::partial_sort(ranked.begin(), ranked.begin() + num_clusters, ranked.end());
    for (int64_t m = 0; m < num_clusters; ++m) sample.centers[m] = ranked[m].second;
  });
}

void assign(std::vector<Sample>& samples, const Points& x, int64_t num_clusters) {
  const auto make_tile = [&] { return DistanceTile(x); };
  for_each_tile(samples, make_tile, [&](Sample& sample, int64_t first, int64_t last, DistanceTile& distances) {
    std::vector<float> nearest(last - first, kInfinity);
    for (int64_t i = first; i < last; ++i) sample.assignment[sample.valid[i]] = 0;
    for (int64_t m = 0; m < num_clusters; m += kTileColumns) {
      const int64_t columns = std::min(kTileColumns, num_clusters - m);
      const float* squared = distances.squared(sample.b, &sample.valid[first], last - first, sample.centers + m, columns);
      for (int64_t r = 0; r < last - first; ++r) {
        for (int64_t c = 0; c < columns; ++c) {
          if (squared[r * kTileColumns + c] < nearest[r]) {
            nearest[r] = squared[r * kTileColumns + c];
            sample.assignment[sample.valid[first + r]] = m + c;
          }
        }
      }
    }
  });
  for (Sample& sample : samples) {
    for (int64_t m = 0; m < num_clusters; ++m) sample.assignment[sample.centers[m]] = m;
  }
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> dpc_knn(const Tensor& x, int64_t num_clusters, int64_t k, const std::optional<Tensor>& mask,
                                                   double distance_scale, const std::optional<Tensor>& noise) {
  STD_TORCH_CHECK(x.dim() == 3, "x must be [B, N, C]");
  STD_TORCH_CHECK(num_clusters >= 1 && k >= 1, "num_clusters and k must be at least 1");
  STD_TORCH_CHECK(distance_scale > 0, "distance_scale must be positive");
  const Points points(x);
  const int64_t B = points.batch, N = points.points;
  const auto is_batch_of_points = [&](const Tensor& t) { return t.dim() == 2 && t.size(0) == B && t.size(1) == N; };
  STD_TORCH_CHECK(!mask || (is_batch_of_points(*mask) && mask->scalar_type() == ScalarType::Bool), "mask must be bool [B, N]");
  STD_TORCH_CHECK(!noise || (is_batch_of_points(*noise) && noise->scalar_type() == ScalarType::Float), "noise must be float32 [B, N]");

  Tensor assignment = torch::stable::new_empty(x, {B, N}, ScalarType::Long);
  Tensor centers = torch::stable::new_empty(x, {B, num_clusters}, ScalarType::Long);
  Tensor log_density = torch::stable::new_empty(x, {B, N}, ScalarType::Float);
  Tensor delta = torch::stable::new_empty(x, {B, N}, ScalarType::Float);
  std::fill_n(assignment.mutable_data_ptr<int64_t>(), B * N, -1);
  std::fill_n(centers.mutable_data_ptr<int64_t>(), B * num_clusters, -1);
  std::fill_n(log_density.mutable_data_ptr<float>(), B * N, -kInfinity);
  std::fill_n(delta.mutable_data_ptr<float>(), B * N, 0.0f);

  std::vector<Sample> samples(B);
  const Tensor mask_values = mask ? torch::stable::contiguous(*mask) : Tensor();
  const bool* is_valid = mask ? mask_values.const_data_ptr<bool>() : nullptr;
  for (int64_t b = 0; b < B; ++b) {
    Sample& sample = samples[b];
    sample.b = b;
    for (int64_t i = 0; i < N; ++i) {
      if (is_valid == nullptr || is_valid[b * N + i]) sample.valid.push_back(i);
    }
    STD_TORCH_CHECK(k <= sample.size() && num_clusters <= sample.size(), "sample ", b, " has ", sample.size(),
                    " valid points, fewer than k=", k, " or num_clusters=", num_clusters);
    sample.largest.resize(sample.tiles());
    sample.assignment = assignment.mutable_data_ptr<int64_t>() + b * N;
    sample.centers = centers.mutable_data_ptr<int64_t>() + b * num_clusters;
    sample.log_density = log_density.mutable_data_ptr<float>() + b * N;
    sample.delta = delta.mutable_data_ptr<float>() + b * N;
  }

  const Tensor noise_values = noise ? torch::stable::contiguous(*noise) : Tensor();
  find_density(samples, points, k, distance_scale, noise ? noise_values.const_data_ptr<float>() : nullptr);

  // Points that are not finite have no order: such a sample keeps its log_density, for the caller to refuse, and gets no clusters.
  std::erase_if(samples, [](const Sample& sample) {
    return std::any_of(sample.valid.begin(), sample.valid.end(), [&](int64_t i) { return !std::isfinite(sample.log_density[i]); });
  });
  sort_by_density(samples);
  find_delta(samples, points, distance_scale);
  choose_centers(samples, num_clusters);
  assign(samples, points, num_clusters);
  return {assignment, centers, log_density, delta};
}

}  // namespace dynfocus::cpu
