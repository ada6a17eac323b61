#include "reference/moe_block.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "reference/expert_gemm.h"
#include "reference/text.h"

namespace moecheck::reference {
namespace {

bool sentinel_column(const MoeBlockOptions& o) {
  return o.insertion == SlotInsertion::kVllmRocm && o.ep_size > 1;
}

// The unfused shared MLP as one expert of n I rows that every token visits.
ExpertsOptions shared_options(const MoeBlockOptions& o) {
  ExpertsOptions mlp = o.experts;
  mlp.intermediate = o.shared_experts * o.experts.intermediate;
  mlp.topk = mlp.experts = mlp.local_experts = 1;
  mlp.router_weight = RouterWeight::kNone;
  mlp.round_gate_up = mlp.round_slot = Rounding::kRound;  // layers of their own, stored in T
  if (o.shared_activation) mlp.activation = *o.shared_activation;
  return mlp;
}

ConstView as_stack(ConstView matrix) {
  if (matrix) matrix.shape = Shape(1, matrix.shape[0], matrix.shape[1]);
  return matrix;
}

ExpertWeights shared_weights(const MoeBlockInputs& in) {
  return {as_stack(in.shared_w13), as_stack(in.shared_w2), as_stack(in.shared_w13_scale),
          as_stack(in.shared_w2_scale)};
}

// sigmoid(x[t] . g), the weight of a gated shared expert.
Bounded shared_gate(const MoeBlockOptions& o, const MoeBlockInputs& in, std::int64_t t) {
  const std::int64_t hidden = o.experts.hidden;
  std::vector<double> x(static_cast<std::size_t>(hidden));
  std::vector<float> g(x.size());
  for (std::int64_t i = 0; i < hidden; ++i) x[static_cast<std::size_t>(i)] = in.hidden_states.at(t, i);
  decode_row(in.shared_gate, 0, hidden, g.data());
  const Bounded logit =
      round_to(o.experts.dtype, dot(DotLeft(x.data(), hidden), g.data()), o.round_shared_gate);
  return round_to(o.experts.dtype, sigmoid(logit), o.round_shared_gate);
}

// S, stored in T: [M * H].
std::vector<Bounded> unfused_shared(const MoeBlockOptions& o, const MoeBlockInputs& in, std::int64_t tokens) {
  const ExpertsOptions mlp = shared_options(o);
  Routing everyone;
  everyone.topk = 1;
  everyone.ids.assign(static_cast<std::size_t>(tokens), 0);
  everyone.experts = everyone.ids;
  std::vector<Bounded> s = expert_slots(in.hidden_states, shared_weights(in), everyone, mlp);
  if (!o.gated_shared) return s;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const Bounded gate = shared_gate(o, in, t);
    for (std::int64_t h = 0; h < mlp.hidden; ++h) {
      Bounded& element = s[static_cast<std::size_t>(t * mlp.hidden + h)];
      element = round_to(mlp.dtype, element * gate, o.round_shared_gate);
    }
  }
  return s;
}

// ids and weights of all tokens as the gate leaves them, [M * (topk + gating.shared)].
void run_gate(const MoeBlockOptions& o, const MoeBlockInputs& in, std::int64_t tokens,
              MoeBlockResult& result) {
  const Gating gating(o.gating);
  GatingRow row;
  std::vector<std::int64_t> ids;
  std::vector<Bounded> weights;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::size_t slots = static_cast<std::size_t>(o.gating.slots());
    if (gating.is_padded(t, tokens) && o.gating.policy.padding != Padding::kCompute) {
      const bool minus_one = o.gating.policy.padding == Padding::kMinusOne;
      result.ids.insert(result.ids.end(), slots, minus_one ? -1 : 0);
      result.weights.insert(result.weights.end(), slots, Bounded::exact(0));
      result.ambiguous.push_back(false);
      continue;
    }
    gating.scores(in.router_logits, in.e_score_correction_bias, t, row);
    gating.select(row, ids);
    const std::vector<bool> masked = masked_winners(gating, row, ids);
    gating.weights(row, ids, weights, &masked);
    for (std::int64_t i = 0; i < o.gating.shared; ++i) ids.push_back(gating.shared_id(i));
    result.ids.insert(result.ids.end(), ids.begin(), ids.end());
    result.weights.insert(result.weights.end(), weights.begin(), weights.end());
    ids.resize(static_cast<std::size_t>(o.gating.topk));
    result.ambiguous.push_back(selection_is_ambiguous(gating, row, ids));
  }
}

void append_shared_slots(const MoeBlockOptions& o, const MoeBlockInputs& in, std::int64_t tokens,
                         MoeBlockResult& result) {
  SlotInsertionOptions insertion;
  insertion.insertion = *o.insertion;
  insertion.experts = o.gating.experts, insertion.topk = o.gating.topk, insertion.shared = o.shared_experts;
  insertion.append_weight = o.append_weight;
  insertion.ep_rank = o.ep_rank, insertion.ep_size = o.ep_size;
  const bool gated = insertion.insertion == SlotInsertion::kGated;
  const std::vector<double> logits(static_cast<std::size_t>(gated ? tokens * o.shared_experts : 0), 0.0);
  Slots slots = insert_shared_slots(result.ids, result.weights, insertion, logits);
  for (std::int64_t t = 0; gated && t < tokens; ++t) {  // one gate for all chunks of the shared expert
    const Bounded gate = shared_gate(o, in, t);
    for (std::int64_t j = 0; j < o.shared_experts; ++j)
      slots.weights[static_cast<std::size_t>(t * insertion.columns() + o.gating.topk + j)] = gate;
  }
  result.ids = std::move(slots.ids);
  result.weights = std::move(slots.weights);
}

Routing route(const MoeBlockOptions& o, const MoeBlockResult& result) {
  const std::vector<std::int64_t> map = o.expert_map();
  Routing routing;
  routing.topk = result.slots;
  routing.weights = result.weights;
  routing.experts = result.ids;
  for (const std::int64_t id : result.ids)
    routing.ids.push_back(id < 0 ? -1 : map[static_cast<std::size_t>(id)]);
  return routing;
}

// R and S without any factor, from the weighted slots: routed slots over the sum of their weights, shared slots over their own.
void separate(const MoeBlockOptions& o, const std::vector<Bounded>& slots, const Routing& routing,
              MoeBlockResult& result) {
  const std::int64_t hidden = o.experts.hidden, topk = o.gating.topk;
  const bool weighted = o.experts.router_weight == RouterWeight::kOutput;
  for (std::int64_t t = 0; t < routing.tokens(); ++t) {
    double total = 0;
    for (std::int64_t k = 0; k < topk; ++k)
      total += result.weights[static_cast<std::size_t>(t * result.slots + k)].value;
    for (std::int64_t k = 0; k < result.slots; ++k) {
      const auto s = static_cast<std::size_t>(t * result.slots + k);
      if (routing.ids[s] < 0) continue;
      const double divisor = !weighted ? 1 : k < topk ? total : result.weights[s].value;
      std::vector<double>& into = k < topk ? result.routed : result.shared;
      for (std::int64_t h = 0; h < hidden && divisor != 0; ++h)
        into[static_cast<std::size_t>(t * hidden + h)] +=
            slots[s * static_cast<std::size_t>(hidden) + static_cast<std::size_t>(h)].value / divisor;
    }
  }
}

}  // namespace

std::int64_t MoeBlockOptions::columns() const {
  return gating.topk + (fused ? shared_experts : 0) + (sentinel_column(*this) ? 1 : 0);
}

ExpertsOptions MoeBlockOptions::derived_experts() const {
  ExpertsOptions derived = experts;
  const std::int64_t slots = fused ? shared_experts : 0;
  derived.topk = columns();
  derived.experts = gating.experts + slots + (sentinel_column(*this) ? 1 : 0);
  derived.local_experts = gating.experts / ep_size + slots;
  derived.reduce_scale = 1;
  return derived;
}

std::vector<std::int64_t> MoeBlockOptions::expert_map() const {
  const ExpertsOptions derived = derived_experts();
  const std::int64_t per_rank = gating.experts / ep_size, first = ep_rank * per_rank;
  std::vector<std::int64_t> map(static_cast<std::size_t>(derived.experts), -1);
  for (std::int64_t e = 0; e < per_rank; ++e) map[static_cast<std::size_t>(first + e)] = e;
  for (std::int64_t j = 0; fused && j < shared_experts; ++j)
    map[static_cast<std::size_t>(gating.experts + j)] = per_rank + j;
  return map;
}

ScalePlan MoeBlockOptions::effective_plan() const {
  const Gating gate(gating);
  ScalePlan plan = combine.plan;
  plan.fused_shared = fused;
  plan.renormalized = gate.renormalizes();
  if (shared_on_every_rank) plan.shared_copies = static_cast<double>(ep_size);
  // A factor of 1 leaves no trace in the weights: the plan is as declared.
  if (gating.routed_scaling_factor == 1 && combine.routed_scaling_factor == 1) return plan;
  for (const ScalePlace place :
       {ScalePlace::kTopkWeights, ScalePlace::kTopkWeightsAndShared, ScalePlace::kPreDividedShared})
    plan.places = static_cast<std::uint8_t>(plan.places & ~(1U << static_cast<int>(place)));
  const SharedWeight rule = gating.policy.shared_weights;
  const bool by_gate = fused && !insertion && gating.routed_scaling_factor != 1;
  const bool divided = by_gate && (rule == SharedWeight::kPreRenorm ||
                                   (rule == SharedWeight::kUnitIfRenorm && !plan.renormalized));
  if (gate.scales_weights())
    plan = plan.with(divided && rule == SharedWeight::kPreRenorm ? ScalePlace::kTopkWeightsAndShared
                                                                 : ScalePlace::kTopkWeights);
  if (divided && !plan.has(ScalePlace::kTopkWeightsAndShared))
    plan = plan.with(ScalePlace::kPreDividedShared);
  return plan;
}

std::optional<std::string> refusal(const MoeBlockOptions& o, const MoeBlockInputs& in) {
  if (auto why = refusal(o.gating)) return why;
  if (o.ep_size < 1 || o.ep_rank < 0 || o.ep_rank >= o.ep_size || o.gating.experts % o.ep_size != 0)
    return "ep_rank=" + text(o.ep_rank) + ", ep_size=" + text(o.ep_size) +
           " with experts=" + text(o.gating.experts) +
           ": each rank needs the same number of experts, and a rank in 0.." + text(o.ep_size - 1);
  if (o.fused != o.combine.plan.fused_shared) return "fused and combine.plan.fused_shared disagree: set both";
  if (o.fused && o.gated_shared)
    return "gated_shared is for the unfused shared experts: fused slots take SlotInsertion::kGated";
  if (o.insertion == SlotInsertion::kSglang)
    return "insertion sglang happens in the gate: set gating.shared and SharedWeight::kPreRenorm instead";
  if (o.gating.shared != (o.fused && !o.insertion ? o.shared_experts : 0))
    return "gating.shared=" + text(o.gating.shared) + " with shared_experts=" + text(o.shared_experts) +
           ": the gate writes all fused slots, or none where an insertion does";
  const Shape& x = in.hidden_states.shape;
  if (x.rank != 2 || in.router_logits.shape != Shape(x[0], o.gating.logit_columns()))
    return "router_logits must be [M, " + text(o.gating.logit_columns()) +
           "] for the M rows of hidden_states";
  if (o.gating.has_bias && in.e_score_correction_bias.shape.numel() != o.gating.experts)
    return "e_score_correction_bias must have " + text(o.gating.experts) + " elements";
  if (auto why = refusal(o.derived_experts(), in.hidden_states, in.experts)) return why;
  const bool gate = o.gated_shared || o.insertion == SlotInsertion::kGated;
  if (gate && in.shared_gate.shape.numel() != o.experts.hidden)
    return "shared_gate must be [1, hidden=" + text(o.experts.hidden) + "]";
  if (o.fused || o.shared_experts == 0) return std::nullopt;
  if (!in.shared_w13 || !in.shared_w2)
    return "shared_w13 and shared_w2 are missing: shared_experts=" + text(o.shared_experts) +
           " are not fused";
  if (auto why = refusal(shared_options(o), in.hidden_states, shared_weights(in)))
    return "shared experts: " + *why;
  return std::nullopt;
}

MoeBlockResult moe_block(const MoeBlockInputs& inputs, const MoeBlockOptions& options) {
  if (const auto why = refusal(options, inputs)) throw std::invalid_argument(*why);
  const std::int64_t tokens = inputs.hidden_states.shape[0], hidden = options.experts.hidden;
  MoeBlockResult result;
  result.slots = options.columns();
  run_gate(options, inputs, tokens, result);
  if (options.fused && options.insertion) append_shared_slots(options, inputs, tokens, result);

  const ExpertsOptions experts = options.derived_experts();
  const Routing routing = route(options, result);
  const std::vector<Bounded> slots = expert_slots(inputs.hidden_states, inputs.experts, routing, experts);
  const std::vector<Bounded> reduced = reduce_experts(slots, routing, experts);
  result.routed.assign(static_cast<std::size_t>(tokens * hidden), 0);
  result.shared.assign(result.routed.size(), 0);
  separate(options, slots, routing, result);

  const bool unfused = !options.fused && options.shared_experts > 0;
  const bool here = options.ep_rank == 0 || options.shared_on_every_rank;
  std::vector<Bounded> shared;
  if (unfused) shared = unfused_shared(options, inputs, tokens);
  for (std::size_t i = 0; i < shared.size(); ++i) result.shared[i] = shared[i].value;

  CombineOptions combine = options.combine;
  combine.dtype = options.experts.dtype;
  result.out.reserve(reduced.size());
  for (std::size_t i = 0; i < reduced.size(); ++i)
    result.out.push_back(scale_and_add(
        reduced[i], unfused && here ? std::optional<Bounded>(shared[i]) : std::nullopt, combine));
  return result;
}

}  // namespace moecheck::reference
