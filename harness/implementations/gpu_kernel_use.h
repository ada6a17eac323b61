#pragma once
// What the registry of kernel specializations (optimized/gpu/specializations.h) says of this process, for one kind of them.
#include <string_view>

#include "harness/kernel_use.h"
#include "optimized/gpu/specializations.h"

namespace moecheck::harness {

// Of the operator; `kind` is how their names begin: "host wave 32", "cuda".
inline KernelUse gpu_kernel_use(std::string_view op, std::string_view kind) {
  KernelUse use;
  for (const gpu::SpecializationUse& s : gpu::specializations())
    if (s.op == op && s.name.starts_with(kind)) use.executed[s.name] = s.executed;
  use.fallbacks = gpu::fallbacks(op);
  return use;
}

}  // namespace moecheck::harness
