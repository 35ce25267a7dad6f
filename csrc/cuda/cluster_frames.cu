#include "cluster_frames.cuh"

namespace dynfocus::cuda {

namespace {

template <class Element, int kCount>
cudaError_t launch(const Frames& frames, const Clusterings& to, int64_t num_samples, cudaStream_t stream) {
  const int blocks = num_blocks(frames.num_points), bytes = shared_bytes(blocks);
  static_assert(shared_bytes(num_blocks(kMaxPoints)) <= 163 * 1024, "more than compute capability 8.0 has");
  // More than 48 KB are to be had on request only, for each device.
  const cudaError_t error = cudaFuncSetAttribute(cluster_frame<Element, kCount>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  cluster_frame<Element, kCount><<<static_cast<unsigned>(num_samples), num_threads(blocks), bytes, stream>>>(frames, to);
  return cudaGetLastError();
}

template <class Element>
cudaError_t launch(const Frames& frames, const Clusterings& to, int64_t num_samples, cudaStream_t stream) {
  return frames.k <= 8 ? launch<Element, 8>(frames, to, num_samples, stream) : launch<Element, kMaxNeighbors>(frames, to, num_samples, stream);
}

}  // namespace

const char* cluster_frames(const Frames& frames, const Clusterings& to, int64_t num_samples, Precision precision, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  const cudaError_t error = precision == Precision::kBFloat16 ? launch<BFloat16>(frames, to, num_samples, on)
                                                              : launch<Float16>(frames, to, num_samples, on);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace dynfocus::cuda
