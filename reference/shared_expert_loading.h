#pragma once
// Loading a checkpoint with fused shared experts: every tensor must reach exactly one slot, and every slot be
// reached.
//
//   model.layers.L.mlp.experts.{e}.{proj}.{...}               -> slot e of experts.w13_*, experts.w2_*
//   model.layers.L.mlp.shared_experts.{proj}.{...}, n chunks  -> slots E .. E+n-1 (chunk j is expert E+j)
//
// A slot that nothing reaches keeps what it was initialized with: zeros drop the shared experts silently
// (beta = 0), garbage is worse, and in a draft (MTP) layer only the acceptance rate shows it. So the report
// names each one. MTP layers keep their block one level down: model.layers.L.mtp_block.mlp... in parameters,
// without it in checkpoints.
//
// Source: section 3.7 of the operator notes (vLLM glm4_moe.py, glm4_moe_mtp.py, deepseek_v2.py,
// deepseek_mtp.py; vllm#41920, vllm#44313, sglang#38878, sglang#35719, ROCm/ATOM#1098).
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "reference/shared_experts.h"

namespace moecheck::reference {

using Checkpoint = std::map<std::string, WeightTensor>;

// One rule: a checkpoint name that holds `weight` goes to the parameter with `weight` replaced by `param`, at
// slot, shard.
struct ExpertMapping {
  std::string param;   // "experts.w13_", "experts.w2_"
  std::string weight;  // "experts.17.gate_proj."
  std::int64_t slot = 0;
  Projection shard = Projection::kGate;
};
// Rules for `experts` slots: pass E + n when the shared experts are fused (get_expert_mapping and
// load_weights must agree).
std::vector<ExpertMapping> expert_mapping(std::int64_t experts);

struct LoadOptions {
  std::int64_t experts = 0;       // E
  std::int64_t shared = 1;        // n
  std::int64_t intermediate = 0;  // of a routed expert
  bool fused = true;              // false: shared experts stay parameters of their own
  WeightScale scale = WeightScale::kNone;
  std::vector<std::int64_t> layers;      // MoE layers of the target model
  std::vector<std::int64_t> mtp_layers;  // draft layers
  // Routed experts of this rank, [begin, end); -1: all. Slots are then local.
  std::int64_t local_begin = 0, local_end = -1;
  // Guards; a loader without one is a published bug.
  bool widen_mapping = true;                 // false: rules for E experts only
  bool split_in_mtp = true;                  // false: the draft's loader knows no fused shared experts
  bool split_each_of_gate_and_up = true;     // false: the stacked [G; U] is cut along dim 0
  bool split_down_by_columns = true;         // false: by rows
  bool replicate_down_channel_scale = true;  // false: cut along dim 0 like the others
};

struct LoadReport {
  // "model.layers.3.mlp.experts.w13_weight[128] up: keeps its initial value"
  std::vector<std::string> unreached;
  std::vector<std::string> repeated;   // a place written twice
  std::vector<std::string> unplaced;   // a checkpoint tensor that reached no slot
  std::vector<std::string> misshapen;  // a tensor or chunk whose shape does not fit its place
  bool complete() const {
    return unreached.empty() && repeated.empty() && unplaced.empty() && misshapen.empty();
  }
  std::string text() const;  // one line each, with a heading
};

// Parameters by name, the first dimension being the slot: "...experts.w13_weight" [E + n, 2I, H], and scales
// likewise.
struct LoadedExperts {
  std::map<std::string, WeightTensor> params;
  LoadReport report;
};
// Loads every "mlp.experts." and "mlp.shared_experts." tensor; other names are not its business.
LoadedExperts load_experts(const Checkpoint& checkpoint, const LoadOptions& options);

}  // namespace moecheck::reference
