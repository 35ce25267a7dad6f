// Which instruction sets the kernels were compiled for, and which of them this CPU runs.
#pragma once

#include <string>
#include <vector>

namespace dynfocus::cpu {

enum class Capability { baseline, avx2, avx512, avx512_bf16 };

const char* name(Capability capability);

// Slowest first; baseline is always there.
std::vector<Capability> compiled_capabilities();
std::vector<Capability> runnable_capabilities();

// The fastest runnable one, or the one named by the environment variable DYNFOCUS_CPU_CAPABILITY; throws std::runtime_error if that
// names none, or one that this build or this CPU does not have.
Capability capability();

}  // namespace dynfocus::cpu
