// Contract of routed_scaling: slots, weights and shared output in, the block's output out (reference/routed_scaling.h).
//
// The data are what the gate of the same plan would leave: routed_scaling_factor folded into the weights (topk_weights), a fused
// shared slot that weighs 1 or 1/rsf. So the right output is rsf R + S whatever the place.
#include "harness/operators/routed_scaling.h"

#include <fmt/format.h>

#include <cmath>

#include "harness/judge.h"
#include "harness/operators/operators.h"
#include "reference/scale_diagnosis.h"

namespace moecheck::harness {
namespace {

using reference::Rounding;
using reference::ScalePlace;
using reference::ScalePlan;

Schema make_schema() {
  Schema s;
  s.name = "routed_scaling";
  s.fields = {
      int_field("tokens", 4, 0, 1 << 20, "rows (M)"),
      int_field("topk", 2, 1, 64, "routed slots of a token (K)"),
      int_field("n_shared", 1, 0, 16, "shared experts: fused slots, or one shared output"),
      int_field("hidden", 64, 1, 1 << 16, "width (H)"),
      int_field("experts", 8, 1, 4096, "ids lie below it: they order the sum when order=expert"),
      real_field("rsf", 2.5, 1e-3, 1e3, "routed_scaling_factor"),
      flag_field("renormalize", true, "the routed weights sum to 1 before the factor"),
      flag_field("fused", false, "the shared experts are slots behind the routed ones"),
      choice_field("place",
                   {"topk_weights", "topk_weights_and_shared", "reduce", "output", "shared_add_alpha",
                    "runner", "runner_half"},
                   "where the factor is multiplied in: the table in reference/routed_scaling.h; runner_half "
                   "is runner's fp16 form",
                   "reduce"),
      choice_field("weights", {"apply", "applied"},
                   "applied: routed_output holds weight times output already"),
      dtype_field("dtype", {DType::kBF16, DType::kF16, DType::kF32}, "T: slots, shared output, output"),
      dtype_field("ids", {DType::kI32, DType::kI64}, "of topk_ids"),
      choice_field("accumulate", {"f32", "dtype"}, "width in which slots are added"),
      choice_field("order", {"slot", "expert", "any"}, "in which they are added", "any"),
      rounding_field("round_weighted", "none", "to T: weight times slot"),
      rounding_field("round_sum", "any", "to T: the sum, before the reduce kernel multiplies it"),
      rounding_field("round_reduced", "any", "to T: what the reduce kernel stores, where something follows"),
      rounding_field("round_scaled", "any",
                     "to T: what output or runner stores, where the shared add follows"),
      fixed(data_field({"realistic", "integers", "minus_one", "nan_in_unrouted", "duplicate_tokens",
                        "zero_rows", "padding", "large", "subnormal"})),
  };
  using Values = std::vector<std::pair<std::string, std::string>>;
  const Values stored = {{"weights", "applied"},
                         {"order", "slot"},
                         {"round_sum", "none"},
                         {"round_reduced", "round"},
                         {"round_scaled", "round"}};
  const auto with = [&](Values values, const Values& more) {
    values.insert(values.end(), more.begin(), more.end());
    return values;
  };
  s.policies = {
      {"any", "factor in the reduce, roundings on the way unknown", {{"place", "reduce"}}},
      {"sglang_cuda", "moe_sum_reduce: fp32 sum, factor, one rounding", with(stored, {{"place", "reduce"}})},
      {"sglang_compile", "torch.compile path, up to 32 tokens: the sum is rounded, then multiplied",
       with(stored, {{"place", "reduce"}, {"round_sum", "round"}})},
      {"sglang_topk", "factor fused in top-k (flashinfer, cutlass FP8, NVFP4)",
       with(stored, {{"place", "topk_weights"}})},
      {"sglang_model", "no CUDA and no aiter: the model multiplies the experts' output",
       with(stored, {{"place", "output"}})},
      {"sglang_deepep", "shared.add_(routed, alpha=rsf)", with(stored, {{"place", "shared_add_alpha"}})},
      {"sglang_finalize",
       "moe_finalize_fuse_shared: fp32 weights and sum, shared added, one rounding",
       {{"place", "topk_weights"}, {"order", "slot"}, {"round_reduced", "none"}}},
      {"vllm_runner", "fused output times rsf, then the shared output", with(stored, {{"place", "runner"}})},
      {"vllm_fp16", "fp16: shared output divided, residual stream divided",
       with(stored, {{"place", "runner_half"}, {"dtype", "f16"}})},
      {"vllm_moe_sum", "moe_sum for topk 2 to 4: added in T",
       with(stored, {{"place", "runner"}, {"accumulate", "dtype"}})},
      {"vllm_contiguous", "TopKWeightAndReduceContiguous: products rounded to T",
       with(stored, {{"place", "runner"}, {"weights", "apply"}, {"round_weighted", "round"}})},
      {"vllm_naive_batched", "experts added one after the other in T",
       with(stored, {{"place", "runner"},
                     {"weights", "apply"},
                     {"round_weighted", "round"},
                     {"accumulate", "dtype"},
                     {"order", "expert"}})},
      {"aiter", "factor in the weights, fp32 sum", with(stored, {{"place", "topk_weights"}})},
      {"aiter_fused", "the same with fused shared slots of weight 1",
       with(stored, {{"place", "topk_weights"}, {"fused", "1"}})},
      {"aiter_atomic", "atomic adds in T in any order",
       with(stored, {{"place", "topk_weights"}, {"accumulate", "dtype"}, {"order", "any"}})},
      {"hf",
       "transformers: fp32 index_add by expert",
       {{"place", "topk_weights"}, {"order", "expert"}, {"round_reduced", "round"}}},
  };
  s.edits = {{"zero", "slots and shared output of ROW are 0", 1},
             {"nan", "slot COL of ROW is NaN", 2},
             {"minus_one", "id COL of ROW is -1", 2}};
  return s;
}

const Schema& schema_of() {
  static const Schema schema = make_schema();
  return schema;
}

std::int64_t fused_slots(const Case& c) { return c.flag("fused") ? c.integer("n_shared") : 0; }
bool has_shared_output(const Case& c) { return !c.flag("fused") && c.integer("n_shared") > 0; }

// Slots of +-1, +-2 and +-3, a few per element: weighted sums are multiples of 1/32 that fit bf16.
double exact_slot(const Random& random, std::uint64_t i, std::int64_t k, std::int64_t h, std::int64_t slots) {
  if ((k + h) % ceil_div(slots, 4) != 0) return 0;
  const auto size = static_cast<double>(random.integer(i, 1, 3));
  return (random.bits(i) & 1) != 0 ? size : -size;
}

double magnitude(const Case& c) {
  const bool half = c.dtype("dtype") == DType::kF16;
  if (data_is(c, "large")) return half ? 0x1p11 : 0x1p100;
  return data_is(c, "subnormal") ? (half ? 0x1p-16 : 0x1p-110) : 1;
}

struct Diagnosis {
  std::vector<double> out, routed, shared;
};

class RoutedScaling final : public Operator {
 public:
  const Schema& schema() const override { return schema_of(); }
  std::string_view summary() const override {
    return "weighted reduce of the slots, routed_scaling_factor and shared output";
  }

  std::optional<std::string> refusal(const Case& c) const override {
    if (auto why = routing_refusal(c)) return why;
    if (auto why = exact_factor_refusal(c)) return why;
    if (auto why = edits_refusal(c, c.integer("tokens"), c.integer("topk") + fused_slots(c))) return why;
    const std::string_view place = c.choice("place");
    if ((place == "shared_add_alpha" || place == "runner_half") && !has_shared_output(c))
      return fmt::format("place={} needs a shared output: use fused=0 and n_shared=1", place);
    if (place == "topk_weights_and_shared" && fused_slots(c) == 0)
      return "place=topk_weights_and_shared needs fused=1 and n_shared=1: use place=topk_weights";
    if (data_is(c, "integers") && c.integer("topk") + fused_slots(c) > 32)
      return fmt::format("data=integers keeps sums exact for at most 32 slots: topk={}", c.integer("topk"));
    if (auto why = scale_plan(c).check())
      return fmt::format("place={} fused={} renormalize={}: {}", place, c.integer("fused"),
                         c.integer("renormalize"), *why);
    return std::nullopt;
  }

  std::vector<TensorSpec> inputs(const Case& c) const override {
    const std::int64_t tokens = c.integer("tokens"), slots = c.integer("topk") + fused_slots(c),
                       hidden = c.integer("hidden");
    const DType dtype = c.dtype("dtype");
    std::vector<TensorSpec> specs = {
        {"routed_output", dtype, Shape(tokens, slots, hidden), "[tokens, topk + fused slots, hidden]"}};
    if (c.choice("weights") == "apply")
      specs.push_back({"topk_weights", DType::kF32, Shape(tokens, slots), "unless weights=applied", true});
    specs.push_back({"topk_ids", c.dtype("ids"), Shape(tokens, slots), "-1: the slot contributes nothing"});
    if (has_shared_output(c))
      specs.push_back({"shared_output", dtype, Shape(tokens, hidden), "unless fused or n_shared=0", true});
    return specs;
  }

  std::vector<TensorSpec> outputs(const Case& c) const override {
    return {{"out", c.dtype("dtype"), Shape(c.integer("tokens"), c.integer("hidden")), "[tokens, hidden]"}};
  }

  void generate(const Case& c, TensorSet& inputs) const override;

  std::unique_ptr<Expected> reference(const Case& c, const TensorSet& inputs) const override {
    auto expected = std::make_unique<BoundedOutput>();
    expected->out = reference::combine(combine_inputs(inputs), combine_options(c));
    return expected;
  }

  void judge(const Case& c, const TensorSet&, const Expected& expected, const TensorSet& outputs,
             Judgement& j) const override {
    ElementRules rules;
    rules.may_be_zero = !c.edits.empty() || !(data_is(c, "realistic") || data_is(c, "integers"));
    rules.must_be_exact = data_is(c, "integers");
    judge_elements(j, outputs.at("out"), static_cast<const BoundedOutput&>(expected).out, rules);
  }

  std::string likely_cause(const Case& c, const TensorSet& inputs, const Expected&,
                           const TensorSet& outputs) const override;

  void reference_outputs(const Case&, const TensorSet&, const Expected& expected,
                         TensorSet& outputs) const override {
    write_rounded(outputs.at("out"), static_cast<const BoundedOutput&>(expected).out);
  }

  std::span<const Relation> relations() const override { return routed_scaling_relations(); }
  std::vector<Case> cases(Suite suite) const override { return routed_scaling_cases(suite); }

 private:
  void fill_slots(const Case& c, Tensor& tensor, ConstView ids, ConstView weights) const;
};

// What the gate leaves: routed weights times rsf where the plan folds it in, and the fused slots' own weight.
void fill_weights(const Case& c, View weights) {
  const ScalePlan plan = scale_plan(c);
  const double rsf = c.real("rsf");
  const bool folded = plan.has(ScalePlace::kTopkWeights) || plan.has(ScalePlace::kTopkWeightsAndShared);
  fill_topk_weights(c, weights, folded ? rsf : 1, fused_slots(c),
                    plan.has(ScalePlace::kPreDividedShared) ? 1 / rsf : 1);
}

void RoutedScaling::fill_slots(const Case& c, Tensor& tensor, ConstView ids, ConstView weights) const {
  const std::int64_t tokens = c.integer("tokens"), slots = tensor.shape()[1], hidden = c.integer("hidden");
  const Random random(c.seed, "routed_output");
  const View view = tensor.view();
  const bool applied = c.choice("weights") == "applied";
  for (std::int64_t row = 0; row < tokens * slots; ++row) {
    const std::int64_t t = row / slots, k = row % slots, r = source_row(c, t) * slots + k;
    const bool zero = data_is(c, "zero_rows") && t % 3 == 1,
               nan = ids.int_at(row) < 0 && data_is(c, "nan_in_unrouted");
    const double weight = applied ? weights.at(row) : 1;
    for (std::int64_t h = 0; h < hidden; ++h) {
      const auto i = static_cast<std::uint64_t>(r * hidden + h);
      const double y =
          data_is(c, "integers") ? exact_slot(random, i, k, h, slots) : magnitude(c) * random.normal(i);
      view.set(row * hidden + h, zero ? 0 : nan ? kNaN : y * weight);
    }
  }
}

void RoutedScaling::generate(const Case& c, TensorSet& inputs) const {
  const std::int64_t tokens = c.integer("tokens"), slots = c.integer("topk") + fused_slots(c),
                     hidden = c.integer("hidden");
  Tensor weights("weights", DType::kF32, Shape(tokens, slots));
  fill_weights(c, weights.view());
  const View ids = inputs.view("topk_ids");
  fill_topk_ids(c, ids, fused_slots(c));
  fill_slots(c, inputs.at("routed_output"), ids, weights.view());
  if (const View given = inputs.view("topk_weights")) {
    fill_weights(c, given);
    poison_unrouted_weights(c, ids, given);
  }
  const View routed = inputs.view("routed_output");
  if (Tensor* shared = inputs.find("shared_output")) {
    const Random random(c.seed, "shared_output");
    for (std::int64_t t = 0; t < tokens; ++t)
      for (std::int64_t h = 0; h < hidden; ++h) {
        const auto i = static_cast<std::uint64_t>(source_row(c, t) * hidden + h);
        const double s = data_is(c, "integers") ? static_cast<double>(random.integer(i, -8, 8))
                                                : magnitude(c) * random.normal(i);
        shared->view().set(t * hidden + h, data_is(c, "zero_rows") && t % 3 == 1 ? 0 : s);
      }
  }
  for (const Edit& e : c.edits)
    for (std::int64_t h = 0; h < hidden; ++h) {
      if (e.kind == "nan") routed.set((e.row * slots + e.col) * hidden + h, kNaN);
      if (e.kind != "zero") continue;
      for (std::int64_t k = 0; k < slots; ++k) routed.set((e.row * slots + k) * hidden + h, 0);
      if (const View shared = inputs.view("shared_output")) shared.set(e.row * hidden + h, 0);
    }
}

// R and S of scale_diagnosis.h from the inputs: the routed slots without the factor, the shared slots with weight 1.
Diagnosis split(const Case& c, const TensorSet& inputs, const TensorSet& outputs) {
  const reference::CombineInputs in = combine_inputs(inputs);
  const std::int64_t tokens = c.integer("tokens"), topk = c.integer("topk"), slots = topk + fused_slots(c),
                     hidden = c.integer("hidden");
  const ScalePlan plan = scale_plan(c);
  const bool folded = plan.has(ScalePlace::kTopkWeights) || plan.has(ScalePlace::kTopkWeightsAndShared);
  const double routed_by = folded ? c.real("rsf") : 1,
               shared_by = plan.has(ScalePlace::kPreDividedShared) ? 1 / c.real("rsf") : 1;
  Diagnosis d;
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t h = 0; h < hidden; ++h) {
      double routed = 0, shared = in.shared_output ? in.shared_output.at(t, h) : 0;
      for (std::int64_t k = 0; k < slots; ++k) {
        if (in.topk_ids.int_at(t * slots + k) < 0) continue;
        const double y = in.routed_output.at(t, k, h) * (in.topk_weights ? in.topk_weights.at(t, k) : 1);
        (k < topk ? routed : shared) += y / (k < topk ? routed_by : shared_by);
      }
      d.out.push_back(outputs.at("out").view().at(t, h));
      d.routed.push_back(routed);
      d.shared.push_back(shared);
    }
  return d;
}

std::string RoutedScaling::likely_cause(const Case& c, const TensorSet& inputs, const Expected&,
                                        const TensorSet& outputs) const {
  Diagnosis d = split(c, inputs, outputs);
  if (c.integer("n_shared") == 0) d.shared.clear();
  return scale_cause(d.out, d.routed, d.shared, c, scale_plan(c));
}

}  // namespace

reference::CombineOptions combine_options(const Case& c) {
  reference::CombineOptions o;
  o.dtype = c.dtype("dtype");
  o.reduce.accumulate = c.choice_as<reference::Accumulate>("accumulate");
  o.reduce.order = c.choice_as<reference::ReduceOrder>("order");
  o.plan = scale_plan(c);
  o.routed_scaling_factor = c.real("rsf");
  o.weights_applied = c.choice("weights") == "applied";
  o.round_weighted = c.choice_as<Rounding>("round_weighted");
  o.round_sum = c.choice_as<Rounding>("round_sum");
  o.round_reduced = c.choice_as<Rounding>("round_reduced");
  o.round_scaled = c.choice_as<Rounding>("round_scaled");
  return o;
}

reference::CombineInputs combine_inputs(const TensorSet& inputs) {
  return {inputs.view("routed_output"), inputs.view("topk_weights"), inputs.view("topk_ids"),
          inputs.view("shared_output")};
}

const Operator& routed_scaling_operator() {
  static const RoutedScaling op;
  return op;
}

}  // namespace moecheck::harness
