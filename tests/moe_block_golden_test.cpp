// The block against the MoE layers of Hugging Face transformers (datasets/golden/moe_block, made by make_gating.py): float32,
// router and unfused shared experts, and the same layers with the shared experts fused.
#include <gtest/gtest.h>

#include <fstream>

#include "harness/json.h"
#include "harness/safetensors.h"
#include "reference/gating_policies.h"
#include "reference/moe_block.h"
#include "reference/scale_diagnosis.h"
#include "tests/moe_test_support.h"

namespace moecheck::reference {
namespace {

using nlohmann::json;

const std::string kFolder = std::string(MOECHECK_SOURCE_DIR) + "/datasets/golden/moe_block/";

WeightTensor owned(const harness::TensorSet& tensors, const std::string& name) {
  const ConstView view = tensors.view(name);
  WeightTensor copy(view.dtype, view.shape);
  std::copy_n(view.as<std::uint8_t>(), copy.bytes.size(), copy.bytes.begin());
  return copy;
}

struct GoldenBlock {
  MoeBlockOptions options;
  SharedExpertWeights shared;
  WeightTensor x, logits, bias, w13, w2, shared_w13, output, routed_output, shared_output, topk_ids;

  explicit GoldenBlock(const json& c) {
    const harness::TensorSet t = harness::read_safetensors(kFolder + c.at("file").get<std::string>());
    x = owned(t, "hidden_states"), logits = owned(t, "router_logits"),
    bias = owned(t, "gate.e_score_correction_bias");
    w13 = owned(t, "experts.gate_up_proj"), w2 = owned(t, "experts.down_proj");
    shared.gate = owned(t, "shared_experts.gate_proj.weight"),
    shared.up = owned(t, "shared_experts.up_proj.weight");
    shared.down = owned(t, "shared_experts.down_proj.weight");
    shared_w13 = stack_gate_up(shared.gate, shared.up);
    output = owned(t, "output"), routed_output = owned(t, "routed_output"),
    shared_output = owned(t, "shared_output");
    topk_ids = owned(t, "topk_ids");
    GatingOptions& g = options.gating;
    g.experts = c.at("experts"), g.groups = c.at("groups"), g.topk_group = c.at("topk_group"),
    g.topk = c.at("topk");
    g.renormalize = c.at("renormalize"), g.routed_scaling_factor = c.at("routed_scaling_factor");
    g.policy = find_gating_preset(c.at("policy").get<std::string>())->policy;
    options.experts.hidden = c.at("hidden"), options.experts.intermediate = c.at("intermediate");
    options.experts.dtype = DType::kF32;
    options.shared_experts = c.at("shared_experts");
    options.combine.plan = ScalePlan::of(ScalePlace::kTopkWeights);
    options.combine.routed_scaling_factor = g.routed_scaling_factor;
  }
  MoeBlockInputs inputs() const {
    MoeBlockInputs in;
    in.hidden_states = x.view(), in.router_logits = logits.view(), in.e_score_correction_bias = bias.view();
    in.experts = {w13.view(), w2.view(), {}, {}};
    in.shared_w13 = shared_w13.view(), in.shared_w2 = shared.down.view();
    return in;
  }
  // Shared experts appended with weight 1.
  void fuse() {
    for (const SharedSlot& slot :
         split_shared_experts(shared, options.shared_experts, options.experts.intermediate)) {
      w13.bytes.insert(w13.bytes.end(), slot.w13.bytes.begin(), slot.w13.bytes.end());
      w2.bytes.insert(w2.bytes.end(), slot.w2.bytes.begin(), slot.w2.bytes.end());
      ++w13.shape.dim[0], ++w2.shape.dim[0];
    }
    options.fused = options.combine.plan.fused_shared = true;
    options.insertion = SlotInsertion::kAiterAppend;
  }
};

class MoeBlockGolden : public ::testing::Test {
 protected:
  const json cases_ = json::parse(std::ifstream(kFolder + "index.json")).at("cases");
};

TEST_F(MoeBlockGolden, TransformersLayersStayWithinTheBounds) {
  ASSERT_GE(cases_.size(), 4U);
  for (const json& c : cases_) {
    SCOPED_TRACE(c.at("name").get<std::string>());
    GoldenBlock golden(c);
    const std::vector<double> output = numbers_of(golden.output.view());
    const MoeBlockResult unfused = moe_block(golden.inputs(), golden.options);
    EXPECT_EQ(std::count(unfused.ambiguous.begin(), unfused.ambiguous.end(), true), 0);
    EXPECT_EQ(rejection(output, unfused.out, DType::kF32), "");
    EXPECT_FALSE(golden.options.effective_plan().check());

    MoeBlockOptions alone = golden.options;
    alone.shared_experts = 0;
    EXPECT_EQ(rejection(numbers_of(golden.routed_output.view()), moe_block(golden.inputs(), alone).out,
                        DType::kF32),
              "");

    golden.fuse();
    EXPECT_EQ(rejection(output, moe_block(golden.inputs(), golden.options).out, DType::kF32), "");
  }
}

TEST_F(MoeBlockGolden, TheDiagnosisOfALayerIsCorrectAndOfABrokenOneIsNot) {
  for (const json& c : cases_) {
    const GoldenBlock golden(c);
    if (golden.options.gating.routed_scaling_factor == 1) continue;  // nothing to tell apart
    SCOPED_TRACE(c.at("name").get<std::string>());
    const MoeBlockResult r = moe_block(golden.inputs(), golden.options);
    DiagnosisContext context;
    context.routed_scaling_factor = golden.options.gating.routed_scaling_factor;
    const auto diagnosed = [&](const std::vector<double>& out) {
      const ScaleFit fit = fit_scale(out, r.routed, r.shared);
      return diagnose_scale(fit.alpha, fit.beta, context).name;
    };
    std::vector<double> out = numbers_of(golden.output.view());
    EXPECT_EQ(diagnosed(out), "correct");
    const std::vector<double> routed = numbers_of(golden.routed_output.view());
    for (std::size_t i = 0; i < out.size(); ++i)
      out[i] += (1 / context.routed_scaling_factor - 1) * routed[i];
    EXPECT_EQ(diagnosed(out), "scale_missing");
    EXPECT_NE(rejection(out, r.out, DType::kF32), "");
  }
}

TEST_F(MoeBlockGolden, AnotherActivationOrLayoutIsNotTheirs) {
  for (const json& c : cases_) {
    SCOPED_TRACE(c.at("name").get<std::string>());
    const GoldenBlock golden(c);
    const std::vector<double> output = numbers_of(golden.output.view());
    MoeBlockOptions wrong = golden.options;
    wrong.experts.activation.layout = GateUpLayout::kUpGate;
    EXPECT_NE(rejection(output, moe_block(golden.inputs(), wrong).out, DType::kF32), "");
    wrong = golden.options;
    wrong.gating.renormalize = !wrong.gating.renormalize;
    EXPECT_NE(rejection(output, moe_block(golden.inputs(), wrong).out, DType::kF32), "");
  }
}

}  // namespace
}  // namespace moecheck::reference
