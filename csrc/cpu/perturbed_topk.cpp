// The perturbed top-k indicator and its gradient: noise is drawn tile by tile, in the forward pass and again in the backward pass.
//
// A draw is one row of noise; it serves one sample or, antithetic, the two samples with Z and -Z. Counts are integers, so that their
// order is free. Sums over draws are split into chunks that depend on the shape alone, in double: the same bits on any number of threads.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "normal_kernels.h"
#include "ops.h"
#include "parallel.h"
#include "topk_kernels.h"
#include "variants.h"

namespace dynfocus::cpu {

DYNFOCUS_CHOOSE_VARIANT(NormalKernels, normal_kernels)
DYNFOCUS_CHOOSE_VARIANT(TopkKernels, topk_kernels)

namespace {

using torch::headeronly::ScalarType;

constexpr int64_t kTile = 4096;            // numbers of noise at a time
constexpr int64_t kBlock = 1 << 20;        // indices kept between choosing and counting
constexpr int64_t kSlots = 8;              // rows of counts that one thread fills at a time
constexpr int64_t kMaxChunks = 32;         // parts of the sums over the draws of a row
constexpr int64_t kChunkDraws = 8;         // the fewest in such a part: its sums take the memory of four draws
constexpr int64_t kPartialSums = 1 << 22;  // of all rows in work, in numbers
constexpr double kWorkPerNormal = 200.0;   // to draw a number and to choose, in multiplications

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

Tensor as_float(const Tensor& x) { return torch::stable::contiguous(torch::stable::to(x, ScalarType::Float)); }

uint64_t value_of(const Tensor& seed) {
  STD_TORCH_CHECK(seed.scalar_type() == ScalarType::Long && seed.numel() == 1, "seed must be one int64");
  return static_cast<uint64_t>(*seed.const_data_ptr<int64_t>());
}

class Samples {
 public:
  Samples(const Tensor& scores, int64_t k, int64_t num_samples, double sigma, const std::optional<Tensor>& seed,
          const std::optional<Tensor>& noise, bool antithetic)
      : k(k),
        num_samples(num_samples),
        signs(antithetic ? 2 : 1),
        all_scores_(check_scores(scores)),
        all_noise_(noise ? std::optional(as_float(*noise)) : std::nullopt),
        scores_(all_scores_.const_data_ptr<float>()),
        sigma_(static_cast<float>(sigma)) {
    STD_TORCH_CHECK(k >= 1 && k <= scores.size(1), "k is ", k, ", it must be from 1 to the length of scores, ", scores.size(1));
    STD_TORCH_CHECK(num_samples >= 1 && num_samples % signs == 0, "num_samples is ", num_samples,
                    ", it must be at least 1, and even with antithetic");
    STD_TORCH_CHECK(sigma > 0.0, "sigma is ", sigma, ", it must be positive");
    batch = scores.size(0);
    length = scores.size(1);
    draws = num_samples / signs;
    tile_draws = std::clamp<int64_t>(kTile / length, 1, draws);
    if (noise) {
      STD_TORCH_CHECK(!antithetic && noise->dim() == 3 && noise->size(0) == batch && noise->size(1) == num_samples &&
                          noise->size(2) == length,
                      "noise must be [B, num_samples, L], without antithetic");
      noise_ = all_noise_->const_data_ptr<float>();
    } else {
      STD_TORCH_CHECK(seed, "seed must be one int64, or noise given");
      seed_ = value_of(*seed);
    }
  }

  // What one thread works in.
  struct Scratch {
    explicit Scratch(const Samples& samples)
        : noise(samples.tile_draws * samples.length + kNormalsPadding),
          keys(samples.length + kTopkPadding),
          chosen(samples.length + kTopkPadding) {}
    std::vector<float> noise;
    std::vector<int32_t> keys, chosen;
  };

  // Z [count, L] of draws [draw, draw + count) of row b, count <= tile_draws.
  const float* noise(int64_t b, int64_t draw, int64_t count, Scratch& scratch) const {
    const int64_t first = (b * num_samples + draw) * length;
    if (noise_ != nullptr) return noise_ + first;
    normals_.normals(static_cast<uint64_t>(first), seed_, count * length, scratch.noise.data());
    return scratch.noise.data();
  }

  // The indices [k] of the top-k of scores + sigma z, or of scores - sigma z for sign 1, ascending.
  const int32_t* choose(int64_t b, const float* z, int64_t sign, Scratch& scratch) const {
    const float scale = sign == 0 ? sigma_ : -sigma_;
    topk_.perturbed_topk(scores_ + b * length, z, scale, length, k, scratch.keys.data(), scratch.chosen.data());
    return scratch.chosen.data();
  }

  int64_t k, num_samples, signs, batch, length, draws, tile_draws;

 private:
  static Tensor check_scores(const Tensor& scores) {
    STD_TORCH_CHECK(scores.dim() == 2 && scores.size(1) > 0, "scores must be [B, L]");
    const ScalarType dtype = scores.scalar_type();
    STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half,
                    "scores has an unsupported dtype, it must be float32, bfloat16 or float16");
    return as_float(scores);
  }

  Tensor all_scores_;
  std::optional<Tensor> all_noise_;
  const float* scores_;
  const float* noise_ = nullptr;  // none: drawn from the seed
  uint64_t seed_ = 0;
  float sigma_;
  const NormalKernels& normals_ = normal_kernels();
  const TopkKernels& topk_ = topk_kernels();
};

// Writes the choices of draws [first, last), numbered over all rows, to chosen [last - first, signs, k].
void choose_block(const Samples& samples, int64_t first, int64_t last, int32_t* chosen) {
  const int64_t per_draw = samples.signs * samples.k, tiles = ceil_div(last - first, samples.tile_draws);
  const auto make_scratch = [&] { return Samples::Scratch(samples); };
  for_each_task(tiles, kWorkPerNormal * (last - first) * samples.length, make_scratch, [&](int64_t tile, Samples::Scratch& scratch) {
    int64_t at = first + tile * samples.tile_draws;
    const int64_t end = std::min(last, at + samples.tile_draws);
    while (at < end) {  // a tile may reach into the next row
      const int64_t b = at / samples.draws, draw = at % samples.draws, count = std::min(samples.draws - draw, end - at);
      const float* z = samples.noise(b, draw, count, scratch);
      for (int64_t i = 0; i < count * samples.signs; ++i) {
        const int32_t* indices = samples.choose(b, z + i / samples.signs * samples.length, i % samples.signs, scratch);
        std::memcpy(chosen + (at - first) * per_draw + i * samples.k, indices, samples.k * sizeof(int32_t));
      }
      at += count;
    }
  });
}

// Counts the choices of draws [first, last) into counts [B, k, L]: starts a row with its first draw and, with its last, turns counts into
// means, in place: both are 4 bytes.
void count_block(const Samples& samples, int64_t first, int64_t last, const int32_t* chosen, void* counts) {
  const int64_t k = samples.k, length = samples.length, groups = ceil_div(k, kSlots);
  const int64_t first_row = first / samples.draws, rows = (last - 1) / samples.draws + 1 - first_row;
  const double work = static_cast<double>(20 * (last - first) * samples.signs * k + rows * k * length);
  for_each_task(rows * groups, work, [] { return 0; }, [&](int64_t task, int) {
    const int64_t b = first_row + task / groups, slot = task % groups * kSlots, slots = std::min(kSlots, k - slot);
    int32_t* count = static_cast<int32_t*>(counts) + (b * k + slot) * length;
    const int64_t row_begin = b * samples.draws, row_end = row_begin + samples.draws;
    if (row_begin >= first) std::fill_n(count, slots * length, 0);
    const int32_t* choice = chosen + (std::max(first, row_begin) - first) * samples.signs * k + slot;
    const int32_t* end = chosen + (std::min(last, row_end) - first) * samples.signs * k;
    for (; choice < end; choice += k) {
      for (int64_t j = 0; j < slots; ++j) ++count[j * length + choice[j]];
    }
    if (row_end > last) return;
    for (int64_t i = 0; i < slots * length; ++i) {
      const float mean = static_cast<float>(count[i]) / static_cast<float>(samples.num_samples);
      std::memcpy(count + i, &mean, sizeof(float));
    }
  });
}

// <G, P_s>, in four sums at a time.
double inner_product(const float* grad, const int32_t* chosen, int64_t k, int64_t length) {
  double sum[4] = {};
  int64_t j = 0;
  for (; j + 4 <= k; j += 4) {
    for (int64_t i = 0; i < 4; ++i) sum[i] += grad[(j + i) * length + chosen[j + i]];
  }
  for (; j < k; ++j) sum[0] += grad[j * length + chosen[j]];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// The sums over one chunk of draws. With a baseline, weights are relative to the chunk's first, so that equal ones leave exactly 0.
struct Chunk {
  double* weighted;  // [L]: sum_s (w_s - first) Z_s
  double* plain;     // [L]: sum_s Z_s
  double first = 0.0, total = 0.0;  // total: sum_s (w_s - first)
  int64_t count = 0;
};

void sum_full(const Samples& samples, int64_t b, int64_t begin, int64_t end, const float* grad, Samples::Scratch& scratch, Chunk& chunk) {
  const TopkKernels& kernels = topk_kernels();
  const bool has_baseline = samples.signs == 1;
  std::vector<double> weight(samples.tile_draws);
  for (int64_t draw = begin; draw < end; draw += samples.tile_draws) {
    const int64_t count = std::min(samples.tile_draws, end - draw);
    const float* z = samples.noise(b, draw, count, scratch);
    for (int64_t s = 0; s < count; ++s) {
      const auto product = [&](int64_t sign) {
        return inner_product(grad, samples.choose(b, z + s * samples.length, sign, scratch), samples.k, samples.length);
      };
      weight[s] = product(0);
      if (!has_baseline) weight[s] -= product(1);
      if (has_baseline && draw + s == begin) chunk.first = weight[s];
      weight[s] -= chunk.first;
      chunk.total += weight[s];
    }
    kernels.add_samples(z, weight.data(), count, samples.length, chunk.weighted, chunk.plain);
  }
}

void sum_diagonal(const Samples& samples, int64_t b, int64_t begin, int64_t end, const float* grad, Samples::Scratch& scratch,
                  Chunk& chunk) {
  for (int64_t draw = begin; draw < end; draw += samples.tile_draws) {
    const int64_t count = std::min(samples.tile_draws, end - draw);
    const float* tile = samples.noise(b, draw, count, scratch);
    for (int64_t i = 0; i < count * samples.signs; ++i) {
      const float* z = tile + i / samples.signs * samples.length;
      const int32_t* chosen = samples.choose(b, z, i % samples.signs, scratch);
      const double sign = i % samples.signs == 0 ? 1.0 : -1.0;
      for (int64_t j = 0; j < samples.k; ++j) {
        chunk.weighted[chosen[j]] += sign * grad[j * samples.length + chosen[j]] * z[chosen[j]];
      }
    }
  }
}

}  // namespace

// Z of counters first, first + 1, ...: float32 [count].
Tensor perturbed_topk_noise(const Tensor& seed, int64_t first, int64_t count) {
  STD_TORCH_CHECK(count >= 0, "count is ", count, ", it must be at least 0");
  std::vector<float> z(count + kNormalsPadding);
  normal_kernels().normals(static_cast<uint64_t>(first), value_of(seed), count, z.data());
  Tensor noise = torch::stable::new_empty(seed, {count}, ScalarType::Float);
  std::copy_n(z.data(), count, noise.mutable_data_ptr<float>());
  return noise;
}

// P = 1/n sum_s P_s, P_s the index-ordered one-hot top-k of scores + sigma Z_s: float32 [B, k, L].
Tensor perturbed_topk(const Tensor& scores, int64_t k, int64_t num_samples, double sigma, const std::optional<Tensor>& seed,
                      const std::optional<Tensor>& noise, bool antithetic) {
  const Samples samples(scores, k, num_samples, sigma, seed, noise, antithetic);
  Tensor mean = torch::stable::new_empty(scores, {samples.batch, k, samples.length}, ScalarType::Float);
  void* counts = mean.mutable_data_ptr();
  const int64_t draws = samples.batch * samples.draws, per_draw = samples.signs * k;
  const int64_t block = std::min(draws, std::max<int64_t>(1, kBlock / per_draw));
  std::vector<int32_t> chosen(block * per_draw);
  for (int64_t first = 0; first < draws; first += block) {
    const int64_t last = std::min(draws, first + block);
    choose_block(samples, first, last, chosen.data());
    count_block(samples, first, last, chosen.data(), counts);
  }
  return mean;
}

// The gradient of scores [B, L], float32, from grad G [B, k, L], with w_s = <G, P_s>. Full: 1 / (n sigma) times
//   sum_s (w_s - mean of the other w) Z_s = n / (n - 1) (sum_s w_s Z_s - mean(w) sum_s Z_s), in one pass over the samples;
// antithetic, sum over pairs of (w_s - w_s') Z_s. Diagonal: 1 / (n sigma) sum_s sum_j G_jl P_jl Z_l.
Tensor perturbed_topk_backward(const Tensor& grad, const Tensor& scores, int64_t num_samples, double sigma,
                               const std::optional<Tensor>& seed, const std::optional<Tensor>& noise, bool antithetic, bool diagonal) {
  STD_TORCH_CHECK(grad.dim() == 3 && scores.dim() == 2 && grad.size(0) == scores.size(0) && grad.size(2) == scores.size(1),
                  "grad must be [B, k, L] with B and L of scores");
  const Samples samples(scores, grad.size(1), num_samples, sigma, seed, noise, antithetic);
  const Tensor gradient = as_float(grad);
  const float* g = gradient.const_data_ptr<float>();
  const int64_t length = samples.length;
  Tensor result = torch::stable::new_empty(scores, {samples.batch, length}, ScalarType::Float);
  float* out = result.mutable_data_ptr<float>();

  const int64_t most = std::clamp<int64_t>(samples.draws / kChunkDraws, 1, kMaxChunks);
  const int64_t wanted = std::clamp<int64_t>(samples.draws * length / (kTile / 2), 1, most);
  const int64_t chunk_draws = ceil_div(samples.draws, wanted), chunks = ceil_div(samples.draws, chunk_draws);
  const int64_t rows = std::clamp<int64_t>(kPartialSums / (chunks * length * 2), 1, std::max<int64_t>(1, samples.batch));
  std::vector<double> sums;
  std::vector<Chunk> parts(rows * chunks);
  for (int64_t first = 0; first < samples.batch; first += rows) {
    const int64_t count = std::min(rows, samples.batch - first);
    sums.assign(count * chunks * length * 2, 0.0);
    const double work = kWorkPerNormal * static_cast<double>(count * samples.draws * length);
    const auto make_scratch = [&] { return Samples::Scratch(samples); };
    for_each_task(count * chunks, work, make_scratch, [&](int64_t task, Samples::Scratch& scratch) {
      const int64_t b = first + task / chunks, draw = task % chunks * chunk_draws;
      const int64_t last = std::min(samples.draws, draw + chunk_draws);
      parts[task] = {&sums[task * length * 2], &sums[(task * 2 + 1) * length]};
      parts[task].count = last - draw;
      (diagonal ? sum_diagonal : sum_full)(samples, b, draw, last, g + b * samples.k * length, scratch, parts[task]);
    });

    for (int64_t row = 0; row < count; ++row) {
      const Chunk* own = &parts[row * chunks];
      const bool has_baseline = !diagonal && !antithetic && num_samples > 1;
      double mean = 0.0;  // of w_s - own[0].first
      for (int64_t q = 0; q < chunks; ++q) mean += own[q].total + own[q].count * (own[q].first - own[0].first);
      mean /= num_samples;
      const double scale = (has_baseline ? num_samples / (num_samples - 1.0) : 1.0) / (num_samples * sigma);
      torch::stable::parallel_for(0, length, kTile, [&](int64_t begin, int64_t end) {
        for (int64_t l = begin; l < end; ++l) {
          double sum = 0.0;
          for (int64_t q = 0; q < chunks; ++q) {
            const double offset = has_baseline ? (own[q].first - own[0].first) - mean : own[q].first;
            sum += own[q].weighted[l] + offset * own[q].plain[l];
          }
          out[(first + row) * length + l] = static_cast<float>(sum * scale);
        }
      });
    }
  }
  return result;
}

}  // namespace dynfocus::cpu
