#pragma once
// Fused experts on the CPU: slots grouped by expert, so that each weight row is read once for all of the
// expert's tokens. The operator is specified in reference/experts.h.
//
// The order of every sum is fixed by the shape alone: a row's result does not depend on the other rows, on
// the number of threads or on alignment.
#include <optional>
#include <string>

#include "optimized/cpu/options.h"
#include "reference/experts.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// Why experts() cannot do this, or nothing. Not asked: what reference::refusal() rejects.
std::optional<std::string> experts_unsupported(const reference::ExpertsOptions& options,
                                               reference::DType weights);

// out [M, H] in T or f32. Ids outside [0, E), and those that expert_map sends outside [0, E_local),
// contribute nothing.
void experts(const reference::ExpertsOptions& options, const reference::ExpertsInputs& inputs,
             reference::View out, CpuOptions cpu = {});

// y of every slot (no_combine): slots [M, K, H] in T or f32; zeros where the slot contributes nothing.
void expert_slots(const reference::ExpertsOptions& options, const reference::ExpertsInputs& inputs,
                  reference::View slots, CpuOptions cpu = {});

}  // namespace moecheck::MOECHECK_OPTIMIZED
