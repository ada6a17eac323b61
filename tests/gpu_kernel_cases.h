#pragma once
// Cases for the GPU kernels on the host executor, see gpu_kernels_test.cpp.
#include <string>
#include <string_view>
#include <vector>

#include "harness/case.h"

namespace moecheck::harness {

struct GpuKernelCases {
  std::string_view op;
  int specializations;  // at least so many, both wave widths together
  // Shares of the cases: of the quick suite every nth is run at both wave widths (of `lines` all are), and of these cases every
  // nth in the other orders.
  int nth_quick, nth_order;
  std::vector<std::string> lines;  // beyond the quick suite; without the operator's name
  std::vector<std::string> by_no_case =
      {};  // ends of the names of specializations that gpu_OP_test.cpp reaches instead
};

// One for each operator that has GPU kernels.
const std::vector<GpuKernelCases>& gpu_kernel_cases();
const GpuKernelCases* find_gpu_kernel_cases(std::string_view op);  // nullptr without an entry
// `lines` as cases; throws std::runtime_error for one that the operator refuses.
std::vector<Case> gpu_further_cases(std::string_view op);

}  // namespace moecheck::harness
