// Contract of moe_block: router logits and hidden states in, the block's output out (reference/moe_block.h).
//
// The router logits are made so that the selection is decided, by a wide margin: which experts win is gating's to test.
#include "harness/operators/moe_block.h"

#include <fmt/format.h>

#include <set>

#include <algorithm>

#include "harness/judge.h"
#include "harness/operators/operators.h"
#include "reference/gating_policies.h"

namespace moecheck::harness {
namespace {

using reference::MoeBlockOptions;
using reference::Rounding;
using reference::ScalePlace;
using reference::ScalePlan;
using reference::SharedWeight;
using reference::SlotInsertion;

std::vector<std::string> gate_names() {
  std::vector<std::string> names;
  for (const reference::GatingPreset& p : reference::gating_presets()) names.emplace_back(p.name);
  return names;
}

Schema make_schema() {
  Schema s;
  s.name = "moe_block";
  s.fields = {
      int_field("tokens", 4, 0, 1 << 20, "rows (M)"),
      int_field("experts", 16, 1, 4096, "routed experts over all ranks (E)"),
      int_field("groups", 1, 1, 256, "expert groups (n_group)"),
      int_field("topk_group", 1, 1, 256, "groups kept"),
      int_field("topk", 2, 1, 64, "routed experts per token (K)"),
      int_field("n_shared", 1, 0, 16, "shared experts (n)"),
      choice_field("scoring", {"sigmoid", "softmax", "sqrtsoftplus"}, "score function"),
      flag_field("renormalize", true, "norm_topk_prob"),
      real_field("rsf", 2.5, 1e-3, 1e3, "routed_scaling_factor"),
      choice_field("bias", {"f32", "bf16", "f16", "none"}, "dtype of e_score_correction_bias, or none"),
      dtype_field("logits", {DType::kF32, DType::kBF16, DType::kF16}, "of router_logits"),
      flag_field("shared_gate", false,
                 "the shared output is multiplied by sigmoid of its own gate (Qwen3-Next)"),
      fixed(choice_field("gate", gate_names(), "whose gate: a policy of operator gating")),
      flag_field("fused", false, "the shared experts are slots of the top-k"),
      choice_field("insertion", {"gate", "aiter_append", "vllm_rocm", "gated"},
                   "who writes the fused slots: the gate, or what comes after it"),
      choice_field("place",
                   {"topk_weights", "topk_weights_and_shared", "reduce", "output", "shared_add_alpha",
                    "runner", "runner_half"},
                   "where rsf is multiplied in: reference/routed_scaling.h"),
      choice_field("router_weight", {"output", "input"}, "what the router weight multiplies"),
      choice_field("shared_clamp", {"same", "none"},
                   "none: the unfused shared experts do not clamp (DeepSeek-V4)"),
      rounding_field("round_sum", "any", "to T: the sum, before the reduce kernel multiplies it"),
      rounding_field("round_reduced", "any", "to T: what the reduce kernel stores"),
      rounding_field("round_scaled", "any", "to T: what output or runner stores"),
      rounding_field("round_shared_gate", "any", "to T: the shared gate's logit, sigmoid and product"),
  };
  for (Field& f : expert_fields()) s.fields.push_back(std::move(f));
  s.fields.push_back(fixed(data_field({"realistic", "integers", "hot_expert", "nan_in_unrouted",
                                       "duplicate_tokens", "zero_rows", "padding", "large", "subnormal"})));
  s.policies = moe_block_policies();
  s.edits = {{"zero", "ROW of hidden_states is 0", 1}, {"nan", "ROW of hidden_states is NaN", 1}};
  return s;
}

const Schema& schema_of() {
  static const Schema schema = make_schema();
  return schema;
}

const reference::GatingPreset& gate_preset(const Case& c) {
  return *reference::find_gating_preset(c.choice("gate"));
}

bool scales_in_weights(const Case& c) { return c.choice("place").starts_with("topk_weights"); }

// The factor the gate is given: 1 where somebody else multiplies, unless it needs it for the fused shared slot.
double gate_factor(const Case& c) {
  const SharedWeight rule = gate_preset(c).policy.shared_weights;
  const bool divides = c.flag("fused") && c.choice("insertion") == "gate" &&
                       (rule == SharedWeight::kPreRenorm || rule == SharedWeight::kUnitIfRenorm);
  return scales_in_weights(c) || divides ? c.real("rsf") : 1;
}

reference::GatingOptions gate_options(const Case& c) {
  reference::GatingOptions o;
  o.experts = c.integer("experts");
  o.groups = c.integer("groups");
  o.topk_group = c.integer("topk_group");
  o.topk = c.integer("topk");
  o.shared = c.choice("insertion") == "gate" ? fused_shared_slots(c) : 0;
  o.scoring = c.choice_as<reference::Scoring>("scoring");
  o.renormalize = c.flag("renormalize");
  o.routed_scaling_factor = gate_factor(c);
  const auto rule = gate_preset(c).policy.scale_weights;
  const bool by_flag =
      rule == reference::ScaleWeights::kIfFlag || rule == reference::ScaleWeights::kIfFlagAndRenorm;
  o.scale_flag = by_flag && scales_in_weights(c);  // the others ask no flag, and some refuse one
  o.logits_dtype = c.dtype("logits");
  o.has_bias = c.choice("bias") != "none";
  if (o.has_bias) o.bias_dtype = c.dtype("bias");
  o.padded_tokens = c.integer("tokens") - padding_begin(c);
  o.policy = gate_preset(c).policy;
  return o;
}

std::optional<std::string> shared_refusal(const Case& c) {
  const bool fused = c.flag("fused"), gated = c.choice("insertion") == "gated";
  if (fused && c.integer("n_shared") == 0)
    return "fused=1 with n_shared=0: there is nothing to fuse; use fused=0";
  if (!fused && c.choice("insertion") != "gate")
    return fmt::format("insertion={} with fused=0: there are no slots to insert; use insertion=gate",
                       c.choice("insertion"));
  const bool gate_column = gate_preset(c).policy.shared_weights == SharedWeight::kGated;
  if (fused && c.flag("shared_gate") != (gated || gate_column))
    return fmt::format(
        "shared_gate={} with fused=1 insertion={}: gated slots need insertion=gated, others shared_gate=0",
        c.integer("shared_gate"), c.choice("insertion"));
  if (c.flag("shared_gate") && c.integer("n_shared") == 0)
    return "shared_gate=1 with n_shared=0: there is nothing to gate; use shared_gate=0";
  if (fused && c.integer("ep_size") > 1 && (c.choice("insertion") == "gate" || gated))
    return fmt::format(
        "fused=1 insertion={} with ep_size={}: every rank would count the shared slots; use "
        "insertion=aiter_append or vllm_rocm",
        c.choice("insertion"), c.integer("ep_size"));
  if (fused && c.choice("shared_clamp") == "none" && c.choice("clamp") != "none")
    return "shared_clamp=none with fused=1: fused slots clamp as the routed experts do; use fused=0";
  const std::string_view place = c.choice("place");
  if ((place == "shared_add_alpha" || place == "runner_half") && !has_shared_mlp(c))
    return fmt::format("place={} needs a shared output: use fused=0 and n_shared=1", place);
  if (place == "runner_half" && c.integer("ep_size") > 1)
    return fmt::format(
        "place=runner_half with ep_size={}: ranks without a shared output would multiply the routed one "
        "instead; use ep_size=1",
        c.integer("ep_size"));
  return std::nullopt;
}

// The weights of equal scores are 1/K; nothing of what follows may leave open whether it rounds.
std::optional<std::string> exact_refusal(const Case& c) {
  if (!data_is(c, "integers")) return std::nullopt;
  const bool renormalized =
      c.flag("renormalize") || gate_preset(c).policy.renorm == reference::Renorm::kAlways;
  if ((renormalized || c.choice("scoring") == "softmax") &&
      !is_power_of_two(static_cast<double>(c.integer("topk"))))
    return fmt::format("data=integers needs topk to be a power of two, as weights are 1/topk: topk={}",
                       c.integer("topk"));
  if (!renormalized && c.choice("scoring") == "sqrtsoftplus")
    return "data=integers needs renormalize=1 with scoring=sqrtsoftplus: raw scores are not powers of two";
  if (c.dtype("dtype") == DType::kF32)
    return "data=integers needs dtype=bf16 or f16: in f32 the gate's weights are exact only to a few ulps";
  if (c.flag("shared_gate"))
    return "data=integers needs shared_gate=0: a sigmoid is not exact; use data=realistic";
  if (c.choice("router_weight") == "input")
    return "data=integers needs router_weight=output: weights of 1/topk take silu off its exact range";
  for (const std::string_view field : {"round_slot", "round_sum", "round_reduced", "round_scaled"})
    if (c.choice(field) == "any")
      return fmt::format(
          "data=integers needs {}=round or none: any leaves open what becomes of the gate's last ulps; "
          "choose a project's policy",
          field);
  if (c.choice("accumulate") == "dtype" && c.choice("order") == "any")
    return "data=integers with accumulate=dtype needs order=slot or expert";
  return std::nullopt;
}

class MoeBlock final : public Operator {
 public:
  const Schema& schema() const override { return schema_of(); }
  std::string_view summary() const override {
    return "the MoE block of one layer: gating, experts, routed scaling, shared experts";
  }

  std::optional<std::string> refusal(const Case& c) const override {
    if (auto why = expert_fields_refusal(c)) return why;
    if (auto why = edits_refusal(c, c.integer("tokens"), 1)) return why;
    if (auto why = shared_refusal(c)) return why;
    const reference::GatingOptions gate = gate_options(c);
    if (auto why = reference::refusal(gate)) return why;
    const auto refuses = gate_preset(c).refuses;
    if (auto why = refuses == nullptr ? std::nullopt : refuses(gate, c.integer("tokens")))
      return fmt::format("gate={}: {}", c.choice("gate"), *why);
    if (auto why = exact_refusal(c)) return why;
    if (c.real("rsf") == 1) return std::nullopt;  // no plan can be wrong
    if (auto why = moe_block_options(c).effective_plan().check())
      return fmt::format("gate={} place={} fused={}: {}", c.choice("gate"), c.choice("place"),
                         c.integer("fused"), *why);
    return std::nullopt;
  }

  std::vector<TensorSpec> inputs(const Case& c) const override;
  std::vector<TensorSpec> outputs(const Case& c) const override {
    return {{"out", c.dtype("dtype"), Shape(c.integer("tokens"), c.integer("hidden")), "[tokens, hidden]"}};
  }

  void generate(const Case& c, TensorSet& inputs) const override { generate_moe_block(c, inputs); }

  std::unique_ptr<Expected> reference(const Case& c, const TensorSet& inputs) const override {
    auto expected = std::make_unique<BlockExpected>();
    expected->result = reference::moe_block(moe_block_inputs(inputs), moe_block_options(c));
    return expected;
  }

  void judge(const Case& c, const TensorSet&, const Expected& expected, const TensorSet& outputs,
             Judgement& j) const override;

  std::string likely_cause(const Case& c, const TensorSet& inputs, const Expected& expected,
                           const TensorSet& outputs) const override {
    return moe_block_cause(c, inputs, static_cast<const BlockExpected&>(expected), outputs);
  }

  void reference_outputs(const Case&, const TensorSet&, const Expected& expected,
                         TensorSet& outputs) const override {
    write_rounded(outputs.at("out"), static_cast<const BlockExpected&>(expected).result.out);
  }

  std::span<const Relation> relations() const override { return moe_block_relations(); }
  std::vector<Case> cases(Suite suite) const override { return moe_block_cases(suite); }
  std::optional<double> bytes_moved(const Case& c, const TensorSet& inputs) const override;
};

// Every input once, but of the experts' weights only those of experts that a token is routed to, and the output.
std::optional<double> MoeBlock::bytes_moved(const Case& c, const TensorSet& inputs) const {
  const reference::Gating gate(gate_options(c));
  const std::int64_t local = gate.options().experts / c.integer("ep_size"), first = local * c.integer("ep_rank");
  reference::GatingRow row;
  std::vector<std::int64_t> ids;
  std::set<std::int64_t> routed;
  for (std::int64_t t = 0; t < c.integer("tokens"); ++t) {
    gate.scores(inputs.view("router_logits"), inputs.view("e_score_correction_bias"), t, row);
    gate.select(row, ids);
    for (const std::int64_t id : ids)
      if (id >= first && id < first + local) routed.insert(id);
  }
  const double read = static_cast<double>(std::ssize(routed) + fused_shared_slots(c)) / static_cast<double>(local + fused_shared_slots(c));
  double bytes = static_cast<double>(c.integer("tokens") * c.integer("hidden") * reference::size_bytes(c.dtype("dtype")));
  for (const Tensor& t : inputs.tensors())
    bytes += static_cast<double>(t.bytes()) * (t.name().starts_with("w") && t.shape().rank == 3 ? read : 1.0);
  return bytes;
}

std::vector<TensorSpec> MoeBlock::inputs(const Case& c) const {
  const std::int64_t tokens = c.integer("tokens"), hidden = c.integer("hidden"),
                     fused = fused_shared_slots(c);
  const reference::GatingOptions gate = gate_options(c);
  std::vector<TensorSpec> specs = {
      {"hidden_states", c.dtype("dtype"), Shape(tokens, hidden), "[tokens, hidden]"},
      {"router_logits", gate.logits_dtype, Shape(tokens, gate.logit_columns()), "[tokens, experts]"}};
  if (gate.has_bias)
    specs.push_back(
        {"e_score_correction_bias", gate.bias_dtype, Shape(gate.experts), "unless bias=none", true});
  const auto add = [&](std::vector<TensorSpec> more) { specs.insert(specs.end(), more.begin(), more.end()); };
  add(mlp_specs(c, "", gate.experts / c.integer("ep_size") + fused, c.integer("intermediate")));
  if (has_shared_mlp(c))
    add(mlp_specs(c, "shared_", std::nullopt, c.integer("n_shared") * c.integer("intermediate")));
  if (c.flag("shared_gate") && (!c.flag("fused") || c.choice("insertion") == "gated"))
    specs.push_back({"shared_gate", c.dtype("dtype"), Shape(1, hidden), "when shared_gate=1", true});
  return specs;
}

// Elements of the exact tier that two results would be right for. The data are multiples of 2^-8: a sum that cancels to 0 up to the
// last ulps of the gate's weights is decided too.
std::int64_t left_open(const Tensor& out, const reference::MoeBlockResult& result,
                       std::span<const std::uint8_t> skip) {
  std::int64_t open = 0;
  const std::int64_t columns = out.shape()[1];
  for (std::size_t i = 0; i < result.out.size(); ++i) {
    const reference::Bounded& b = result.out[i];
    if (skip[i / at(columns)] == 0 && b.proven > 0x1p-12)
      open += reference::round_to(out.dtype(), b.value - b.proven) !=
              reference::round_to(out.dtype(), b.value + b.proven);
  }
  return open;
}

void MoeBlock::judge(const Case& c, const TensorSet&, const Expected& expected, const TensorSet& outputs,
                     Judgement& j) const {
  const reference::MoeBlockResult& result = static_cast<const BlockExpected&>(expected).result;
  const std::int64_t tokens = c.integer("tokens");
  std::vector<std::uint8_t> skip(at(tokens));
  std::int64_t undecided = 0;
  for (std::int64_t t = 0; t < tokens; ++t) {
    skip[at(t)] = result.ambiguous[at(t)];
    undecided += skip[at(t)];
  }
  j.undecided += undecided;
  ElementRules rules;
  rules.skip_rows = skip;
  rules.may_be_zero = !c.edits.empty() || data_is(c, "zero_rows") || data_is(c, "padding") || undecided > 0 ||
                      (c.integer("ep_size") > 1 && c.choice("insertion") == "vllm_rocm");
  const Tensor& out = outputs.at("out");
  judge_elements(j, out, result.out, rules);
  if (undecided > 0)
    j.raise(Verdict::kUndecided,
            fmt::format("{} of {} rows: near-ties leave their experts open", undecided, tokens));
  if (10 * undecided > tokens)
    j.raise(Verdict::kMistrusted,
            fmt::format(
                "{} of {} rows are undecided: too few are left to judge; choose other data or another gate",
                undecided, tokens));
  if (!data_is(c, "integers")) return;
  if (const std::int64_t open = left_open(out, result, skip); open > 0)
    j.raise(Verdict::kMistrusted,
            fmt::format("the exact tier of out leaves {} elements open between two results", open));
}

}  // namespace

std::int64_t fused_shared_slots(const Case& c) { return c.flag("fused") ? c.integer("n_shared") : 0; }
bool has_shared_mlp(const Case& c) { return !c.flag("fused") && c.integer("n_shared") > 0; }

MoeBlockOptions moe_block_options(const Case& c) {
  MoeBlockOptions o;
  o.gating = gate_options(c);
  o.experts = experts_options(c);
  o.experts.reduce_scale = 1;  // the reduce multiplies by combine.plan
  o.combine.dtype = o.experts.dtype;
  o.combine.reduce = o.experts.reduce;
  o.combine.plan = scale_plan(c);
  o.combine.routed_scaling_factor = c.real("rsf");
  o.combine.weights_applied = true;
  o.combine.round_sum = c.choice_as<Rounding>("round_sum");
  o.combine.round_reduced = c.choice_as<Rounding>("round_reduced");
  o.combine.round_scaled = c.choice_as<Rounding>("round_scaled");
  o.shared_experts = c.integer("n_shared");
  o.fused = c.flag("fused");
  if (c.choice("shared_clamp") == "none") {
    o.shared_activation = o.experts.activation;
    o.shared_activation->clamp = reference::Clamp::kNone;
  }
  const std::string_view insertion = c.choice("insertion");
  if (insertion == "aiter_append") o.insertion = SlotInsertion::kAiterAppend;
  if (insertion == "vllm_rocm") o.insertion = SlotInsertion::kVllmRocm;
  if (insertion == "gated") o.insertion = SlotInsertion::kGated;
  o.ep_rank = c.integer("ep_rank");
  o.ep_size = c.integer("ep_size");
  o.append_weight =
      1.0 / static_cast<double>(o.ep_size);  // every rank computes the slot, and the ranks are summed
  o.gated_shared = c.flag("shared_gate") && !o.fused;
  o.round_shared_gate = c.choice_as<Rounding>("round_shared_gate");
  return o;
}

reference::MoeBlockInputs moe_block_inputs(const TensorSet& inputs) {
  reference::MoeBlockInputs in;
  in.hidden_states = inputs.view("hidden_states");
  in.router_logits = inputs.view("router_logits");
  in.e_score_correction_bias = inputs.view("e_score_correction_bias");
  in.experts = {inputs.view("w13"), inputs.view("w2"), inputs.view("w13_scale"), inputs.view("w2_scale")};
  in.shared_w13 = inputs.view("shared_w13");
  in.shared_w2 = inputs.view("shared_w2");
  in.shared_w13_scale = inputs.view("shared_w13_scale");
  in.shared_w2_scale = inputs.view("shared_w2_scale");
  in.shared_gate = inputs.view("shared_gate");
  return in;
}

const Operator& moe_block_operator() {
  static const MoeBlock op;
  return op;
}

}  // namespace moecheck::harness
