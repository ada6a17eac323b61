#include "harness/localize/localize.h"

#include <gtest/gtest.h>

#include "harness/localize/dump.h"
#include "tiny_model.h"

namespace moecheck::harness {
namespace {

std::vector<std::int32_t> prompt() {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 21; ++i) ids.push_back(1 + 37 * i % 700);
  return ids;
}

Localization located(const TinyModel& model, const std::string& fault, DType dtype = DType::kF32, bool fused = false) {
  const auto checkpoint = load_glm4_moe(model.folder, dtype);
  ServedMoeOptions moe;
  moe.fused = fused;
  if (!fault.empty()) moe.fault = parse_served_fault(fault, checkpoint->config);
  return localize(*checkpoint, dump_forward(*checkpoint, dtype, moe, prompt()), moe, "cpu");
}

TEST(Localize, TheRightModelIsWithinItsBounds) {
  const TinyModel model("localize");
  for (const DType dtype : {DType::kF32, DType::kBF16})
    for (const bool fused : {false, true}) {
      const Localization l = located(model, "", dtype, fused);
      EXPECT_EQ(l.first_failure(), nullptr) << summary(l);
      EXPECT_EQ(l.operators.size(), 4u + 2 * 5 + 2);
      EXPECT_TRUE(l.missing.empty());
    }
}

TEST(Localize, NamesTheFirstLayerAndOperatorAndTheCause) {
  const TinyModel model("localize_faults");
  const auto where = [&](const char* fault, bool fused = false) {
    return summary(located(model, fault, DType::kF32, fused));
  };
  EXPECT_TRUE(where("routed_scale_on_shared_slot").starts_with("layer 1 moe_block: alpha=2.5 beta=2.5"))
      << where("routed_scale_on_shared_slot");
  EXPECT_TRUE(where("routed_scale_on_shared_slot@2", true).starts_with("layer 2 moe_block: alpha=2.5 beta=2.5"));
  EXPECT_TRUE(where("scale_dropped").starts_with("layer 1 moe_block"));
  EXPECT_TRUE(where("slots_zero@2", true).starts_with("layer 2 moe_block"));
  EXPECT_TRUE(where("rotary_full").starts_with("layer 0 attention"));
  EXPECT_TRUE(where("kv_page_row_major").starts_with("layer 0 attention"));
}

// An engine that computes everything else right from its own inputs is not blamed for them.
TEST(Localize, JudgesEachOperatorFromItsOwnInputs) {
  const TinyModel model("localize_own");
  const Localization l = located(model, "routed_scale_on_shared_slot@1");
  int failing = 0;
  for (const JudgedOperator& op : l.operators) failing += leaves_bound(op.record.result.verdict);
  EXPECT_EQ(failing, 1);
  EXPECT_FALSE(l.first_failure()->outputs.tensors().empty());
}

TEST(Localize, EveryOperatorOfADumpCanFail) {
  const TinyModel model("localize_each");
  const auto checkpoint = load_glm4_moe(model.folder, DType::kF32);
  const TensorSet dump = dump_forward(*checkpoint, DType::kF32, {}, prompt());
  // Whose output a tensor is. An output that the residual stream takes up is also seen by the norm behind it.
  const std::vector<std::pair<const char*, const char*>> tensors = {
      {"layers.0.attention.input", "layer 0 input_norm"}, {"layers.0.attention.output", "layer 0 attention"},
      {"layers.0.mlp.input", "layer 0 post_norm"},        {"layers.0.mlp.output", "layer 0 mlp"},
      {"layers.1.router.output", "layer 1 router"},       {"layers.2.moe_block.output", "layer 2 moe_block"},
      {"norm.output", "norm"},                            {"logits", "head"}};
  for (const auto& [name, where] : tensors) {
    TensorSet changed = dump;
    const View v = changed.view(name);
    v.set(3, 1.01 * changed.at(name).view().at(3) + 0.01);
    const Localization l = localize(*checkpoint, changed, {}, "changed");
    ASSERT_NE(l.first_failure(), nullptr) << name;
    EXPECT_EQ(l.first_failure()->where(), where) << name;
  }
}

TEST(Localize, MissingTensorsAreListedAndWrongOnesRefused) {
  const TinyModel model("localize_missing");
  const auto checkpoint = load_glm4_moe(model.folder, DType::kF32);
  const TensorSet dump = dump_forward(*checkpoint, DType::kF32, {}, prompt());
  TensorSet partial;
  for (const Tensor& t : dump.tensors())
    if (t.name() != "layers.1.attention.output" && t.name() != "logits") partial.add(t);
  const Localization l = localize(*checkpoint, partial, {}, "partial");
  EXPECT_EQ(l.first_failure(), nullptr);
  // Behind the missing output the residual stream is not known: norms are not judged, operators are.
  EXPECT_EQ(l.missing, (std::vector<std::string>{"layers.1.attention", "head"}));
  EXPECT_EQ(l.operators.size(), 16u - 2 - 4);

  TensorSet wrong;
  for (const Tensor& t : dump.tensors())
    wrong.add(t.name() == "logits" ? Tensor("logits", DType::kF32, Shape(21, 7)) : t);
  EXPECT_THROW(localize(*checkpoint, wrong, {}, "wrong"), UsageError);
  EXPECT_THROW(localize(*checkpoint, TensorSet(), {}, "empty"), UsageError);
}

TEST(Localize, TwoDumpsAreComparedTensorByTensor) {
  const TinyModel model("localize_two");
  const auto checkpoint = load_glm4_moe(model.folder, DType::kF32);
  TensorSet a = dump_forward(*checkpoint, DType::kF32, {}, prompt());
  TensorSet b = a;
  b.view("norm.output").set(5, 1e6);
  for (const TensorDifference& d : differences(a, b)) EXPECT_EQ(d.largest > 0, d.name == "norm.output") << d.name;
}

}  // namespace
}  // namespace moecheck::harness
