#pragma once
// The experts with everything that may follow their reduce in the same pass: what experts() and moe_block()
// share. Internal.
#include "optimized/cpu/combine_row.h"
#include "optimized/cpu/options.h"
#include "reference/experts.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// Reduces the slots of each token by `rules`, adds shared [M, H] f32 (nullptr: none; kRowMultiple more floats
// are readable behind the last row) and stores to out [M, H].
void run_experts(const reference::ExpertsOptions& options, const reference::ExpertsInputs& inputs,
                 const CombineRules& rules, const float* shared, View out, CpuOptions cpu);

// The rules of a plain experts() call.
CombineRules experts_rules(const reference::ExpertsOptions& options);

}  // namespace moecheck::MOECHECK_OPTIMIZED
