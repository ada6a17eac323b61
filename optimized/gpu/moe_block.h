#pragma once
// The MoE block of one layer on GPUs: gating, experts, routed scaling and shared experts. Specified in reference/moe_block.h; the
// kernels are moe_block.cuh, gating.cuh and experts.cuh.
#include <optional>
#include <string>

#include "optimized/gpu/experts.h"
#include "optimized/gpu/gating.h"
#include "reference/moe_block.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// What the block's two runs of the experts are asked, and where the block keeps what lies between its parts.
struct MoeBlockLayout {
  std::int64_t gate_slots, slots, tokens;
  bool has_shared, has_gates, appends;
  reference::ExpertsOptions routed, shared;
  std::size_t gate_ids_at, gate_weights_at, ids_at, weights_at, gates_at, shared_at, experts_at, shared_experts_at,
      bytes = 0;

  MoeBlockLayout(const reference::MoeBlockOptions& o, reference::DType weights, std::int64_t m) : tokens(m) {
    using reference::DType;
    using reference::Rounding;
    const std::int64_t fused = o.fused ? o.shared_experts : 0;
    const bool sentinel = o.insertion == reference::SlotInsertion::kVllmRocm && o.ep_size > 1;
    gate_slots = o.gating.slots();
    appends = o.fused && o.insertion.has_value();
    slots = o.gating.topk + fused + sentinel;
    has_shared = !o.fused && o.shared_experts > 0 && (o.ep_rank == 0 || o.shared_on_every_rank);
    has_gates =
        (has_shared && o.gated_shared) || (appends && *o.insertion == reference::SlotInsertion::kGated);
    routed = shared = o.experts;
    routed.topk = slots;
    routed.experts = o.gating.experts + fused + sentinel;
    routed.local_experts = o.gating.experts / o.ep_size + fused;
    // One expert of n I rows that every token visits; its layers are of their own, and store T.
    shared.intermediate = o.shared_experts * o.experts.intermediate;
    shared.topk = shared.experts = shared.local_experts = 1;
    shared.router_weight = reference::RouterWeight::kNone;
    shared.round_gate_up = shared.round_slot = Rounding::kRound;
    if (o.shared_activation) shared.activation = *o.shared_activation;
    gate_ids_at = take(m * gate_slots, DType::kI32);
    gate_weights_at = take(m * gate_slots, DType::kF32);
    ids_at = appends ? take(m * slots, DType::kI32) : gate_ids_at;
    weights_at = appends ? take(m * slots, DType::kF32) : gate_weights_at;
    gates_at = take(has_gates ? m : 0, DType::kF32);
    shared_at = take(has_shared ? m * o.experts.hidden : 0, o.experts.dtype);
    experts_at = shared_experts_at = bytes;
    const ExpertsLayout of_routed(routed, weights, m);
    const std::size_t of_shared = has_shared ? ExpertsLayout(shared, weights, m).bytes : 0;
    if (of_routed.few) {  // side by side
      shared_experts_at += of_routed.bytes;
      bytes += of_routed.bytes + of_shared;
    } else {  // one after the other
      bytes += std::max(of_routed.bytes, of_shared);
    }
  }

 private:
  std::size_t take(std::int64_t n, reference::DType t) {
    const std::size_t at = bytes;
    bytes += (static_cast<std::size_t>(n * reference::size_bytes(t)) + 255) / 256 * 256;
    return at;
  }
};

// Why the kernels cannot do this, or nothing. weights: the dtype of all experts.
inline std::optional<std::string> gpu_moe_block_unsupported(const reference::MoeBlockOptions& o,
                                                            reference::DType weights) {
  if (auto why = gpu_gating_unsupported(o.gating)) return why;
  if (o.insertion == reference::SlotInsertion::kSglang)
    return "insertion=sglang: the gate writes these slots (SharedWeight::kPreRenorm)";
  return gpu_experts_unsupported(MoeBlockLayout(o, weights, 1).routed, weights);
}

// Bytes of workspace for `tokens` rows. What it holds before does not matter.
inline std::size_t gpu_moe_block_workspace(const reference::MoeBlockOptions& options,
                                           reference::DType weights, std::int64_t tokens) {
  return MoeBlockLayout(options, weights, tokens).bytes;
}

// As optimized::moe_block (optimized/cpu/moe_block.h), from memory the device reads: the shapes of reference::MoeBlockInputs;
// out [M, H] f32|bf16|f16. workspace: 256-byte aligned. The same bits at every run.
// Asynchronous on `stream`. Throws gpu::DeviceError; on the host executor of this OS thread gpu::host::Error.
template <class Backend>
void gpu_moe_block(const reference::MoeBlockOptions& options, const reference::MoeBlockInputs& inputs,
                   reference::View out, void* workspace, gpu::Stream stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED
