#pragma once
// Routed experts: gather, GEMM, gated activation, GEMM, weight, reduce.
//
//   for slot (t, k) with local expert e = expert_map[topk_ids[t, k]]:     -1 contributes exactly nothing
//     x = hidden_states[t]       [H]     fp8: quantized per 128 (fp8_block.h)
//     h = W13[e] x               [2I]    h *= w[t, k] when the router weight is on the input; round_gate_up
//     a = act(h)                 [I]     activation.h; fp8: quantized per 128
//     y = W2[e] a                [H]     y *= w[t, k] when it is on the output; round_slot
//   out[t] = sum_k y[t, k]               reduce policy; then * rsf when the reduce kernel scales (P3)
//
// Layouts: hidden_states [M, H] T; w13 [E_local, 2I, H], w2 [E_local, H, I] in f32, bf16, f16, or in fp8 with
// fp32 block scales w13_scale [E_local, ceil(2I/128), ceil(H/128)] and w2_scale [E_local, ceil(H/128),
// ceil(I/128)] that multiply. H and I need not be multiples of 128: the last block is partial (w13 is cut as
// one matrix of 2I rows, so a block may hold gate and up).
// topk_weights [M, K] f32, topk_ids [M, K] i32 or i64, expert_map [E] i32 or absent.
//
// Source: sections 4.3 to 4.7 and 6.4 of the operator notes (Triton fused_moe of vLLM and sglang, aiter).
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "reference/activation.h"
#include "reference/fp8_block.h"
#include "reference/routed_scaling.h"

namespace moecheck::reference {

// kOutput  y is multiplied
// kInput   h is, before the activation: not the same (the Triton epilogue; top-1 models such as Llama 4)
// kNone    the weights are somebody else's (no_combine)
enum class RouterWeight : std::uint8_t { kOutput, kInput, kNone };
std::string_view name(RouterWeight weight);  // "output", "input", "none"

struct ExpertsOptions {
  std::int64_t hidden = 0;         // H
  std::int64_t intermediate = 0;   // I
  std::int64_t topk = 0;           // K, fused shared slots included
  std::int64_t experts = 0;        // E, ids lie in [0, E), fused shared slots included
  std::int64_t local_experts = 0;  // E_local
  DType dtype = DType::kBF16;      // T: hidden states, the intermediate cache, the slots
  // w8a8; needs fp8 weights. fp8 weights without it are dequantized (weight only).
  bool fp8_activations = false;
  Fp8QuantOptions quant;
  ActivationOptions activation;  // its dtype is taken from T
  RouterWeight router_weight = RouterWeight::kOutput;
  Rounding round_gate_up = Rounding::kRound;  // h; fused kernels: kNone
  Rounding round_slot = Rounding::kRound;     // y with its weight
  ReducePolicy reduce;
  double reduce_scale = 1;  // rsf where the reduce kernel multiplies
};

struct ExpertWeights {
  ConstView w13, w2, w13_scale, w2_scale;
};

// Who goes where, with weights that may be computed (and then bounded) or given.
struct Routing {
  std::int64_t topk = 0;
  std::vector<std::int64_t> ids;      // [M * topk], local already: -1 where the slot is not this rank's
  std::vector<Bounded> weights;       // [M * topk]; may be empty for RouterWeight::kNone
  std::vector<std::int64_t> experts;  // [M * topk] global ids: the order of ReduceOrder::kExpert
  std::int64_t tokens() const { return topk == 0 ? 0 : static_cast<std::int64_t>(ids.size()) / topk; }
};
// From tensors. Throws std::invalid_argument naming the slot whose id is outside [-1, E) or whose local index
// is outside [0, E_local).
Routing make_routing(ConstView topk_ids, ConstView topk_weights, ConstView expert_map,
                     const ExpertsOptions& options);

// Why shapes, dtypes and options do not go together, or nothing.
std::optional<std::string> refusal(const ExpertsOptions& options, ConstView hidden_states,
                                   const ExpertWeights& weights);

// y of every slot, rounded by round_slot: [M * K * H]; slots with local id -1 are exact zeros.
std::vector<Bounded> expert_slots(ConstView hidden_states, const ExpertWeights& weights,
                                  const Routing& routing, const ExpertsOptions& options);
// The reduce of expert_slots: out [M * H], before the last rounding.
std::vector<Bounded> reduce_experts(const std::vector<Bounded>& slots, const Routing& routing,
                                    const ExpertsOptions& options);

struct ExpertsInputs {
  ConstView hidden_states;
  ExpertWeights weights;
  ConstView topk_weights, topk_ids, expert_map;
};
// The operator: out [M * H], before the last rounding. Throws std::invalid_argument with refusal's text.
std::vector<Bounded> experts(const ExpertsInputs& inputs, const ExpertsOptions& options);

}  // namespace moecheck::reference
