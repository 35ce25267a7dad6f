#include "cluster_frames.cuh"

namespace dynfocus::cuda {

const char* cluster_frames(const Frames& frames, const Clusterings& to, int64_t num_samples, Precision precision, void* stream) {
  static_assert(shared_bytes(num_blocks(kMaxPoints)) <= 163 * 1024, "more than compute capability 8.0 has");
  const int blocks = num_blocks(frames.num_points), bytes = shared_bytes(blocks);
  const Kernel kernel = kernel_for(precision, frames.k);
  // More than 48 KB are to be had on request only, on each device.
  cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error == cudaSuccess) {
    kernel<<<static_cast<unsigned>(num_samples), num_threads(blocks), bytes, static_cast<cudaStream_t>(stream)>>>(frames, to);
    error = cudaGetLastError();
  }
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace dynfocus::cuda
