// Loading a checkpoint with fused shared experts: who reaches which slot, and who is missing.
#include "reference/shared_expert_loading.h"

#include <gtest/gtest.h>

#include "tests/moe_test_support.h"

namespace moecheck::reference {
namespace {

struct Model {
  std::int64_t experts = 3, shared = 2, inter = 4, hidden = 6;
  WeightScale scale = WeightScale::kNone;
  std::vector<std::int64_t> layers = {1, 2}, mtp = {5};
  Checkpoint checkpoint;
};

Model make_model(std::int64_t n, WeightScale scale, Rng& rng) {
  Model m;
  m.shared = n, m.scale = scale;
  if (scale == WeightScale::kBlock) m.inter = 128, m.hidden = 132;
  std::vector<std::int64_t> layers = m.layers;
  layers.insert(layers.end(), m.mtp.begin(), m.mtp.end());
  for (const std::int64_t layer : layers) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".mlp.";
    for (std::int64_t e = 0; e <= m.experts; ++e) {
      const bool fat = e == m.experts;
      const SharedExpertWeights w = scaled_weights(scale, m.inter * (fat ? n : 1), m.hidden, false, rng);
      const std::string at = prefix + (fat ? "shared_experts." : "experts." + std::to_string(e) + ".");
      const auto add = [&](const char* projection, const WeightTensor& weight, const WeightTensor& s) {
        m.checkpoint[at + projection + ".weight"] = weight;
        if (scale != WeightScale::kNone) m.checkpoint[at + projection + ".weight_scale"] = s;
      };
      add("gate_proj", w.gate, w.gate_scale);
      add("up_proj", w.up, w.up_scale);
      add("down_proj", w.down, w.down_scale);
    }
    m.checkpoint[prefix + "gate.weight"] = normal_tensor(DType::kBF16, Shape(m.experts, m.hidden), rng);
  }
  return m;
}

LoadOptions load_options(const Model& m) {
  LoadOptions o;
  o.experts = m.experts, o.shared = m.shared, o.intermediate = m.inter, o.scale = m.scale;
  o.layers = m.layers, o.mtp_layers = m.mtp;
  return o;
}

bool mentions(const std::vector<std::string>& lines, std::string_view what) {
  return std::any_of(lines.begin(), lines.end(),
                     [&](const std::string& line) { return line.find(what) != std::string::npos; });
}

TEST(Loading, EveryTensorReachesOneSlotAndEverySlotIsReached) {
  Rng rng(31);
  for (const WeightScale scale :
       {WeightScale::kNone, WeightScale::kTensor, WeightScale::kChannel, WeightScale::kBlock})
    for (const std::int64_t n : {1, 2, 3}) {
      const Model m = make_model(n, scale, rng);
      const LoadedExperts loaded = load_experts(m.checkpoint, load_options(m));
      EXPECT_TRUE(loaded.report.complete()) << loaded.report.text();
      const WeightTensor& w13 = loaded.params.at("model.layers.5.mtp_block.mlp.experts.w13_weight");
      EXPECT_EQ(w13.shape, Shape(m.experts + n, 2 * m.inter, m.hidden));
      const Checkpoint& c = m.checkpoint;
      const std::vector<SharedSlot> slots = [&] {
        SharedExpertWeights w;
        w.gate = c.at("model.layers.5.mlp.shared_experts.gate_proj.weight");
        w.up = c.at("model.layers.5.mlp.shared_experts.up_proj.weight");
        w.down = c.at("model.layers.5.mlp.shared_experts.down_proj.weight");
        return split_shared_experts(w, n, m.inter);
      }();
      for (std::int64_t j = 0; j < n; ++j) {
        const WeightTensor& slab = slots[static_cast<std::size_t>(j)].w13;
        const auto begin = w13.bytes.begin() + (m.experts + j) * static_cast<std::int64_t>(slab.bytes.size());
        EXPECT_TRUE(std::equal(slab.bytes.begin(), slab.bytes.end(), begin)) << "slot " << j;
      }
    }
}

TEST(Loading, AMappingThatWasNotWidenedLeavesSlotsUnreached) {
  Rng rng(32);
  const Model m = make_model(2, WeightScale::kNone, rng);
  LoadOptions o = load_options(m);
  o.widen_mapping = false;
  const LoadReport report = load_experts(m.checkpoint, o).report;
  EXPECT_EQ(report.unreached.size(), 3U * 2 * 3) << "layers x chunks x projections";
  EXPECT_TRUE(mentions(report.unreached, "model.layers.1.mlp.experts.w13_weight[3] up"));
  EXPECT_TRUE(mentions(report.unplaced, "model.layers.2.mlp.shared_experts.down_proj.weight"));
  EXPECT_NE(report.text().find("slots that nothing reached"), std::string::npos);
}

TEST(Loading, ADraftLoaderThatKnowsNoFusedSlotsIsNamed) {
  Rng rng(33);
  const Model m = make_model(1, WeightScale::kNone, rng);
  LoadOptions o = load_options(m);
  o.split_in_mtp = false;
  const LoadReport report = load_experts(m.checkpoint, o).report;
  EXPECT_EQ(report.unreached.size(), 3U);
  for (const std::string& line : report.unreached)
    EXPECT_NE(line.find("mtp_block"), std::string::npos) << line;
  EXPECT_TRUE(mentions(report.unplaced, "model.layers.5.mlp.shared_experts.gate_proj.weight"));
}

TEST(Loading, WrongSplitsAreSeenInShapesOrValues) {
  Rng rng(34);
  const Model m = make_model(2, WeightScale::kChannel, rng);
  const LoadedExperts right = load_experts(m.checkpoint, load_options(m));
  LoadOptions o = load_options(m);
  o.replicate_down_channel_scale = false;
  EXPECT_TRUE(
      mentions(load_experts(m.checkpoint, o).report.misshapen, "shared_experts.down_proj.weight_scale"));
  o = load_options(m);
  o.split_down_by_columns = false;
  EXPECT_TRUE(mentions(load_experts(m.checkpoint, o).report.misshapen, "shared_experts.down_proj.weight"));
  o = load_options(m);
  o.split_each_of_gate_and_up = false;
  const LoadedExperts stacked = load_experts(m.checkpoint, o);
  EXPECT_TRUE(stacked.report.complete()) << "every slot is reached: only a checksum sees it";
  EXPECT_NE(stacked.params.at("model.layers.1.mlp.experts.w13_weight"),
            right.params.at("model.layers.1.mlp.experts.w13_weight"));
}

TEST(Loading, MissingRepeatedAndForeignTensorsAreNamed) {
  Rng rng(35);
  Model m = make_model(1, WeightScale::kNone, rng);
  m.checkpoint.erase("model.layers.1.mlp.experts.2.up_proj.weight");
  m.checkpoint["model.layers.9.mlp.experts.0.up_proj.weight"] =
      m.checkpoint["model.layers.1.mlp.experts.0.up_proj.weight"];
  m.checkpoint["model.layers.2.mlp.experts.3.up_proj.weight"] =
      m.checkpoint["model.layers.2.mlp.experts.0.up_proj.weight"];
  m.checkpoint["model.layers.2.mlp.experts.7.up_proj.weight"] =
      m.checkpoint["model.layers.2.mlp.experts.0.up_proj.weight"];
  const LoadReport report = load_experts(m.checkpoint, load_options(m)).report;
  EXPECT_TRUE(mentions(report.unreached, "model.layers.1.mlp.experts.w13_weight[2] up"));
  EXPECT_TRUE(mentions(report.unplaced, "model.layers.9.mlp.experts.0"));
  EXPECT_TRUE(mentions(report.unplaced, "model.layers.2.mlp.experts.7"));
  EXPECT_TRUE(mentions(report.repeated, "model.layers.2.mlp.experts.w13_weight[3] up"));
}

TEST(Loading, ARankLoadsItsRangeAndTheSharedSlots) {
  Rng rng(36);
  const Model m = make_model(2, WeightScale::kNone, rng);
  LoadOptions o = load_options(m);
  o.local_begin = 1, o.local_end = 3;
  const LoadedExperts rank = load_experts(m.checkpoint, o),
                      whole = load_experts(m.checkpoint, load_options(m));
  EXPECT_TRUE(rank.report.complete()) << rank.report.text();
  const WeightTensor &part = rank.params.at("model.layers.2.mlp.experts.w2_weight"),
                     &all = whole.params.at("model.layers.2.mlp.experts.w2_weight");
  const std::size_t slab = all.bytes.size() / 5;
  ASSERT_EQ(part.bytes.size(), 4 * slab);
  EXPECT_TRUE(std::equal(part.bytes.begin(), part.bytes.end(),
                         all.bytes.begin() + static_cast<std::ptrdiff_t>(slab)));
}

TEST(Loading, UnfusedSharedExpertsAreNotItsBusiness) {
  Rng rng(37);
  const Model m = make_model(2, WeightScale::kNone, rng);
  LoadOptions o = load_options(m);
  o.fused = false;
  const LoadedExperts loaded = load_experts(m.checkpoint, o);
  EXPECT_TRUE(loaded.report.complete()) << loaded.report.text();
  EXPECT_EQ(loaded.params.at("model.layers.1.mlp.experts.w13_weight").shape[0], 3);
}

TEST(ExpertMapping, IsTheSameRuleForEverySlot) {
  const std::vector<ExpertMapping> rules = expert_mapping(12);
  ASSERT_EQ(rules.size(), 36U);
  EXPECT_EQ(rules[33].weight, "experts.11.gate_proj.");
  EXPECT_EQ(rules[34].param, "experts.w13_");
  EXPECT_EQ(rules[35].param, "experts.w2_");
  EXPECT_EQ(rules[35].slot, 11);
  EXPECT_EQ(rules[35].shard, Projection::kDown);
}

}  // namespace
}  // namespace moecheck::reference
