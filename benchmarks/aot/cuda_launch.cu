// What the kernels of csrc/cuda are launched with at most, by name: threads and bytes of dynamic shared memory. Neither is in a cubin.
// Runs on the host, without a GPU.
#include <cstdio>

#include "../../csrc/cuda/frame_memory.cuh"

int main() {
  using namespace dynfocus::cuda;
  constexpr int kBlocks = num_blocks(kMaxPoints);
  std::printf("cluster_frame %d %d\n", num_threads(kBlocks), shared_bytes(kBlocks));
}
