// Relations of routed_scaling, and its suites.
#include <fmt/format.h>

#include <array>

#include "harness/operators/operators.h"
#include "harness/operators/routed_scaling.h"

namespace moecheck::harness {
namespace {

using reference::ScalePlace;
using reference::ScalePlan;

void need_plain_range(const Trial& trial) {
  if (trial.c.dtype("dtype") == DType::kF16 || data_is(trial.c, "large") || data_is(trial.c, "subnormal"))
    throw NotApplicable("twice the data may leave the range where rounding only scales");
}

void multiply(Tensor* tensor, double factor) {
  if (tensor == nullptr) return;
  const View view = tensor->view();
  for (std::int64_t i = 0; i < tensor->shape().numel(); ++i) view.set(i, ConstView(view).at(i) * factor);
}

// Slots [begin, end) of every row are multiplied, in the weights or, where those are applied already, in the outputs.
void multiply_slots(TensorSet& inputs, std::int64_t begin, std::int64_t end, double factor) {
  Tensor* weights = inputs.find("topk_weights");
  Tensor& tensor = weights != nullptr ? *weights : inputs.at("routed_output");
  const Shape& s = tensor.shape();
  const std::int64_t width = s.rank == 3 ? s[2] : 1;
  const View view = tensor.view();
  for (std::int64_t i = 0; i < s.numel(); ++i)
    if (const std::int64_t k = i / width % s[1]; k >= begin && k < end)
      view.set(i, ConstView(view).at(i) * factor);
}

void power_of_two(const Trial& trial) {
  need_plain_range(trial);
  TensorSet inputs = trial.inputs, doubled = trial.outputs;
  multiply_slots(inputs, 0, inputs.at("routed_output").shape()[1], 2);
  multiply(inputs.find("shared_output"), 2);
  multiply(&doubled.at("out"), 2);
  Case c = trial.c;
  c.edits.clear();
  const TensorSet got = trial.run(c, inputs);
  Trial::require_rows_equal(got, 0, c.integer("tokens"), doubled, 0, "out");
}

// Twice the factor doubles the routed part and leaves the shared part: where the weights carry it, they change with it.
void factor_applied_once(const Trial& trial) {
  need_plain_range(trial);
  const Case changed = with_field(trial.c, "rsf", fmt::format("{}", 2 * trial.c.real("rsf")));
  const ScalePlan plan = scale_plan(changed);
  TensorSet inputs = trial.inputs;
  const std::int64_t topk = trial.c.integer("topk"), slots = inputs.at("routed_output").shape()[1];
  if (plan.has(ScalePlace::kTopkWeights) || plan.has(ScalePlace::kTopkWeightsAndShared))
    multiply_slots(inputs, 0, topk, 2);
  if (plan.has(ScalePlace::kPreDividedShared)) multiply_slots(inputs, topk, slots, 0.5);
  require_judged(trial, changed, inputs,
                 fmt::format("with rsf={} instead of {}", changed.real("rsf"), trial.c.real("rsf")));
}

// Copies slot map[k] of the trial's inputs to slot k; slots of map -1 are nobody's, and hold NaN.
TensorSet with_slots(const TensorSet& from, std::span<const std::int64_t> map) {
  TensorSet to;
  for (const Tensor& t : from.tensors()) {
    if (t.name() == "shared_output") {
      to.add(t);
      continue;
    }
    Shape shape = t.shape();
    const std::int64_t old = shape[1], width = shape.rank == 3 ? shape[2] : 1;
    shape.dim[1] = static_cast<std::int64_t>(map.size());
    Tensor& copy = to.add(Tensor(t.name(), t.dtype(), shape));
    const bool ids = !reference::is_float(t.dtype());
    for (std::int64_t i = 0; i < shape.numel(); ++i) {
      const std::int64_t row = i / width / shape[1], k = map[at(i / width % shape[1])];
      const std::int64_t source = (row * old + k) * width + i % width;
      if (ids)
        copy.view().set_int(i, k < 0 ? -1 : t.view().int_at(source));
      else
        copy.view().set(i, k < 0 ? kNaN : t.view().at(source));
    }
  }
  return to;
}

// One more routed slot, with id -1 and NaN in its row and its weight.
void dead_slot(const Trial& trial) {
  const std::int64_t topk = trial.c.integer("topk"), slots = trial.inputs.at("routed_output").shape()[1];
  constexpr std::int64_t kMostSlots = 64;  // that a case may ask for
  if (topk == kMostSlots) throw NotApplicable("there is no room for one more slot");
  std::vector<std::int64_t> map;
  for (std::int64_t k = 0; k < slots; ++k) {
    if (k == topk / 2) map.push_back(-1);
    map.push_back(k);
  }
  const Case changed = with_field(trial.c, "topk", fmt::format("{}", topk + 1));
  require_judged(trial, changed, with_slots(trial.inputs, map), "with one more slot of id -1");
}

void slot_permutation(const Trial& trial) {
  const std::int64_t topk = trial.c.integer("topk"), slots = trial.inputs.at("routed_output").shape()[1];
  if (topk < 2) throw NotApplicable("it needs topk>=2");
  std::vector<std::int64_t> map;
  for (std::int64_t k = 0; k < slots; ++k) map.push_back(k < topk ? topk - 1 - k : k);
  require_judged(trial, with_tokens(trial.c, trial.c.integer("tokens")), with_slots(trial.inputs, map),
                 "with the slots of each token reversed");
}

constexpr std::array<std::string_view, 3> kFused = {
    "policy=sglang_cuda fused=1", "policy=sglang_model fused=1", "policy=vllm_runner fused=1"};

std::vector<std::string> forms() {
  std::vector<std::string> axis = policy_axis(routed_scaling_operator().schema());
  for (const std::string_view fused : kFused) axis.emplace_back(fused);
  axis.emplace_back("place=topk_weights_and_shared fused=1");
  return axis;
}

void adversarial(std::vector<Case>& cases, const Operator& op) {
  add_product(
      cases, op,
      {forms(),
       {"data=minus_one", "data=nan_in_unrouted", "data=duplicate_tokens", "data=zero_rows", "data=padding",
        "data=large dtype=f16", "data=large", "data=subnormal", "data=subnormal dtype=f16"},
       {"tokens=7 topk=4"}});
  const std::vector<std::string> some = {"policy=any", "policy=sglang_cuda", "policy=vllm_moe_sum",
                                         "policy=aiter_fused", "policy=vllm_naive_batched"};
  // Dispatch thresholds: 32 (compile path of sglang), 256 (vector kernel); widths that are no multiple of 8 or 16 elements.
  add_product(cases, op,
              {some,
               {"tokens=0", "tokens=1", "tokens=31", "tokens=32", "tokens=33", "tokens=256", "tokens=257"},
               {"hidden=24", "hidden=40 data=integers rsf=2"}});
  add_product(cases, op,
              {some,
               {"hidden=1", "hidden=7", "hidden=8", "hidden=63", "hidden=65", "hidden=127", "hidden=129",
                "hidden=1000"}});
  add_product(cases, op,
              {some,
               {"topk=1", "topk=2", "topk=3", "topk=5", "topk=8", "topk=9 experts=9", "topk=10 experts=64"},
               {"n_shared=0", "n_shared=1", "n_shared=2"}});
  add_product(cases, op,
              {some,
               {"edit=zero:1", "edit=nan:1:0", "edit=minus_one:1:1", "edit=minus_one:0:0 edit=minus_one:0:1"},
               {"dtype=bf16", "dtype=f32 ids=i64"}});
  add_product(cases, op, {some, {"rsf=1", "rsf=1.8", "rsf=2.827", "rsf=16"}, {"tokens=33"}});
}

}  // namespace

std::span<const Relation> routed_scaling_relations() {
  static const std::array<Relation, 8> all = {
      kTokenPermutation,
      kBatchSplit,
      kDuplicateToken,
      kPaddingIndependence,
      Relation{"power_of_two", "twice the weights and the shared output give twice the output, to the bit",
               power_of_two},
      Relation{"factor_applied_once", "twice the factor doubles the routed part and leaves the shared part",
               factor_applied_once},
      Relation{"dead_slot", "a slot of id -1 contributes nothing, NaN or not", dead_slot},
      Relation{"slot_permutation", "the order of a token's slots changes no more than rounding",
               slot_permutation},
  };
  return all;
}

std::vector<Case> routed_scaling_cases(Suite suite) {
  const Operator& op = routed_scaling_operator();
  std::vector<Case> cases;
  switch (suite) {
    case Suite::kQuick:
      add_product(cases, op,
                  {forms(),
                   {"data=realistic", "data=integers rsf=2"},
                   {"dtype=bf16", "dtype=f16 topk=3", "dtype=f32 hidden=40"}});
      // More slots, and more columns, than the lanes of a wave take at once.
      add_product(cases, op,
                  {{"policy=hf topk=40 experts=64 data=minus_one tokens=3",
                    "policy=any hidden=1416 topk=7 tokens=2"}});
      break;
    case Suite::kModels:
      add_product(
          cases, op,
          {model_axis(),
           forms(),
           {"hidden=256 tokens=1", "hidden=128 tokens=33", "hidden=256 tokens=3 data=integers rsf=2"}});
      add_product(cases, op,
                  {model_axis(),
                   {"policy=any", "policy=sglang_cuda", "policy=vllm_runner", "policy=aiter_fused"},
                   {"tokens=2", "tokens=1 data=integers rsf=4"}});
      break;
    case Suite::kAdversarial:
      adversarial(cases, op);
      break;
    case Suite::kFull:
      add_random(cases, op, 500,
                 {policy_axis(op.schema()),
                  {"tokens=1", "tokens=2", "tokens=5", "tokens=17", "tokens=40"},
                  {"topk=1", "topk=2", "topk=4", "topk=6", "topk=8"},
                  {"n_shared=0", "n_shared=1", "n_shared=2"},
                  {"hidden=16", "hidden=24", "hidden=72", "hidden=200", "hidden=512"},
                  {"experts=8", "experts=160"},
                  {"rsf=1", "rsf=2.5", "rsf=2.827", "rsf=16"},
                  {"dtype=bf16", "dtype=f16", "dtype=f32"},
                  {"ids=i32", "ids=i64"},
                  {"fused=0", "fused=1"},
                  {"data=realistic", "data=realistic", "data=minus_one", "data=nan_in_unrouted",
                   "data=zero_rows", "data=padding"}});
      add_random(cases, op, 200,
                 {policy_axis(op.schema()),
                  {"tokens=3", "tokens=9"},
                  {"topk=1", "topk=2", "topk=4", "topk=8"},
                  {"hidden=24", "hidden=136"},
                  {"rsf=0.5", "rsf=2", "rsf=16"},
                  {"dtype=bf16", "dtype=f16", "dtype=f32"},
                  {"data=integers"},
                  {"n_shared=1", "n_shared=2"}});
      break;
  }
  return each_once(std::move(cases));
}

}  // namespace moecheck::harness
