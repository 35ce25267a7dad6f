// Tables of inner loops, one per instruction set, chosen at run time.
//
// A topic is a header <topic>_kernels.h, which declares the table and the function `const Table& topic_kernels()`, and a source
// vector/<topic>_kernels.cpp, which CMake compiles once per instruction set and which ends with DYNFOCUS_DEFINE_VARIANT. One ordinary
// source holds DYNFOCUS_CHOOSE_VARIANT, the function.
#pragma once

#include "capability.h"

// Defines `const Table& topic()`: the table for the instruction set capability() names.
#if defined(__x86_64__)
#define DYNFOCUS_CHOOSE_VARIANT(Table, topic)                         \
  extern const Table topic##_baseline, topic##_avx2, topic##_avx512, topic##_avx512_bf16; \
  const Table& topic() {                                              \
    switch (capability()) {                                           \
      case Capability::avx512_bf16: return topic##_avx512_bf16;       \
      case Capability::avx512: return topic##_avx512;                 \
      case Capability::avx2: return topic##_avx2;                     \
      default: return topic##_baseline;                               \
    }                                                                 \
  }
#else
#define DYNFOCUS_CHOOSE_VARIANT(Table, topic) \
  extern const Table topic##_baseline;        \
  const Table& topic() { return topic##_baseline; }
#endif

// Defines this variant's table; DYNFOCUS_VARIANT is the name of the instruction set it is compiled for.
#define DYNFOCUS_JOIN_(a, b) a##_##b
#define DYNFOCUS_JOIN(a, b) DYNFOCUS_JOIN_(a, b)
#define DYNFOCUS_DEFINE_VARIANT(Table, topic, ...)                  \
  extern const Table DYNFOCUS_JOIN(topic, DYNFOCUS_VARIANT);        \
  const Table DYNFOCUS_JOIN(topic, DYNFOCUS_VARIANT) = {__VA_ARGS__};
