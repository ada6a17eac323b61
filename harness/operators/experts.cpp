// Contract of experts: gather, GEMM, gated activation, GEMM, weight, reduce (reference/experts.h).
#include "harness/operators/experts.h"

#include <fmt/format.h>

#include <array>
#include <set>

#include "harness/judge.h"
#include "harness/operators/operators.h"

namespace moecheck::harness {
namespace {

Schema make_schema() {
  Schema s;
  s.name = "experts";
  s.fields = {
      int_field("tokens", 4, 0, 1 << 20, "rows of hidden_states (M)"),
      int_field("experts", 8, 1, 4096, "experts over all ranks (E), fused shared slots included"),
      int_field("topk", 2, 1, 64, "slots of a token (K), fused shared slots included"),
  };
  for (Field& f : expert_fields()) s.fields.push_back(std::move(f));
  s.fields.push_back(choice_field("router_weight", {"output", "input", "none"},
                                  "what the router weight multiplies: reference/experts.h"));
  s.fields.push_back(choice_field("place", {"none", "reduce"}, "whether the reduce multiplies by rsf"));
  s.fields.push_back(real_field("rsf", 2.5, 1e-3, 1e3, "routed_scaling_factor, where place=reduce"));
  s.fields.push_back(fixed(
      data_field({"realistic", "integers", "hot_expert", "empty_experts", "minus_one", "nan_in_unrouted",
                  "duplicate_tokens", "zero_rows", "padding", "large", "subnormal"})));
  const auto policy = [&](std::string name, std::string doc, std::string_view kernel, FieldValues more = {}) {
    FieldValues values = kernel_fields(kernel);
    values.insert(values.end(), more.begin(), more.end());
    s.policies.push_back({std::move(name), std::move(doc), std::move(values)});
  };
  policy("any", "a kernel whose roundings are not known", "any");
  policy("triton", "vLLM fused_moe: every intermediate stored in T, fp32 sum", "triton");
  policy("triton_moe_sum", "the same with moe_sum for topk 2 to 4: added in T", "triton",
         {{"accumulate", "dtype"}});
  policy("sglang_triton", "sglang fused_moe: the reduce multiplies by rsf", "triton", {{"place", "reduce"}});
  policy("fused_f32", "cutlass, CK: fp32 from the first GEMM to the second's input, and in the sum",
         "fused_f32");
  policy("trtllm", "the same with [up; gate] rows", "fused_f32", {{"layout", "up_gate"}});
  policy("aiter_atomic", "two stages, atomic adds in T", "fused_f32",
         {{"round_slot", "round"}, {"accumulate", "dtype"}});
  policy("naive_batched", "expert by expert, added in T", "triton",
         {{"accumulate", "dtype"}, {"order", "expert"}});
  policy("deepseek_v4", "clamp 10 before silu", "fused_f32", {{"clamp", "before_silu"}, {"limit", "10"}});
  policy("sglang_clamp", "clamp after silu", "triton", {{"clamp", "after_silu"}, {"limit", "10"}});
  policy("gpt_oss", "interleaved rows, x sigmoid(1.702 x) (up + 1), clamp 7", "fused_f32",
         {{"layout", "interleaved"}, {"activation", "swiglu_oai"}, {"clamp", "before_silu"}, {"limit", "7"}});
  policy("llama4", "router weight on the input of the activation", "triton", {{"router_weight", "input"}});
  policy("no_combine", "slots are added unweighted", "triton", {{"router_weight", "none"}});
  policy("vllm_fp8", "w8a8 in blocks of 128, true division", "triton",
         {{"quant", "fp8_block"}, {"division", "divide"}, {"nan_saturates", "1"}});
  policy("sglang_fp8", "w8a8 in blocks of 128, x times 448/amax", "triton",
         {{"quant", "fp8_block"}, {"division", "reciprocal"}, {"place", "reduce"}});
  policy("deepgemm", "w8a8 with power-of-two activation scales", "triton",
         {{"quant", "fp8_block"}, {"division", "divide"}, {"scale_format", "ue8m0"}});
  policy(
      "aiter_fnuz", "w8a8 on gfx942: e4m3fnuz, activation kept in fp32 until it is quantized", "fused_f32",
      {{"quant", "fp8_block"}, {"fp8", "e4m3fnuz"}, {"division", "reciprocal"}, {"round_product", "none"}});
  policy("fp8_weight_only", "fp8 weights, dequantized on the way", "triton", {{"quant", "fp8_weight_only"}});
  s.edits = {{"zero", "ROW of hidden_states is 0", 1},
             {"nan", "ROW of hidden_states is NaN", 1},
             {"minus_one", "id COL of ROW is -1", 2}};
  return s;
}

const Schema& schema_of() {
  static const Schema schema = make_schema();
  return schema;
}

class Experts final : public Operator {
 public:
  const Schema& schema() const override { return schema_of(); }
  std::string_view summary() const override {
    return "routed experts: two grouped GEMMs, gated activation, weighted sum";
  }

  std::optional<std::string> refusal(const Case& c) const override {
    if (auto why = expert_fields_refusal(c)) return why;
    return edits_refusal(c, c.integer("tokens"), c.integer("topk"));
  }

  std::vector<TensorSpec> inputs(const Case& c) const override {
    const std::int64_t tokens = c.integer("tokens"), topk = c.integer("topk"), experts = c.integer("experts");
    std::vector<TensorSpec> specs = {
        {"hidden_states", c.dtype("dtype"), Shape(tokens, c.integer("hidden")), "[tokens, hidden]"}};
    for (TensorSpec& s : mlp_specs(c, "", experts / c.integer("ep_size"), c.integer("intermediate")))
      specs.push_back(std::move(s));
    if (c.choice("router_weight") != "none")
      specs.push_back({"topk_weights", DType::kF32, Shape(tokens, topk), "unless router_weight=none", true});
    specs.push_back(
        {"topk_ids", c.dtype("ids"), Shape(tokens, topk), "global ids; -1: the slot contributes nothing"});
    if (c.integer("ep_size") > 1)
      specs.push_back({"expert_map", DType::kI32, Shape(experts), "local index or -1, when ep_size>1", true});
    return specs;
  }

  std::vector<TensorSpec> outputs(const Case& c) const override {
    return {{"out", c.dtype("dtype"), Shape(c.integer("tokens"), c.integer("hidden")), "[tokens, hidden]"}};
  }

  void generate(const Case& c, TensorSet& inputs) const override { generate_experts(c, inputs); }

  std::unique_ptr<Expected> reference(const Case& c, const TensorSet& inputs) const override {
    auto expected = std::make_unique<BoundedOutput>();
    expected->out = reference::experts(experts_inputs(inputs), experts_options(c));
    return expected;
  }

  void judge(const Case& c, const TensorSet&, const Expected& expected, const TensorSet& outputs,
             Judgement& j) const override {
    ElementRules rules;
    const std::string_view data = c.choice("data");
    rules.may_be_zero = !c.edits.empty() || data == "minus_one" || data == "nan_in_unrouted" ||
                        data == "zero_rows" || data == "padding" ||
                        (c.integer("ep_size") > 1 && data == "empty_experts");
    rules.must_be_exact = data == "integers";
    judge_elements(j, outputs.at("out"), static_cast<const BoundedOutput&>(expected).out, rules);
  }

  std::string likely_cause(const Case& c, const TensorSet& inputs, const Expected& expected,
                           const TensorSet& outputs) const override {
    return experts_cause(c, inputs, static_cast<const BoundedOutput&>(expected), outputs);
  }

  void reference_outputs(const Case&, const TensorSet&, const Expected& expected,
                         TensorSet& outputs) const override {
    write_rounded(outputs.at("out"), static_cast<const BoundedOutput&>(expected).out);
  }

  std::span<const Relation> relations() const override { return experts_relations(); }
  std::vector<Case> cases(Suite suite) const override { return experts_cases(suite); }
};

}  // namespace

FieldValues kernel_fields(std::string_view kernel) {
  if (kernel == "triton")
    return {{"round_gate_up", "round"},
            {"round_silu", "round"},
            {"round_product", "round"},
            {"round_slot", "round"},
            {"order", "slot"}};
  if (kernel == "fused_f32")
    return {{"round_gate_up", "none"},
            {"round_silu", "none"},
            {"round_product", "round"},
            {"round_slot", "none"}};
  return {};
}

void fill_routed_experts(const Case& c, std::span<const std::int64_t> ids, const MlpShape& shape,
                         TensorSet& inputs) {
  const std::int64_t local = c.integer("experts") / c.integer("ep_size"),
                     first = local * c.integer("ep_rank");
  Tensor &w13 = inputs.at("w13"), &w2 = inputs.at("w2");
  Tensor *w13_scale = inputs.find("w13_scale"), *w2_scale = inputs.find("w2_scale");
  std::set<std::int64_t> routed(ids.begin(), ids.end());
  // Where id -1 would land if it were taken for an expert there must be something to see.
  if (routed.contains(-1) && !data_is(c, "nan_in_unrouted")) routed.insert({first, first + local - 1});
  for (std::int64_t e = 0; e < local; ++e) {
    if (routed.contains(first + e)) {
      fill_mlp(c, "experts", shape, e, first + e, w13, w2, w13_scale, w2_scale);
      continue;
    }
    clear_mlp(e, std::array{&w13, &w2, w13_scale, w2_scale});
    if (data_is(c, "nan_in_unrouted")) fill_mlp_with_nan(shape, e, w13, w2);
  }
}

void generate_experts(const Case& c, TensorSet& inputs) {
  fill_hidden_states(c, inputs.at("hidden_states"));
  const View ids = inputs.view("topk_ids");
  fill_topk_ids(c, ids);
  if (const View weights = inputs.view("topk_weights")) {
    fill_topk_weights(c, weights, 1);
    poison_unrouted_weights(c, ids, weights);
  }
  if (const View map = inputs.view("expert_map")) {
    const std::int64_t local = c.integer("experts") / c.integer("ep_size"),
                       first = local * c.integer("ep_rank");
    for (std::int64_t e = 0; e < c.integer("experts"); ++e)
      map.set_int(e, e >= first && e < first + local ? e - first : -1);
  }
  std::vector<std::int64_t> routed;
  for (std::int64_t s = 0; s < ids.shape.numel(); ++s) routed.push_back(ConstView(ids).int_at(s));
  const bool heavy =
      c.choice("router_weight") == "input" && c.integer("topk") <= 4;  // weights of 2 there count twice
  fill_routed_experts(c, routed,
                      {c.integer("hidden"), c.integer("intermediate"),
                       c.choice_as<reference::GateUpLayout>("layout"), c.integer("topk") * (heavy ? 2 : 1)},
                      inputs);
}

reference::ExpertsInputs experts_inputs(const TensorSet& inputs) {
  return {inputs.view("hidden_states"),
          {inputs.view("w13"), inputs.view("w2"), inputs.view("w13_scale"), inputs.view("w2_scale")},
          inputs.view("topk_weights"),
          inputs.view("topk_ids"),
          inputs.view("expert_map")};
}

const Operator& experts_operator() {
  static const Experts op;
  return op;
}

}  // namespace moecheck::harness
