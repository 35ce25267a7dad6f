// Fresh memory in huge pages.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace dynfocus::cpu {

// Asks for huge pages under a tensor that is about to be written for the first time and as a whole. The first write to a page has the
// kernel zero it: 4 KiB at a time that takes several times as long as the write itself. A hint, never an error; Linux only.
inline torch::stable::Tensor in_huge_pages(torch::stable::Tensor tensor) {
#if defined(__linux__)
  constexpr uintptr_t kHugePage = 1 << 21;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr());
  const uintptr_t end = begin + static_cast<uintptr_t>(tensor.numel()) * tensor.element_size();
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage, last = end / kHugePage * kHugePage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return tensor;
}

}  // namespace dynfocus::cpu
