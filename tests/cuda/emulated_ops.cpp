// torch.ops.dynfocus_emulated: the CUDA ops on CPU tensors, with their kernel under the emulator.
#include "cluster_frames.cuh"
#include "dpc_knn.cu"
#include "spatial_prototypes.cu"

#include <torch/csrc/stable/library.h>

// What libtorch with CUDA has of these; here a device is the CPU.
extern "C" {
AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return AOTI_TORCH_SUCCESS;
}
AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  *guard = nullptr;
  return AOTI_TORCH_SUCCESS;
}
AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) { return AOTI_TORCH_SUCCESS; }
}

namespace dynfocus::cuda {

const char* cluster_frames(const Frames& frames, const Clusterings& to, int64_t num_samples, Precision precision, void*) {
  static std::string error;
  const int blocks = num_blocks(frames.num_points);
  const Kernel kernel = kernel_for(precision, frames.k);
  error = emulation().launch(num_samples, num_threads(blocks), shared_bytes(blocks), [&] { kernel(frames, to); });
  return error.empty() ? nullptr : error.c_str();
}

}  // namespace dynfocus::cuda

// For the tests, through ctypes: the order of threads, the barrier left out, and those there are.
extern "C" void emulate(uint64_t seed, const char* left_out) {
  dynfocus::cuda::emulation().seed = seed;
  dynfocus::cuda::emulation().left_out = left_out;
}

extern "C" const char* emulated_sites() {
  static std::string names;
  names.clear();
  for (const std::string& site : dynfocus::cuda::emulation().sites) names += site + " ";
  return names.c_str();
}

STABLE_TORCH_LIBRARY(dynfocus_emulated, m) {
  m.def(
      "dpc_knn(Tensor x, int num_clusters, int k, Tensor? mask, float distance_scale, Tensor? noise)"
      " -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("spatial_prototypes(Tensor x, int[] num_clusters, int[] k) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(dynfocus_emulated, CPU, m) {
  m.impl("dpc_knn", TORCH_BOX(&dynfocus::cuda::dpc_knn));
  m.impl("spatial_prototypes", TORCH_BOX(&dynfocus::cuda::spatial_prototypes));
}
