#include "capability.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace dynfocus::cpu {

namespace {

bool runs_here(Capability capability) {
  if (capability == Capability::baseline) return true;
#if defined(__x86_64__)
  __builtin_cpu_init();  // also asks the operating system whether it saves the wide registers
  unsigned eax, ebx, ecx = 0, edx;
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
  if (capability == Capability::avx2) return avx2;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (capability == Capability::avx512) return avx512;
  return avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

}  // namespace

const char* name(Capability capability) {
  switch (capability) {
    case Capability::avx512_bf16: return "avx512_bf16";
    case Capability::avx512: return "avx512";
    case Capability::avx2: return "avx2";
    default: return "baseline";
  }
}

std::vector<Capability> compiled_capabilities() {
#if defined(__x86_64__)
  return {Capability::baseline, Capability::avx2, Capability::avx512, Capability::avx512_bf16};
#else
  return {Capability::baseline};
#endif
}

std::vector<Capability> runnable_capabilities() {
  std::vector<Capability> runnable;
  for (Capability compiled : compiled_capabilities()) {
    if (runs_here(compiled)) runnable.push_back(compiled);
  }
  return runnable;
}

Capability capability() {
  static const std::vector<Capability> runnable = runnable_capabilities();
  const char* wanted = std::getenv("DYNFOCUS_CPU_CAPABILITY");
  if (wanted == nullptr || *wanted == '\0') return runnable.back();
  const auto found = std::find_if(runnable.begin(), runnable.end(), [&](Capability c) { return std::string(wanted) == name(c); });
  if (found != runnable.end()) return *found;
  std::string choices;
  for (Capability c : runnable) choices += (choices.empty() ? "" : ", ") + std::string(name(c));
  throw std::runtime_error("DYNFOCUS_CPU_CAPABILITY is '" + std::string(wanted) + "', this build runs on this CPU with: " + choices);
}

}  // namespace dynfocus::cpu
