#pragma once
// How the CPU version of one operator is run on a case. A family of operators has its adapters in a file of its own, compiled
// twice like the versions themselves: against the clean build and against the one with planted faults (optimized/fault.h).
#include <optional>
#include <string>
#include <string_view>

#include "harness/case.h"
#include "harness/tensor_set.h"
#include "optimized/cpu/options.h"
#include "optimized/fault.h"

namespace moecheck::harness::adapters::MOECHECK_OPTIMIZED {

struct CpuAdapter {
  std::string_view op;
  std::optional<std::string> (*unsupported)(const Case& c);  // why a case is not supported, or nothing
  void (*run)(const Case& c, const TensorSet& inputs, TensorSet& outputs,
              moecheck::MOECHECK_OPTIMIZED::CpuOptions options);
};

inline std::optional<std::string> nothing_unsupported(const Case&) { return std::nullopt; }

extern const CpuAdapter kIndexerCache, kMqaLogits, kMlaPrepare;

}  // namespace moecheck::harness::adapters::MOECHECK_OPTIMIZED
