#pragma once
// How the CPU versions run. Nothing here changes a result: every output element is computed by one thread in
// a fixed order.
#include <string_view>

#include "optimized/fault.h"

namespace moecheck::MOECHECK_OPTIMIZED {

struct CpuOptions {
  int threads = 1;  // at least 1; more than the machine has is allowed
};

// Restricts SIMD to the lowest instruction set that was compiled (x86: SSE4), where fused multiply-adds are
// two roundings and vectors are 4 wide: another honest implementation of the same source. Process-wide; not
// while a kernel runs.
void use_baseline_target(bool on);
bool uses_baseline_target();
// "AVX3", "AVX2", "SSE4", ...: what the next call will run on.
std::string_view cpu_target();

}  // namespace moecheck::MOECHECK_OPTIMIZED
