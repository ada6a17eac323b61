// gating: router_logits -> topk_ids, topk_weights. Semantics: reference/gating.h; upstream presets: reference/gating_policies.h.
#include "harness/operators/gating.h"

#include <fmt/format.h>

#include "harness/judge.h"
#include "harness/operators/operators.h"
#include "reference/gating_policies.h"

namespace moecheck::harness {

using namespace reference;  // NOLINT: this file is the adapter of reference/gating.h

namespace {

// A policy field: its name on the case line, its values in the enum's order, and how it is read from and put into a policy.
struct PolicyField {
  const char* name;
  std::vector<std::string> values;
  const char* doc;
  std::int64_t (*get)(const GatingPolicy&);
  void (*set)(GatingPolicy&, std::int64_t);
};

#define MOECHECK_MEMBER(member)                                              \
  [](const GatingPolicy& p) { return static_cast<std::int64_t>(p.member); }, \
      [](GatingPolicy& p, std::int64_t v) { p.member = static_cast<decltype(p.member)>(v); }

const std::vector<PolicyField>& policy_fields() {
  static const std::vector<std::string> tie = {"low", "high", "any", "bit_reversed", "lane64"};
  static const std::vector<PolicyField> fields = {
      {"score_math",
       {"exp", "tanh", "log2"},
       "how the score function is evaluated",
       MOECHECK_MEMBER(score_math)},
      {"precision",
       {"f32", "score", "select", "all"},
       "what is rounded to the logits' dtype",
       MOECHECK_MEMBER(precision)},
      {"bias_cast",
       {"keep", "logits_dtype"},
       "whether the bias is cast to the logits' dtype",
       MOECHECK_MEMBER(bias_cast)},
      {"bias_on", {"choice", "logits"}, "where the bias enters", MOECHECK_MEMBER(bias_on)},
      {"weight_from",
       {"score", "choice_less_bias"},
       "where the unbiased weight comes from",
       MOECHECK_MEMBER(weight_from)},
      {"group_score",
       {"auto", "top2_sum", "max", "top2_distinct"},
       "score of a group",
       MOECHECK_MEMBER(group_score)},
      {"group_tie", tie, "which of two equal groups comes first", MOECHECK_MEMBER(group_tie)},
      {"expert_tie", tie, "which of two equal experts comes first", MOECHECK_MEMBER(expert_tie)},
      {"masked",
       {"neg_inf", "zero"},
       "what experts outside the selected groups compete with",
       MOECHECK_MEMBER(masked)},
      {"epsilon",
       {"none", "add", "max", "guard"},
       "divisor of renormalization: S, S+1e-20, max(S,1e-20), S>0?S:1",
       MOECHECK_MEMBER(epsilon)},
      {"renorm", {"flag", "always"}, "whether renormalize=0 is honoured", MOECHECK_MEMBER(renorm)},
      {"scale_weights",
       {"never", "always", "if_renorm", "if_flag", "if_flag_and_renorm"},
       "when rsf multiplies the weights",
       MOECHECK_MEMBER(scale_weights)},
      {"shared_weights",
       {"none", "pre_renorm", "unit", "constant", "unit_if_renorm", "gated"},
       "weight of a fused shared slot",
       MOECHECK_MEMBER(shared_weights)},
      {"shared_ids",
       {"each", "same"},
       "ids of the shared slots: E+i, or E for all",
       MOECHECK_MEMBER(shared_ids)},
      {"order", {"score", "id", "any"}, "order of the routed slots", MOECHECK_MEMBER(order)},
      {"non_finite",
       {"undefined", "finite_only", "score_zero", "lowest", "logit_zero"},
       "what a NaN logit means",
       MOECHECK_MEMBER(non_finite)},
      {"padding", {"compute", "minus_one", "zero_expert"}, "what padded rows hold", MOECHECK_MEMBER(padding)},
  };
  return fields;
}

#undef MOECHECK_MEMBER

Schema make_schema() {
  Schema s;
  s.name = "gating";
  const std::vector<DType> floats = {DType::kF32, DType::kBF16, DType::kF16};
  s.fields = {
      int_field("tokens", 4, 0, 1 << 20, "rows of router_logits (M)"),
      int_field("experts", 256, 1, 4096, "routed experts (E)"),
      int_field("groups", 1, 1, 256, "expert groups (n_group)"),
      int_field("topk_group", 1, 1, 256, "groups kept"),
      int_field("topk", 8, 1, 64, "routed experts per token (K)"),
      int_field("shared_slots", 0, 0, 16, "fused shared experts, appended as slots"),
      choice_field("scoring", {"sigmoid", "softmax", "sqrtsoftplus"}, "score function"),
      flag_field("renormalize", true, "norm_topk_prob"),
      real_field("rsf", 2.5, 1e-3, 1e3, "routed_scaling_factor"),
      flag_field("scale_flag", false, "sglang's apply_routed_scaling_factor_on_output"),
      real_field("shared_weight", 1.0, -1e3, 1e3, "weight of shared slots when shared_weights=constant"),
      dtype_field("dtype", floats, "of router_logits"),
      choice_field("bias", {"f32", "bf16", "f16", "none"}, "dtype of e_score_correction_bias, or none"),
      dtype_field("ids", {DType::kI32, DType::kI64}, "of topk_ids"),
      int_field("padded", 0, 0, 1 << 20, "rows at the end that are padding"),
      flag_field("remap", false, "ids go through logical_to_physical (EPLB)"),
      fixed(choice_field(
          "data",
          {"realistic", "integers", "ties", "near_ties", "negative", "large_bias", "wide", "uniform", "hot"},
          "how the logits and the bias are made")),
  };
  for (Field& f : gating_policy_fields()) s.fields.push_back(fixed(std::move(f)));
  for (const GatingPreset& p : gating_presets())
    s.policies.push_back({std::string(p.name), std::string(p.summary), gating_policy_values(p.policy)});
  s.edits = {
      {"nan", "logit [ROW, COL] is NaN", 2},
      {"inf", "logit [ROW, COL] is +Inf", 2},
      {"neg_inf", "logit [ROW, COL] is -Inf", 2},
      {"zero", "all logits of ROW are 0", 1},
      {"neg_zero", "all logits of ROW are -0", 1},
      {"subnormal", "all logits of ROW are subnormal", 1},
      {"tie", "expert COL+1 gets the logit and bias of expert COL in ROW", 2},
      {"copy", "ROW repeats row 0", 1},
      {"all_nan", "all logits of ROW are NaN", 1},
      {"lowest", "all logits of ROW are the lowest finite number", 1},
  };
  return s;
}

class GatingOperator final : public Operator {
 public:
  const Schema& schema() const override { return gating_schema(); }
  std::string_view summary() const override {
    return "router logits to the experts of each token and their weights";
  }

  std::optional<std::string> refusal(const Case& c) const override {
    const GatingOptions o = gating_options(c);
    if (o.padded_tokens > c.integer("tokens"))
      return fmt::format("padded={} exceeds tokens={}: padded rows are among the tokens", o.padded_tokens,
                         c.integer("tokens"));
    if (auto why = reference::refusal(o)) return why;
    const GatingPreset* preset = find_gating_preset(c.policy());
    return preset == nullptr || preset->refuses == nullptr ? std::nullopt
                                                           : preset->refuses(o, c.integer("tokens"));
  }

  std::vector<TensorSpec> inputs(const Case& c) const override {
    const GatingOptions o = gating_options(c);
    std::vector<TensorSpec> specs = {{"router_logits", o.logits_dtype,
                                      Shape(c.integer("tokens"), o.logit_columns()),
                                      "[tokens, experts] (plus one column per gated shared slot)"}};
    if (o.has_bias)
      specs.push_back(
          {"e_score_correction_bias", o.bias_dtype, Shape(o.experts), "[experts], unless bias=none", true});
    if (c.flag("remap"))
      specs.push_back({"logical_to_physical", DType::kI32, Shape(o.experts),
                       "[experts] a permutation, when remap=1", true});
    return specs;
  }

  std::vector<TensorSpec> outputs(const Case& c) const override {
    const GatingOptions o = gating_options(c);
    const Shape shape(c.integer("tokens"), o.slots());
    return {{"topk_weights", DType::kF32, shape, "[tokens, topk + shared_slots]"},
            {"topk_ids", c.dtype("ids"), shape, "[tokens, topk + shared_slots]"}};
  }

  void generate(const Case& c, TensorSet& inputs) const override { generate_gating(c, inputs); }

  std::unique_ptr<Expected> reference(const Case& c, const TensorSet& inputs) const override {
    return gating_expected(gating_options(c), inputs);
  }

  void judge(const Case&, const TensorSet& inputs, const Expected& expected, const TensorSet& outputs,
             Judgement& j) const override {
    judge_gating(inputs, static_cast<const GatingExpected&>(expected), outputs, j);
  }

  void reference_outputs(const Case&, const TensorSet& inputs, const Expected& expected,
                         TensorSet& outputs) const override;
  void blank_unspecified(const Case& c, const TensorSet& inputs, TensorSet& outputs) const override;

  std::string likely_cause(const Case& c, const TensorSet& inputs, const Expected&,
                           const TensorSet& outputs) const override {
    return gating_cause(c, inputs, outputs);
  }
  std::span<const Relation> relations() const override { return gating_relations(); }
  std::vector<Case> cases(Suite suite) const override { return gating_cases(suite); }
};

void GatingOperator::reference_outputs(const Case& c, const TensorSet& inputs, const Expected& expected,
                                       TensorSet& outputs) const {
  const auto& e = static_cast<const GatingExpected&>(expected);
  const GatingOptions& o = e.gating.options();
  const std::int64_t tokens = c.integer("tokens");
  const View weights = outputs.view("topk_weights"), ids = outputs.view("topk_ids");
  const ConstView table = inputs.view("logical_to_physical");
  std::vector<Bounded> w;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const bool masked = e.gating.is_padded(t, tokens) && o.policy.padding != Padding::kCompute;
    const auto i = static_cast<std::size_t>(t);
    if (!masked) e.gating.weights(e.rows[i], e.selections[i], w, &e.masked[i]);
    for (std::int64_t k = 0; k < o.slots(); ++k) {
      const std::int64_t at = t * o.slots() + k;
      if (masked) {
        ids.set_int(at, o.policy.padding == Padding::kMinusOne ? -1 : 0);
        weights.set(at, 0);
        continue;
      }
      std::int64_t id = k < o.topk ? e.selections[static_cast<std::size_t>(t)][static_cast<std::size_t>(k)]
                                   : e.gating.shared_id(k - o.topk);
      if (table && id < o.experts) id = table.int_at(id);
      ids.set_int(at, id);
      weights.set(at, w[static_cast<std::size_t>(k)].value);
    }
  }
}

void GatingOperator::blank_unspecified(const Case& c, const TensorSet& inputs, TensorSet& outputs) const {
  const GatingOptions o = gating_options(c);
  const std::int64_t tokens = c.integer("tokens");
  if (o.policy.padding != Padding::kMinusOne) return;
  (void)inputs;
  const View weights = outputs.view("topk_weights");
  for (std::int64_t t = tokens - o.padded_tokens; t < tokens; ++t)
    for (std::int64_t k = 0; k < o.slots(); ++k) weights.set(t * o.slots() + k, 0);
}

}  // namespace

std::vector<Field> gating_policy_fields() {
  std::vector<Field> fields;
  for (const PolicyField& p : policy_fields()) fields.push_back(choice_field(p.name, p.values, p.doc));
  return fields;
}

GatingPolicy gating_policy(const Case& c) {
  GatingPolicy policy;
  // The policy fields stand together in the schema, in the order of policy_fields().
  int i = c.schema().find(policy_fields().front().name);
  for (const PolicyField& p : policy_fields()) p.set(policy, c.value(i++).i);
  return policy;
}

std::vector<std::pair<std::string, std::string>> gating_policy_values(const GatingPolicy& policy) {
  std::vector<std::pair<std::string, std::string>> values;
  for (const PolicyField& p : policy_fields())
    values.emplace_back(p.name, p.values[static_cast<std::size_t>(p.get(policy))]);
  return values;
}

const Schema& gating_schema() {
  static const Schema schema = make_schema();
  return schema;
}

GatingOptions gating_options(const Case& c) {
  GatingOptions o;
  o.experts = c.integer("experts");
  o.groups = c.integer("groups");
  o.topk_group = c.integer("topk_group");
  o.topk = c.integer("topk");
  o.shared = c.integer("shared_slots");
  o.scoring = c.choice_as<Scoring>("scoring");
  o.renormalize = c.flag("renormalize");
  o.routed_scaling_factor = c.real("rsf");
  o.scale_flag = c.flag("scale_flag");
  o.shared_weight = c.real("shared_weight");
  o.logits_dtype = c.dtype("dtype");
  o.has_bias = c.choice("bias") != "none";
  if (o.has_bias) o.bias_dtype = c.dtype("bias");
  o.padded_tokens = c.integer("padded");
  o.policy = gating_policy(c);
  return o;
}

const Operator& gating_operator() {
  static const GatingOperator op;
  return op;
}

}  // namespace moecheck::harness
