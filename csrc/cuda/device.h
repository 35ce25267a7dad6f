// What the kernels ask of a GPU beyond C++: copies that run by themselves, matrix products, 16-bit floats. Compute capability 8.0.
#pragma once

#ifdef DYNFOCUS_EMULATED
#include "emulator.h"  // the same on a CPU: tests/cuda
#else

#include <cuda_runtime.h>

#include <cstdint>

#define DYNFOCUS_SHARED_MEMORY(name) extern __shared__ __align__(128) unsigned char name[]

namespace dynfocus::cuda {

using SharedAddress = uint32_t;

__device__ __forceinline__ SharedAddress shared_address(const void* pointer) {
  return static_cast<SharedAddress>(__cvta_generic_to_shared(pointer));
}

// Starts to copy 16 bytes, or writes as many zeros; `to` holds them once a wait_for_copies of this thread covers it.
__device__ __forceinline__ void start_copy(SharedAddress to, const void* from, bool is_there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(is_there ? 16 : 0) : "memory");
}

// Closes the group of copies started since the last one.
__device__ __forceinline__ void close_copy_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all but the last `kPending` groups of this thread.
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8 x 8 matrices of 16-bit numbers, one after the other: lane l gives the address of row l % 8 of matrix l / 8, 16 bytes, and gets
// of each matrix columns 2 (l % 4) and the next of row l / 4.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row)
               : "memory");
}

// multiply_add: sums [16, 8] += a [16, 16] b [16, 8] in float32. Of the sums, lane l holds rows l / 4 and l / 4 + 8, columns 2 (l % 4) and
// the next; a is the matrices (rows 0, columns 0), (8, 0), (0, 8), (8, 8) and b, transposed, (0, 0), (0, 8) as load_matrices gives them.
#define DYNFOCUS_MULTIPLY_ADD(TYPE)                                                                                              \
  __device__ __forceinline__ static void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {      \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "    \
                 "{%0, %1, %2, %3};"                                                                                             \
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                                                    \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                                \
  }

// Pairs of numbers in a word: the first in the low half.
struct BFloat16 {
  DYNFOCUS_MULTIPLY_ADD("bf16")

  __device__ __forceinline__ static float2 unpack(uint32_t pair) {
    return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
  }

  __device__ __forceinline__ static uint32_t pack(float first, float second) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
  }
};

struct Float16 {
  DYNFOCUS_MULTIPLY_ADD("f16")

  __device__ __forceinline__ static float2 unpack(uint32_t pair) {
    float2 values;
    asm("{.reg .b16 first, second; mov.b32 {first, second}, %2; cvt.f32.f16 %0, first; cvt.f32.f16 %1, second;}"
        : "=f"(values.x), "=f"(values.y)
        : "r"(pair));
    return values;
  }

  __device__ __forceinline__ static uint32_t pack(float first, float second) {
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
  }
};

#undef DYNFOCUS_MULTIPLY_ADD

}  // namespace dynfocus::cuda

#endif
