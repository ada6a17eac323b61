#pragma once
// Gating on the CPU: fp32, SIMD over the experts of a row, threads over rows. The operator is specified in
// reference/gating.h.
#include <optional>
#include <string>

#include "optimized/cpu/options.h"
#include "reference/gating.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// Why gating() cannot do this, or nothing. What the operator itself refuses (reference::refusal) is not asked
// here.
std::optional<std::string> gating_unsupported(const reference::GatingOptions& options);

// router_logits [M, options.logit_columns()] f32|bf16|f16, bias [E] f32|bf16|f16 or absent, topk_weights [M,
// topk + shared] f32, topk_ids [M, topk + shared] i32|i64. Every element is written; ids lie in [0, E +
// shared), or are -1 in padded rows, whatever the logits hold.
void gating(const reference::GatingOptions& options, reference::ConstView router_logits,
            reference::ConstView bias, reference::View topk_weights, reference::View topk_ids,
            CpuOptions cpu = {});

}  // namespace moecheck::MOECHECK_OPTIMIZED
