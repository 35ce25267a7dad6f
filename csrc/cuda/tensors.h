// Tensors as the clustering kernel takes them, and the stream it runs on.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "frames.h"

// Of libtorch with CUDA; in one without, nothing here is called.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace dynfocus::cuda {

using torch::stable::Tensor;

inline Precision precision_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case torch::headeronly::ScalarType::BFloat16: return Precision::kBFloat16;
    case torch::headeronly::ScalarType::Half: return Precision::kFloat16;
    default: STD_TORCH_CHECK(false, "x has an unsupported dtype, it must be bfloat16 or float16");
  }
}

// x [B, N, C] as it is where its channels lie in pieces of 16 bytes, else a copy.
inline Tensor in_pieces(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 3, "x must be [B, N, C]");
  STD_TORCH_CHECK(x.size(1) <= kMaxPoints, "x has ", x.size(1), " points, the CUDA kernel takes at most ", kMaxPoints);
  STD_TORCH_CHECK(x.size(2) % kChannelsPerLoad == 0, "x has ", x.size(2), " channels, the CUDA kernel takes a multiple of ",
                  kChannelsPerLoad);
  const auto is_in_pieces = [](const Tensor& t) {
    const bool rows = t.stride(2) == 1 && t.stride(0) % kChannelsPerLoad == 0 && t.stride(1) % kChannelsPerLoad == 0;
    return rows && reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0;
  };
  if (is_in_pieces(x)) return x;
  const Tensor packed = torch::stable::contiguous(x);
  return is_in_pieces(packed) ? packed : torch::stable::clone(packed);
}

inline Frames as_frames(const Tensor& x, int64_t num_clusters, int64_t k, double distance_scale) {
  const int64_t N = x.size(1);
  STD_TORCH_CHECK(1 <= num_clusters && num_clusters <= N && num_clusters <= kMaxClusters, "num_clusters is ", num_clusters,
                  ", the CUDA kernel takes 1 to ", kMaxClusters, ", at most the number of points, ", N);
  STD_TORCH_CHECK(1 <= k && k <= N && k <= kMaxNeighbors, "k is ", k, ", the CUDA kernel takes 1 to ", kMaxNeighbors,
                  ", at most the number of points, ", N);
  STD_TORCH_CHECK(distance_scale > 0, "distance_scale must be positive");
  return {x.const_data_ptr(), x.stride(0), x.stride(1), nullptr, nullptr, static_cast<int>(N), static_cast<int>(x.size(2)),
          static_cast<int>(num_clusters), static_cast<int>(k), static_cast<float>(distance_scale)};
}

// A mask or noise [B, N], one after the other.
inline Tensor for_each_point(const Tensor& values, const Tensor& x, torch::headeronly::ScalarType dtype, const char* name) {
  STD_TORCH_CHECK(values.dim() == 2 && values.size(0) == x.size(0) && values.size(1) == x.size(1) && values.scalar_type() == dtype &&
                      values.get_device_index() == x.get_device_index(),
                  name, " must have one value of the right dtype for each point of x, on its device");
  return torch::stable::contiguous(values);
}

// On the current stream of x's device, which must be the current device.
inline void launch(const Frames& frames, const Clusterings& to, const Tensor& x) {
  if (x.size(0) == 0) return;
  STD_TORCH_CHECK(x.size(0) <= INT32_MAX, "x has ", x.size(0), " samples, the CUDA kernel takes at most ", INT32_MAX);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  const char* error = cluster_frames(frames, to, x.size(0), precision_of(x), stream);
  STD_TORCH_CHECK(error == nullptr, "the CUDA kernel that clusters frames did not start: ", error);
}

}  // namespace dynfocus::cuda
