#pragma once
// The MoE block of one layer (reference/moe_block.h): gating, experts, routed scaling and shared experts in
// one call.
#include <optional>
#include <string>

#include "optimized/cpu/options.h"
#include "reference/moe_block.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// Why moe_block() cannot do this, or nothing. Not asked: what reference::refusal() rejects.
std::optional<std::string> moe_block_unsupported(const reference::MoeBlockOptions& options,
                                                 reference::DType weights);

struct MoeBlockOutputs {
  reference::View out;  // [M, H] in T or f32
  reference::View
      topk_ids;  // [M, slots] i32|i64, optional: global ids as the gate (and the insertion) left them
  reference::View topk_weights;  // [M, slots] f32, optional
};
// Columns of ids and weights: the gate's, and the fused slots that are appended after it.
std::int64_t moe_block_slots(const reference::MoeBlockOptions& options);

void moe_block(const reference::MoeBlockOptions& options, const reference::MoeBlockInputs& inputs,
               const MoeBlockOutputs& outputs, CpuOptions cpu = {});

}  // namespace moecheck::MOECHECK_OPTIMIZED
