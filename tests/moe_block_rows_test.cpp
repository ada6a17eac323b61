// Rows of a block that are special: undecided, padded, gated. And what a block refuses.
#include <gtest/gtest.h>

#include "tests/block_test_support.h"

namespace moecheck::reference {
namespace {

TEST(MoeBlock, AnUndecidedSelectionIsFlaggedAndATieWithARuleIsNot) {
  Rng rng(55);
  BlockCase c = block_case(DType::kF32, 1, rng, 3);
  c.bias = WeightTensor(DType::kF32, Shape(8));
  const float close = std::nextafter(1.0F, 2.0F);
  const float rows[3][8] = {{3, 2, 1, close, -1, -2, -3, -4},  // third place within a rounding
                            {3, 2, 1, 1, -1, -2, -3, -4},      // equal bits: the lower id
                            {3, 2, 1, 0, -1, -2, -3, -4}};
  for (std::int64_t t = 0; t < 3; ++t)
    for (std::int64_t e = 0; e < 8; ++e) c.logits.mutable_view().set(t * 8 + e, rows[t][e]);
  const MoeBlockResult r = c.run();
  EXPECT_EQ(r.ambiguous, (std::vector<bool>{true, false, false}));
  EXPECT_EQ(r.ids[5], 2);
  c.options.gating.policy.expert_tie = Tie::kAny;
  EXPECT_EQ(c.run().ambiguous, (std::vector<bool>{true, true, false}));
  c.logits.mutable_view().set(16, std::nan(""));
  EXPECT_TRUE(c.run().ambiguous[2]) << "nothing is promised of a NaN row";
}

TEST(MoeBlock, GroupsThatAreUndecidedMakeTheRowUndecided) {
  Rng rng(56);
  BlockCase c = block_case(DType::kF32, 1, rng, 1);
  c.options.gating.groups = 4, c.options.gating.topk_group = 2, c.options.gating.topk = 2;
  c.bias = WeightTensor(DType::kF32, Shape(8));
  const auto ambiguous = [&](std::vector<double> logits) {
    c.logits = float_tensor(Shape(1, 8), logits);
    return static_cast<bool>(c.run().ambiguous[0]);
  };
  EXPECT_FALSE(ambiguous({3, 2, 1, 1, 0, 0, -1, -1}));
  EXPECT_TRUE(ambiguous({3, 2, 1, 0.5, std::nextafter(1.0F, 2.0F), 0.5, -1, -1})) << "groups 1 and 2";
}

TEST(MoeBlock, PaddedRowsGoToNobody) {
  Rng rng(57);
  BlockCase c = block_case(DType::kF32, 1, rng, 3);
  c.options.shared_experts = 0;
  c.options.gating.padded_tokens = 1;
  c.options.gating.policy.padding = Padding::kMinusOne;
  for (std::int64_t h = 0; h < 24; ++h) c.x.mutable_view().set(2 * 24 + h, std::nan(""));
  const MoeBlockResult r = c.run();
  EXPECT_EQ(r.ids[8], -1);
  for (std::size_t h = 0; h < 24; ++h) EXPECT_TRUE(r.out[48 + h].is_exact() && r.out[48 + h].value == 0);
}

TEST(MoeBlock, AGatedSharedExpertIsWeighedByItsToken) {
  Rng rng(58);
  BlockCase c = block_case(DType::kF32, 2, rng);
  const MoeBlockResult plain = c.run();
  c.options.gated_shared = true;
  c.options.round_shared_gate = Rounding::kRound;
  const MoeBlockResult gated = c.run();
  for (std::int64_t t = 0; t < 3; ++t) {
    double logit = 0;
    for (std::int64_t h = 0; h < 24; ++h) logit += c.x.view().at(t, h) * c.shared_gate.view().at(h);
    for (std::int64_t h = 0; h < 24; ++h) {
      const auto i = static_cast<std::size_t>(t * 24 + h);
      const double want = plain.out[i].value + (1 / (1 + std::exp(-logit)) - 1) * plain.shared[i];
      EXPECT_LE(std::fabs(gated.out[i].value - want), gated.out[i].proven + plain.out[i].proven);
    }
  }
  BlockCase f = fused(c, Fusion::kAppend, shared_slots(c));
  f.options.insertion = SlotInsertion::kGated;
  f.options.gated_shared = false;
  EXPECT_TRUE(compatible(gated.out, f.run().out)) << "one gate for all chunks";
}

TEST(MoeBlockRefusals, SayTheValueAndWhatToDo) {
  Rng rng(59);
  const BlockCase c = block_case(DType::kF32, 1, rng);
  const auto refused = [&](auto change) {
    BlockCase changed = c;
    change(changed.options);
    return refusal(changed.options, changed.inputs()).value_or("accepted");
  };
  EXPECT_EQ(refused([](auto&) {}), "accepted");
  EXPECT_NE(refused([](auto& o) { o.ep_size = 3; }).find("ep_size=3 with experts=8"), std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.fused = true; }).find("disagree"), std::string::npos);
  EXPECT_NE(refused([](auto& o) {
              o.gating.shared = 1, o.gating.policy.shared_weights = SharedWeight::kUnit;
            }).find("gating.shared=1"),
            std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.gating.experts = 16; }).find("router_logits must be [M, 16]"),
            std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.shared_experts = 2; }).find("shared experts: w13 has shape"),
            std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.gating.topk = 9; }).find("topk=9"), std::string::npos);
  BlockCase wrong = c;
  wrong.options.ep_size = 0;
  EXPECT_THROW(wrong.run(), std::invalid_argument);
}

}  // namespace
}  // namespace moecheck::reference
