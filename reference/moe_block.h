#pragma once
// The MoE block of one layer: gating, experts, routed scaling, shared experts.
//
//   ids, w = gating(router_logits, bias)                                                 gating.h
//   R      = experts(x, ids, w)       fused: the shared experts are slots K..K+n-1       experts.h
//   S      = D (silu(G x) * (U x))    not fused: a dense MLP; gated: * sigmoid(x . g)
//   out    = rsf * R + S              by the plan: where rsf is multiplied               routed_scaling.h
//
// Under expert parallelism the result is one rank's partial sum; the ranks' sum is the block. The unfused
// shared output is counted on rank 0 alone (on every rank when shared_on_every_rank: a published bug).
// A row whose selection is ambiguous (two experts within each other's error bounds at the cut) is flagged: the
// judge calls its output undecided.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "reference/experts.h"
#include "reference/gating.h"
#include "reference/routed_scaling.h"
#include "reference/shared_experts.h"

namespace moecheck::reference {

struct MoeBlockOptions {
  // .shared: fused slots that the gate itself writes (0 when `insertion` does).
  GatingOptions gating;
  // hidden, intermediate, dtypes, roundings; the rest is derived: see derived_experts().
  ExpertsOptions experts;
  // Plan, rsf, roundings between reduce, scale and shared add; dtype is experts.dtype.
  CombineOptions combine;
  std::int64_t shared_experts = 0;         // n
  bool fused = false;                      // must equal combine.plan.fused_shared
  std::optional<SlotInsertion> insertion;  // fused slots appended after the gate (aiter, vLLM ROCm)
  double append_weight = 1;                // SlotInsertion::kAiterAppend
  std::optional<ActivationOptions> shared_activation;  // of the unfused MLP; absent: as the routed experts'
  bool gated_shared = false;                    // S is multiplied by sigmoid(x . shared_gate) (not fused)
  Rounding round_shared_gate = Rounding::kAny;  // logit, sigmoid and product, to T
  std::int64_t ep_rank = 0, ep_size = 1;        // experts are dealt in contiguous ranges of E / ep_size
  bool shared_on_every_rank = false;

  // The routed experts' options with what follows from the rest filled in.
  ExpertsOptions derived_experts() const;
  // Local index of every global id, shared slots and sentinel included; -1 elsewhere.
  std::vector<std::int64_t> expert_map() const;
  // The places that are really active: those before the reduce as the gate's policy has them, those after it
  // from combine.plan. Its check() says what is wrong with the block before anything is computed.
  ScalePlan effective_plan() const;
  std::int64_t columns() const;  // slots per row of topk_ids
};

// w13 [E_local + n, 2I, H], w2 [E_local + n, H, I] when fused (shared slots last), else [E_local, ...] with
// shared_w13 [2nI, H], shared_w2 [H, nI] (T, or fp8 with block scales) and shared_gate [1, H] T.
// router_logits [M, gating.logit_columns()].
struct MoeBlockInputs {
  ConstView hidden_states, router_logits, e_score_correction_bias;
  ExpertWeights experts;
  ConstView shared_w13, shared_w2, shared_w13_scale, shared_w2_scale, shared_gate;
};

struct MoeBlockResult {
  std::vector<Bounded> out;  // [M * H], before the last rounding
  // [M * H] for fit_scale(): R with weights that sum to 1, and S, both without any routed_scaling_factor.
  std::vector<double> routed, shared;
  std::int64_t slots = 0;         // columns of ids and weights
  std::vector<std::int64_t> ids;  // [M * slots] global; -1 for masked padding
  std::vector<Bounded> weights;   // [M * slots]
  std::vector<bool> ambiguous;    // [M] the selection is not decided by the inputs: the row is undecided
};

std::optional<std::string> refusal(const MoeBlockOptions& options, const MoeBlockInputs& inputs);
// Throws std::invalid_argument with refusal's text.
MoeBlockResult moe_block(const MoeBlockInputs& inputs, const MoeBlockOptions& options);

// Which of the selected `ids` come from outside the selected groups (Masked::kZero lets them win).
std::vector<bool> masked_winners(const Gating& gating, const GatingRow& row,
                                 const std::vector<std::int64_t>& ids);
// Whether `gating` leaves the experts of a row to its implementation.
bool selection_is_ambiguous(const Gating& gating, const GatingRow& row, const std::vector<std::int64_t>& ids);

}  // namespace moecheck::reference
