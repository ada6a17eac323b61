#include "optimized/cpu/moe_block.h"

#include <algorithm>
#include <vector>

#include "optimized/cpu/aligned.h"
#include "optimized/cpu/expert_gemm.h"
#include "optimized/cpu/experts.h"
#include "optimized/cpu/experts_run.h"
#include "optimized/cpu/gating.h"
#include "optimized/cpu/gating_plan.h"
#include "optimized/cpu/shared_experts.h"
#include "optimized/cpu/thread_pool.h"

namespace moecheck::MOECHECK_OPTIMIZED {
namespace {

using reference::ExpertsOptions;
using reference::MoeBlockInputs;
using reference::MoeBlockOptions;
using reference::Rounding;
using reference::Shape;
using reference::SlotInsertion;

// ids and weights of all slots, as the experts read them.
struct Routes {
  std::int64_t tokens = 0, slots = 0;
  std::vector<std::int64_t> ids;
  std::vector<float> weights;

  Routes(std::int64_t m, std::int64_t k)
      : tokens(m), slots(k), ids(static_cast<std::size_t>(m * k)), weights(ids.size()) {}
  View ids_view() { return {ids.data(), DType::kI64, Shape(tokens, slots)}; }
  View weights_view() { return {weights.data(), DType::kF32, Shape(tokens, slots)}; }
};

bool has_sentinel_column(const MoeBlockOptions& o) {
  return o.insertion == SlotInsertion::kVllmRocm && o.ep_size > 1;
}

std::int64_t fused_slots(const MoeBlockOptions& o) { return o.fused ? o.shared_experts : 0; }

// Experts are dealt in contiguous ranges; every rank holds the fused shared slots behind its own.
std::vector<std::int32_t> expert_map_of(const MoeBlockOptions& o) {
  const std::int64_t experts = o.gating.experts, per_rank = experts / o.ep_size, first = o.ep_rank * per_rank;
  std::vector<std::int32_t> map(static_cast<std::size_t>(experts + fused_slots(o) + has_sentinel_column(o)),
                                -1);
  for (std::int64_t e = 0; e < experts; ++e)
    if ((e >= first && e < first + per_rank) || fault(Fault::kNonLocalNotMasked))
      map[static_cast<std::size_t>(e)] = static_cast<std::int32_t>(e % per_rank);
  for (std::int64_t j = 0; j < fused_slots(o); ++j)
    map[static_cast<std::size_t>(experts + j)] =
        static_cast<std::int32_t>(per_rank + (fault(Fault::kSharedSlotZeroTwice) ? 0 : j));
  if (fault(Fault::kSentinelComputed) && has_sentinel_column(o)) map.back() = static_cast<std::int32_t>(per_rank);
  return map;
}

//   sigmoid(x[t] . g), each step rounded to T where the options say so
std::vector<float> shared_gates(const MoeBlockOptions& o, const MoeBlockInputs& in, CpuOptions cpu) {
  const std::int64_t tokens = in.hidden_states.shape[0], hidden = o.experts.hidden;
  const bool rounds = o.round_shared_gate == Rounding::kRound;
  const GemmMatrix gate{{in.shared_gate.data, in.shared_gate.dtype, Shape(1, hidden)}, {}};
  const GemmRows gemm = gemm_rows();
  const LoadRow load = load_row();
  const VectorSigmoid sigmoid = vector_sigmoid();
  std::vector<float> gates(static_cast<std::size_t>(tokens));
  std::vector<AlignedFloats> rows;
  for (int i = 0; i < std::max(1, cpu.threads); ++i) rows.emplace_back(padded_columns(hidden));
  parallel_for(cpu.threads, tokens, [&](std::int64_t t, int worker) {
    float* x = rows[static_cast<std::size_t>(worker)].data();
    load(in.hidden_states, t * hidden, hidden, x);
    std::fill(x + hidden, x + padded_columns(hidden), 0.0F);
    float logit = 0;
    const GemmToken token{x, nullptr, &logit};
    gemm(gate, 0, 1, &token, 1);
    if (rounds) logit = round_dtype(o.experts.dtype, logit);
    const float s = sigmoid(logit);
    gates[static_cast<std::size_t>(t)] = rounds ? round_dtype(o.experts.dtype, s) : s;
  });
  return gates;
}

// The unfused shared experts as one expert of n I rows that every token visits: [M, H] in fp32, rounded to T.
std::vector<float> shared_mlp(const MoeBlockOptions& o, const MoeBlockInputs& in, CpuOptions cpu) {
  const std::int64_t tokens = in.hidden_states.shape[0], hidden = o.experts.hidden;
  ExpertsOptions mlp = o.experts;
  mlp.intermediate = o.shared_experts * o.experts.intermediate;
  mlp.topk = mlp.experts = mlp.local_experts = 1;
  mlp.router_weight = reference::RouterWeight::kNone;
  mlp.round_gate_up = mlp.round_slot = Rounding::kRound;  // layers of their own, stored in T
  if (o.shared_activation && !fault(Fault::kSharedUsesRoutedActivation))
    mlp.activation = *o.shared_activation;
  const auto stack = [](ConstView m) -> ConstView {
    if (!m) return {};
    return {m.data, m.dtype, Shape(1, m.shape[0], m.shape[1])};
  };
  Routes everyone(tokens, 1);
  const reference::ExpertWeights weights{stack(in.shared_w13), stack(in.shared_w2),
                                         stack(in.shared_w13_scale), stack(in.shared_w2_scale)};
  std::vector<float> s(static_cast<std::size_t>(tokens * hidden + kRowMultiple));
  expert_slots(mlp, {in.hidden_states, weights, {}, everyone.ids_view(), {}},
               {s.data(), DType::kF32, Shape(tokens, 1, hidden)}, cpu);
  if (!o.gated_shared || fault(Fault::kSharedGateMissing)) return s;
  const std::vector<float> gates = shared_gates(o, in, cpu);
  for (std::int64_t i = 0; i < tokens * hidden; ++i) {
    float& v = s[static_cast<std::size_t>(i)];
    v *= gates[static_cast<std::size_t>(i / hidden)];
    if (o.round_shared_gate == Rounding::kRound) v = round_dtype(o.experts.dtype, v);
  }
  return s;
}

Routes append_shared(const MoeBlockOptions& o, const MoeBlockInputs& in, Routes& gate, CpuOptions cpu) {
  reference::SlotInsertionOptions insertion;
  insertion.insertion = *o.insertion;
  insertion.experts = o.gating.experts, insertion.topk = o.gating.topk, insertion.shared = o.shared_experts;
  insertion.append_weight = o.append_weight;
  insertion.ep_rank = o.ep_rank, insertion.ep_size = o.ep_size;
  Routes all(gate.tokens, insertion.columns());
  const bool gated = insertion.insertion == SlotInsertion::kGated;
  if (gated) insertion.insertion = SlotInsertion::kAiterAppend;  // one gate for all chunks: written below
  insert_shared_slots(insertion, gate.ids_view(), gate.weights_view(), {}, all.ids_view(), all.weights_view(),
                      cpu);
  if (!gated) return all;
  const std::vector<float> gates = shared_gates(o, in, cpu);
  for (std::int64_t t = 0; t < all.tokens; ++t)
    for (std::int64_t k = o.gating.topk; k < all.slots; ++k)
      all.weights[static_cast<std::size_t>(t * all.slots + k)] = gates[static_cast<std::size_t>(t)];
  return all;
}

Routes route(const MoeBlockOptions& o, const MoeBlockInputs& in, CpuOptions cpu) {
  reference::GatingOptions options = o.gating;
  if (fault(Fault::kBlockRoutesPadding)) options.policy.padding = reference::Padding::kCompute;
  Routes routes(in.hidden_states.shape[0], options.slots());
  gating(options, in.router_logits, in.e_score_correction_bias, routes.weights_view(), routes.ids_view(),
         cpu);
  if (o.fused && o.insertion) routes = append_shared(o, in, routes, cpu);
  if (fault(Fault::kRoutedScaleOnSharedSlot)) {
    const double output = o.combine.routed_scaling_factor, weights = o.gating.routed_scaling_factor;
    for (std::int64_t t = 0; t < routes.tokens; ++t)
      for (std::int64_t k = o.gating.topk; k < routes.slots; ++k)
        routes.weights[static_cast<std::size_t>(t * routes.slots + k)] *=
            static_cast<float>(output != 1 ? output : weights);
  }
  return routes;
}

void copy_routes(const Routes& routes, const MoeBlockOutputs& outputs) {
  for (std::size_t i = 0; i < routes.ids.size(); ++i) {
    if (outputs.topk_ids) store_id(outputs.topk_ids, static_cast<std::int64_t>(i), routes.ids[i]);
    if (outputs.topk_weights) outputs.topk_weights.as<float>()[i] = routes.weights[i];
  }
}

}  // namespace

std::int64_t moe_block_slots(const MoeBlockOptions& o) {
  return o.gating.topk + fused_slots(o) + (has_sentinel_column(o) ? 1 : 0);
}

std::optional<std::string> moe_block_unsupported(const MoeBlockOptions& options, DType weights) {
  if (auto why = gating_unsupported(options.gating)) return why;
  return experts_unsupported(options.experts, weights);
}

void moe_block(const MoeBlockOptions& o, const MoeBlockInputs& in, const MoeBlockOutputs& outputs,
               CpuOptions cpu) {
  Routes routes = route(o, in, cpu);
  copy_routes(routes, outputs);
  std::vector<std::int32_t> map = expert_map_of(o);

  const bool here = o.ep_rank == 0 || o.shared_on_every_rank || fault(Fault::kSharedOnEveryRank);
  const bool unfused = !o.fused && o.shared_experts > 0 && here;
  std::vector<float> shared;
  if (unfused) shared = shared_mlp(o, in, cpu);

  ExpertsOptions options = o.experts;
  options.topk = routes.slots;
  options.experts = static_cast<std::int64_t>(map.size());
  options.local_experts = o.gating.experts / o.ep_size + fused_slots(o);
  reference::CombineOptions combine = o.combine;
  combine.dtype = options.dtype;
  combine.reduce = options.reduce;
  combine.round_weighted = options.round_slot;
  CombineRules rules = combine_rules(combine, unfused);
  if (fault(Fault::kRoutedScaleOnSharedSlot))
    rules.shared_factor *= static_cast<float>(combine.routed_scaling_factor);
  const View expert_map{map.data(), DType::kI32, Shape(options.experts)};
  run_experts(options, {in.hidden_states, in.experts, routes.weights_view(), routes.ids_view(), expert_map},
              rules, unfused ? shared.data() : nullptr, outputs.out, cpu);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
