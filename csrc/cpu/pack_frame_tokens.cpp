// The fused token sequence and its gradient: each row is copied once, whatever its dtype, output rows spread evenly over the threads.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "ops.h"

namespace dynfocus::cpu {

namespace {

using torch::headeronly::ScalarType;

constexpr int64_t kRowsPerThread = 64;  // at least

// Where the tokens of each frame go: fine ones, of key frames, before the coarse ones.
class Layout {
 public:
  Layout(const Tensor& key_index, int64_t num_fine, int64_t num_coarse, int64_t num_frames)
      : cu_frames(torch::stable::new_empty(key_index, {num_frames + 1})), fine_(num_frames, -1), num_coarse_(num_coarse) {
    STD_TORCH_CHECK(key_index.dim() == 1 && key_index.scalar_type() == ScalarType::Long, "key_index must be int64 [K]");
    const Tensor keys = torch::stable::contiguous(key_index);
    for (int64_t i = 0; i < keys.numel(); ++i) {
      const int64_t key = keys.const_data_ptr<int64_t>()[i];
      STD_TORCH_CHECK(key >= 0 && key < num_frames, "key_index[", i, "] is ", key, ", it must be a frame, below ", num_frames);
      STD_TORCH_CHECK(fine_[key] == -1, "key_index[", i, "] is ", key, " again, it must not repeat a frame");
      fine_[key] = i;
    }
    int64_t* cu = cu_frames.mutable_data_ptr<int64_t>();
    cu[0] = 0;
    for (int64_t t = 0; t < num_frames; ++t) cu[t + 1] = cu[t] + num_coarse + (fine_[t] >= 0 ? num_fine : 0);
    start_ = cu;
  }

  int64_t rows() const { return start_[fine_.size()]; }

  // Calls f(is_fine, i, r, row, count) for each run of rows: the packed rows [row, row + count) are those of fine or coarse [i, r],
  // [i, r + 1], ...
  template <class F>
  void for_each_run(const F& f) const {
    torch::stable::parallel_for(0, rows(), kRowsPerThread, [&](int64_t begin, int64_t end) {
      int64_t t = std::upper_bound(start_, start_ + fine_.size() + 1, begin) - start_ - 1;
      for (int64_t row = begin; row < end;) {
        while (row >= start_[t + 1]) ++t;
        const int64_t coarse = start_[t + 1] - num_coarse_;
        const bool is_fine = row < coarse;
        const int64_t last = std::min(end, is_fine ? coarse : start_[t + 1]);
        f(is_fine, is_fine ? fine_[t] : t, row - (is_fine ? start_[t] : coarse), row, last - row);
        row = last;
      }
    });
  }

  Tensor cu_frames;  // int64 [T + 1]

 private:
  std::vector<int64_t> fine_;  // [T]: the frame's place in key_index, -1 if it has none
  int64_t num_coarse_;
  const int64_t* start_;  // cu_frames
};

template <class T>
void copy_elements(const char* from, int64_t step, int64_t n, char* to) {
  for (int64_t c = 0; c < n; ++c) std::memcpy(to + c * sizeof(T), from + c * step, sizeof(T));
}

// Reads the rows of a tensor [N, R, D] of any strides.
class Rows {
 public:
  Rows(const char* name, const Tensor& x)
      : data_(static_cast<const char*>(x.const_data_ptr())),
        size_(static_cast<int64_t>(x.element_size())),
        channels_(x.size(2)),
        outer_(x.stride(0) * size_),
        inner_(x.stride(1) * size_),
        step_(x.stride(2) * size_) {
    STD_TORCH_CHECK(size_ == 2 || size_ == 4 || size_ == 8, name, " has elements of ", size_, " bytes, they must have 2, 4 or 8");
  }

  int64_t bytes() const { return channels_ * size_; }

  // Copies rows [r, r + count) of matrix i.
  void copy(int64_t i, int64_t r, int64_t count, char* to) const {
    const char* from = data_ + i * outer_ + r * inner_;
    if (step_ == size_ && inner_ == bytes()) {
      std::memcpy(to, from, count * bytes());
      return;
    }
    for (; count > 0; --count, from += inner_, to += bytes()) {
      if (step_ == size_) {
        std::memcpy(to, from, bytes());
      } else {
        (size_ == 2 ? copy_elements<uint16_t> : size_ == 4 ? copy_elements<uint32_t> : copy_elements<uint64_t>)(from, step_, channels_, to);
      }
    }
  }

 private:
  const char* data_;
  int64_t size_, channels_, outer_, inner_, step_;  // strides in bytes
};

}  // namespace

std::tuple<Tensor, Tensor> pack_frame_tokens(const Tensor& fine, const Tensor& coarse, const Tensor& key_index) {
  STD_TORCH_CHECK(fine.dim() == 3 && coarse.dim() == 3 && fine.size(2) == coarse.size(2) && fine.size(0) == key_index.numel(),
                  "fine must be [K, F, D], coarse [T, R, D], key_index [K]");
  STD_TORCH_CHECK(fine.scalar_type() == coarse.scalar_type(), "fine and coarse must have the same dtype");
  const Rows fine_rows("fine", fine), coarse_rows("coarse", coarse);
  const Layout layout(key_index, fine.size(1), coarse.size(1), coarse.size(0));
  Tensor tokens = torch::stable::new_empty(fine, {layout.rows(), fine.size(2)});
  char* to = static_cast<char*>(tokens.mutable_data_ptr());
  layout.for_each_run([&](bool is_fine, int64_t i, int64_t r, int64_t row, int64_t count) {
    (is_fine ? fine_rows : coarse_rows).copy(i, r, count, to + row * fine_rows.bytes());
  });
  return {tokens, layout.cu_frames};
}

std::tuple<Tensor, Tensor> pack_frame_tokens_backward(const Tensor& grad, const Tensor& key_index, int64_t num_fine, int64_t num_coarse,
                                                      int64_t num_frames) {
  const Layout layout(key_index, num_fine, num_coarse, num_frames);
  STD_TORCH_CHECK(grad.dim() == 2 && grad.size(0) == layout.rows(), "grad must be [K F + T R, D]");
  const Rows rows("grad", torch::stable::unsqueeze(grad, 0));
  Tensor grad_fine = torch::stable::new_empty(grad, {key_index.numel(), num_fine, grad.size(1)});
  Tensor grad_coarse = torch::stable::new_empty(grad, {num_frames, num_coarse, grad.size(1)});
  char *fine = static_cast<char*>(grad_fine.mutable_data_ptr()), *coarse = static_cast<char*>(grad_coarse.mutable_data_ptr());
  layout.for_each_run([&](bool is_fine, int64_t i, int64_t r, int64_t row, int64_t count) {
    rows.copy(0, row, count, is_fine ? fine + (i * num_fine + r) * rows.bytes() : coarse + (i * num_coarse + r) * rows.bytes());
  });
  return {grad_fine, grad_coarse};
}

}  // namespace dynfocus::cpu
