// dynfocus_ops._C: what was compiled, for people and bug reports. The ops themselves need no Python and load without this module.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "cpu/capability.h"

namespace py = pybind11;

namespace {

std::vector<std::string> names(const std::vector<dynfocus::cpu::Capability>& capabilities) {
  std::vector<std::string> names;
  for (auto capability : capabilities) names.emplace_back(dynfocus::cpu::name(capability));
  return names;
}

std::vector<std::string> words(const std::string& text) {
  std::istringstream stream(text);
  return {std::istream_iterator<std::string>(stream), {}};
}

py::dict build_info() {
  py::dict info;
  info["version"] = DYNFOCUS_VERSION;
  info["compiler"] = DYNFOCUS_COMPILER;
  info["flags"] = DYNFOCUS_FLAGS;
  info["instruction_sets"] = names(dynfocus::cpu::compiled_capabilities());
  info["runnable_instruction_sets"] = names(dynfocus::cpu::runnable_capabilities());
  info["cuda_archs"] = words(DYNFOCUS_CUDA_ARCHS);
  info["cuda_compiler"] = DYNFOCUS_CUDA_COMPILER;
  info["torch_version"] = DYNFOCUS_TORCH_VERSION;
  info["torch_stable_abi"] = DYNFOCUS_TORCH_ABI;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "How the native part of dynfocus_ops was built.";
  m.def("build_info", &build_info,
        "dict: version, compiler, flags, instruction_sets (compiled), runnable_instruction_sets (this CPU), cuda_archs and "
        "cuda_compiler (empty without CUDA kernels), torch_version (headers built against), torch_stable_abi (oldest torch it loads in).");
}
