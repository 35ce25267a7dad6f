#include "vector_kernels.h"

#include "capability.h"

namespace dynfocus::cpu {

extern const VectorKernels vector_kernels_baseline;
#if defined(DYNFOCUS_HAS_AVX2)
extern const VectorKernels vector_kernels_avx2;
#endif
#if defined(DYNFOCUS_HAS_AVX512)
extern const VectorKernels vector_kernels_avx512;
#endif

const VectorKernels& vector_kernels() {
  switch (capability()) {
#if defined(DYNFOCUS_HAS_AVX512)
    case Capability::avx512: return vector_kernels_avx512;
#endif
#if defined(DYNFOCUS_HAS_AVX2)
    case Capability::avx2: return vector_kernels_avx2;
#endif
    default: return vector_kernels_baseline;
  }
}

}  // namespace dynfocus::cpu
