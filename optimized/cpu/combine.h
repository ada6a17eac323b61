#pragma once
// The weighted reduce, the places where routed_scaling_factor is multiplied in after it, and the shared add.
// The operator is specified in reference/routed_scaling.h (CombineOptions, scale_and_add).
#include "optimized/cpu/options.h"
#include "reference/routed_scaling.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// inputs as reference::combine takes them; out [M, H], rounded once more to its own dtype (f32|bf16|f16).
void combine(const reference::CombineOptions& options, const reference::CombineInputs& inputs,
             reference::View out, CpuOptions cpu = {});

}  // namespace moecheck::MOECHECK_OPTIMIZED
