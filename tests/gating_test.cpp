// Gating: hand-checked vectors, ties, rules for rows, remap.
#include "reference/gating.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "reference/gating_scores.h"
#include "tests/gating_test_support.h"

namespace moecheck::tests {
namespace {

using Ids = std::vector<std::int64_t>;
using Texts = std::vector<std::string>;
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

const std::vector<double> kLogits = {0.5, -1, 2, 0.1}, kBias = {0.3, 0, -0.2, 0.4};

GatingOptions basic() { return sizes(4, 1, 1, 2); }

std::vector<double> values(const std::vector<Bounded>& v) {
  std::vector<double> out;
  for (const auto& b : v) out.push_back(b.value);
  return out;
}

TEST(Gating, BasicVector) {
  auto o = basic();
  const GateRun run(o, kLogits, kBias);
  EXPECT_EQ(six_decimals(values(run.row.score)), (Texts{"0.622459", "0.268941", "0.880797", "0.524979"}));
  EXPECT_EQ(six_decimals(values(run.row.choice)), (Texts{"0.922459", "0.268941", "0.680797", "0.924979"}));
  EXPECT_EQ(run.ids, (Ids{3, 0}));  // not expert 2, which has the best score
  EXPECT_EQ(six_decimals(run.values()), (Texts{"0.457523", "0.542477"}));
  o.routed_scaling_factor = 2.5;
  o.policy.scale_weights = ScaleWeights::kAlways;
  EXPECT_EQ(six_decimals(GateRun(o, kLogits, kBias).values()), (Texts{"1.143807", "1.356193"}));
  o.renormalize = false;
  o.policy.scale_weights = ScaleWeights::kNever;
  EXPECT_EQ(six_decimals(GateRun(o, kLogits, kBias).values()), (Texts{"0.524979", "0.622459"}));
}

TEST(Gating, FusedSharedSlots) {
  auto o = basic();
  o.shared = 1;
  o.routed_scaling_factor = 2.5;
  o.policy.shared_weights = SharedWeight::kPreRenorm;
  o.policy.scale_weights = ScaleWeights::kIfFlag;
  EXPECT_EQ(six_decimals(GateRun(o, kLogits, kBias).values()), (Texts{"0.457523", "0.542477", "0.400000"}));
  o.scale_flag = true;
  EXPECT_EQ(six_decimals(GateRun(o, kLogits, kBias).values()), (Texts{"1.143807", "1.356193", "1.000000"}));
  o.scale_flag = o.renormalize = false;
  EXPECT_EQ(six_decimals(GateRun(o, kLogits, kBias).values()), (Texts{"0.524979", "0.622459", "0.458975"}));
  o.policy.shared_weights = SharedWeight::kUnitIfRenorm;
  EXPECT_EQ(six_decimals(GateRun(o, kLogits, kBias).values()).back(), "0.458975");
  o.renormalize = true;
  EXPECT_EQ(GateRun(o, kLogits, kBias).weights.back().value, 1);
  o.policy.shared_weights = SharedWeight::kConstant;
  o.shared_weight = 0.25;
  EXPECT_EQ(GateRun(o, kLogits, kBias).weights.back().value, 0.25);
  EXPECT_EQ(GateRun(o, kLogits, kBias).gate.shared_id(0), 4);
}

TEST(Gating, SharedIdsAndGatedSlots) {
  auto o = basic();
  o.shared = 2;
  o.policy.shared_weights = SharedWeight::kGated;
  EXPECT_EQ(o.logit_columns(), 6);
  const GateRun run(o, {0.5, -1, 2, 0.1, 0, -1}, kBias);
  EXPECT_EQ(six_decimals(run.values()), (Texts{"0.457523", "0.542477", "0.500000", "0.268941"}));
  EXPECT_EQ(run.gate.shared_id(1), 5);
  o.policy.shared_ids = SharedIds::kSame;
  EXPECT_EQ(Gating(o).shared_id(1), 4);
}

TEST(Gating, DuplicateOfTheMaximumCountsTwice) {
  std::vector<double> logits;
  for (double s : {.9, .9, .95, .2, .5, .5, .1, .1}) logits.push_back(logit(s));
  const std::vector<double> zero(8, 0.0);
  auto o = sizes(8, 4, 1, 2);
  EXPECT_EQ(GateRun(o, logits, zero).ids, (Ids{0, 1}));
  o.policy.group_score = GroupScore::kMax;
  EXPECT_EQ(GateRun(o, logits, zero).ids, (Ids{2, 3}));
  o.policy.group_score = GroupScore::kTop2Distinct;
  EXPECT_EQ(GateRun(o, logits, zero).ids, (Ids{2, 3}));
  EXPECT_EQ(GateRun(o, logits, zero).row.group[0].value, -kInf);

  auto three = sizes(6, 2, 1, 1);  // {0.9, 0.9, 0.1}: 1.8, or 1.0 when duplicates are dropped
  std::vector<double> l;
  for (double s : {.9, .9, .1, .5, .5, .5}) l.push_back(logit(s));
  EXPECT_EQ(six_decimals({GateRun(three, l, std::vector<double>(6)).row.group[0].value}), Texts{"1.800000"});
  three.policy.group_score = GroupScore::kTop2Distinct;
  EXPECT_EQ(six_decimals({GateRun(three, l, std::vector<double>(6)).row.group[0].value}), Texts{"1.000000"});
}

TEST(Gating, MaskedExpertsAtZeroWinOverNegativeOnes) {
  // c = s + b with s = 0.5: groups {-.5,-.6} {-.9,-.9} {-.7,-.7} {-.95,-.95}
  const std::vector<double> bias = {-1, -1.1, -1.4, -1.4, -1.2, -1.2, -1.45, -1.45}, logits(8, 0.0);
  auto o = sizes(8, 4, 2, 2);
  EXPECT_EQ(GateRun(o, logits, bias).ids, (Ids{0, 1}));
  o.policy.masked = Masked::kZero;
  const GateRun zero(o, logits, bias);
  EXPECT_EQ(zero.ids, (Ids{2, 3}));  // of the masked group 1
  EXPECT_EQ(zero.gate.expert_order(zero.row, 2, 0, true, false), Order::kBefore);
  EXPECT_EQ(zero.gate.expert_order(zero.row, 2, 3, true, true), Order::kBefore);  // equal: the lower
  EXPECT_EQ(zero.values(), (std::vector<double>{0.5, 0.5}));
}

TEST(Gating, MaskedWinnersWeighNothingWithoutABias) {
  auto o = sizes(4, 2, 1, 2);
  o.scoring = Scoring::kSoftmax;
  o.renormalize = false;
  o.policy.masked = Masked::kZero;
  GateRun run(o, {0, -800, -1, -1});  // group 0: one expert above 0, the other underflows to it
  EXPECT_EQ(run.ids, (Ids{0, 1}));
  const std::vector<bool> masked = {false, true};
  run.gate.weights(run.row, {0, 2}, run.weights, &masked);
  EXPECT_EQ(run.weights[1].value, 0);
  EXPECT_TRUE(run.weights[1].is_exact());
}

Ids tied_ids(Tie tie, std::int64_t experts, std::int64_t topk) {
  auto o = sizes(experts, 1, 1, topk);
  o.policy.expert_tie = tie;
  const GateRun run(o, std::vector<double>(static_cast<std::size_t>(experts), 0.7),
                    std::vector<double>(static_cast<std::size_t>(experts)));
  const Order first = tie == Tie::kAny ? Order::kUndecided : Order::kBefore;
  EXPECT_EQ(run.gate.expert_order(run.row, run.ids[0], run.ids[1]), first);
  return run.ids;
}

TEST(Gating, Ties) {
  EXPECT_EQ(tied_ids(Tie::kLow, 256, 8), (Ids{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(tied_ids(Tie::kAny, 256, 4), (Ids{0, 1, 2, 3}));
  EXPECT_EQ(tied_ids(Tie::kHigh, 160, 3), (Ids{159, 158, 157}));
  EXPECT_EQ(tied_ids(Tie::kBitReversed, 256, 8), (Ids{0, 16, 8, 24, 4, 20, 12, 28}));
  EXPECT_EQ(tied_ids(Tie::kBitReversed, 384, 8), (Ids{0, 16, 8, 24, 4, 20, 12, 28}));
  const Ids all = tied_ids(Tie::kBitReversed, 96, 96);
  EXPECT_EQ(all[31], 31);
  EXPECT_EQ(all[32], 64);  // warps 0, 2, 1
  EXPECT_EQ(tied_ids(Tie::kLane64, 256, 6), (Ids{0, 64, 128, 192, 1, 65}));
}

TEST(Gating, TiedGroupsFollowTheGroupRule) {
  auto o = sizes(16, 4, 2, 4);
  const std::vector<double> logits(16, 0.3), bias(16, 0.1);
  const GateRun low(o, logits, bias);
  EXPECT_EQ(low.ids, (Ids{0, 1, 2, 3}));
  EXPECT_FALSE(low.row.group[0].is_exact());  // equal by their members, not by their values
  EXPECT_EQ(low.gate.group_order(low.row, 0, 1), Order::kBefore);
  o.policy.group_tie = Tie::kHigh;
  EXPECT_EQ(GateRun(o, logits, bias).ids, (Ids{8, 9, 10, 11}));
  o.policy.group_tie = Tie::kAny;
  const GateRun any(o, logits, bias);
  EXPECT_EQ(any.gate.group_order(any.row, 0, 1), Order::kUndecided);
}

TEST(Gating, EqualSumsOfUnequalTermsAreUndecided) {
  const auto o = sizes(4, 2, 1, 1);
  const double x = logit(0.6), y = logit(0.7);
  const GateRun run(o, {x, y, logit(0.65), logit(0.65)}, {0, 0, 0, 0});
  EXPECT_EQ(run.gate.group_order(run.row, 0, 1), Order::kUndecided);
  const GateRun swapped(o, {x, y, y, x}, {0, 0, 0, 0});
  EXPECT_EQ(swapped.gate.group_order(swapped.row, 0, 1), Order::kBefore);
}

TEST(Gating, NearScoresAreUndecidedAndFarOnesAreNot) {
  const auto o = sizes(3, 1, 1, 1);
  const float up = std::nextafter(0.5f, 1.f);
  const GateRun run(o, {0.5, up, 0.51}, {0, 0, 0});
  EXPECT_EQ(run.gate.expert_order(run.row, 0, 1), Order::kUndecided);
  EXPECT_EQ(run.gate.expert_order(run.row, 1, 0), Order::kUndecided);
  EXPECT_EQ(run.gate.expert_order(run.row, 2, 0), Order::kBefore);
  EXPECT_EQ(run.gate.expert_order(run.row, 0, 2), Order::kAfter);
  EXPECT_EQ(run.row.alike, (std::vector<std::uint32_t>{0, 1, 2}));
  EXPECT_EQ(GateRun(o, {0.0, -0.0, 1}, {0, 0, 0}).row.alike, (std::vector<std::uint32_t>{0, 0, 2}));
}

TEST(Gating, OutputOrderById) {
  auto o = basic();
  o.policy.order = SlotOrder::kId;
  EXPECT_EQ(GateRun(o, kLogits, kBias).ids, (Ids{0, 3}));
}

TEST(Gating, NonFiniteRules) {
  auto o = basic();
  const std::vector<double> nan = {0.5, -1, 2, kNan};
  EXPECT_TRUE(GateRun(o, nan, kBias).row.undefined);
  EXPECT_TRUE(is_unbounded(GateRun(o, nan, kBias).weights[0]));
  o.policy.non_finite = NonFinite::kScoreZero;  // c = 0 + 0.4 < 0.68
  EXPECT_EQ(GateRun(o, nan, kBias).ids, (Ids{0, 2}));
  EXPECT_EQ(GateRun(o, nan, kBias).row.score[3].value, 0);
  EXPECT_EQ(GateRun(o, nan, {0, 0, 0, 2}).ids, (Ids{3, 2}));
  o.policy.non_finite = NonFinite::kLowest;
  EXPECT_EQ(GateRun(o, nan, {0, 0, 0, 2}).ids, (Ids{2, 0}));
  EXPECT_FALSE(GateRun(o, {0.5, kNan, 2, kNan}, kBias).row.undefined);
  EXPECT_TRUE(GateRun(o, {0.5, kNan, kNan, kNan}, kBias).row.undefined);
  o.policy.non_finite = NonFinite::kLogitZero;
  EXPECT_EQ(GateRun(o, {kInf, -kInf, kNan, 0}, kBias).row.score[1].value, 0.5);
  EXPECT_FALSE(GateRun(o, {kInf, -kInf, kNan, 0}, kBias).row.undefined);
  o.policy.non_finite = NonFinite::kFiniteOnly;
  EXPECT_TRUE(GateRun(o, {0.5, -kInf, 2, 0.1}, kBias).row.undefined);
  EXPECT_FALSE(GateRun(o, kLogits, kBias).row.undefined);
}

TEST(Gating, InfiniteLogitsAndBiases) {
  auto o = basic();
  const GateRun run(o, {kInf, -kInf, 2, 0.1}, {0, 0.95, 0, 0});
  EXPECT_FALSE(run.row.undefined);
  EXPECT_EQ(run.row.score[0].value, 1);
  EXPECT_TRUE(run.row.score[1].is_exact());
  EXPECT_TRUE(run.row.choice[1].is_exact());
  EXPECT_EQ(run.ids, (Ids{0, 1}));
  EXPECT_EQ(run.weights[1].value, 0);
  EXPECT_EQ(GateRun(o, kLogits, {0.3, 0, -0.2, -kInf}).ids, (Ids{0, 2}));  // a dead expert
  EXPECT_TRUE(GateRun(o, kLogits, {-kInf, -kInf, -0.2, -kInf}).row.undefined);
  EXPECT_TRUE(GateRun(o, kLogits, {kNan, 0, 0, 0}).row.undefined);
  o.scoring = Scoring::kSoftmax;
  EXPECT_TRUE(GateRun(o, {kInf, 0, 2, 0.1}).row.undefined);
  EXPECT_TRUE(GateRun(o, {-kInf, -kInf, -kInf, -kInf}).row.undefined);
  EXPECT_EQ(GateRun(o, {-kInf, 0, 0, -kInf}).values(), (std::vector<double>{0.5, 0.5}));
}

TEST(Gating, AVanishingSumHasNoQuotient) {
  auto o = basic();
  const std::vector<double> gone(4, -kInf), zero(4, 0.0);
  EXPECT_TRUE(is_unbounded(GateRun(o, gone, zero).weights[0]));
  for (Epsilon e : {Epsilon::kAdd, Epsilon::kMax, Epsilon::kGuard}) {
    o.policy.epsilon = e;
    EXPECT_EQ(GateRun(o, gone, zero).weights[0].value, 0);
    EXPECT_TRUE(GateRun(o, gone, zero).weights[0].is_exact());
  }
  EXPECT_LE(GateRun(o, std::vector<double>(4, -87.4), zero).weights[0].value, 1);
  o.policy.epsilon = Epsilon::kAdd;  // 1e-30 beside 1e-20
  EXPECT_LT(GateRun(o, std::vector<double>(4, -69.0), zero).weights[0].value, 1e-9);
}

// Below about -17 a tanh sigmoid may be 0: shares of such scores lie anywhere between 0 and 1.
TEST(Gating, SharesOfLostScoresAreFreeAndBounded) {
  auto o = basic();
  o.policy.score_math = ScoreMath::kTanh;
  for (Epsilon e : {Epsilon::kAdd, Epsilon::kMax, Epsilon::kGuard}) {
    o.policy.epsilon = e;
    const Bounded w = GateRun(o, std::vector<double>(4, -20.0), std::vector<double>(4)).weights[0];
    EXPECT_LE(w.value - w.proven, 0);
    EXPECT_GE(w.value + w.proven, 1);
    EXPECT_LT(w.proven, 1.001);
  }
}

TEST(Gating, RowsDoNotDependOnTheBatch) {
  GatingOptions o = sizes(32, 4, 2, 4);
  const auto row = normal(32, 5), other = normal(32, 6), bias = normal(32, 7, 0, 0.2);
  std::vector<double> both = other;
  both.insert(both.end(), row.begin(), row.end());
  const auto l = packed(DType::kF32, both), b = packed(DType::kF32, bias);
  GateRun alone(o, row, bias);
  GatingRow second;
  alone.gate.scores({l.data(), DType::kF32, Shape(2, 32)}, {b.data(), DType::kF32, Shape(32)}, 1, second);
  EXPECT_EQ(values(second.choice), values(alone.row.choice));
  EXPECT_EQ(values(second.group), values(alone.row.group));
}

TEST(Gating, PaddedRowsAreTheLast) {
  auto o = basic();
  o.padded_tokens = 2;
  const Gating gate(o);
  EXPECT_FALSE(gate.is_padded(2, 5));
  EXPECT_TRUE(gate.is_padded(3, 5));
}

TEST(Gating, RemapLeavesPaddingAndSharedIds) {
  Ids ids = {0, 2, -1, 3, 4};
  remap_experts({7, 6, 5}, ids.data(), 5);
  EXPECT_EQ(ids, (Ids{7, 5, -1, 3, 4}));
}

// A constant added to the bias moves every choice score and no decision.
TEST(Gating, ShiftingTheBiasChangesNothing) {
  for (std::uint32_t seed = 0; seed < 50; ++seed) {
    const auto o = sizes(64, 4, 2, 6);
    const auto logits = normal(64, seed);
    auto bias = normal(64, seed + 100, 0, 0.3);
    const GateRun before(o, logits, bias);
    for (auto& b : bias) b = static_cast<float>(b) + 0.5f;
    const GateRun after(o, logits, bias);
    EXPECT_EQ(after.ids, before.ids);
    EXPECT_EQ(after.values(), before.values());
  }
}

TEST(Gating, QuickRoundingEqualsTheGeneral) {
  std::mt19937_64 engine(1);
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (int i = 0; i < 20000; ++i) {
      double v = std::ldexp(static_cast<double>(engine()) - 0x1p63, static_cast<int>(engine() % 100) - 110);
      if (i % 3 == 0) v = round_to(dtype, v) + 0.5 * (round_to(dtype, v * 1.01) - round_to(dtype, v));
      if (!std::isfinite(v)) continue;
      ASSERT_EQ(round_score(dtype, v), round_to(dtype, v)) << v;
    }
    for (double v : {0.0, kInf, -kInf, 65000.0, 65504.0, 65520.0, 3.39e38, 0x1p-14, 0x1p-25, 0x1p-127}) {
      ASSERT_EQ(round_score(dtype, v), round_to(dtype, v)) << v;
    }
  }
}

// Permuting experts within their groups permutes the ids and leaves the weights.
RC_GTEST_PROP(GatingProperty, PermutationWithinGroups, ()) {
  const auto seed = *rc::gen::arbitrary<std::uint32_t>();
  const auto groups = *rc::gen::element(1, 2, 4);
  auto o = sizes(32, groups, std::max(1, groups / 2), 4);
  const auto logits = normal(32, seed), bias = normal(32, seed + 1, 0, 0.3);
  std::vector<std::size_t> from(32);
  std::iota(from.begin(), from.end(), std::size_t{0});
  std::mt19937 engine(seed);
  const auto per_group = 32 / groups;
  for (auto g = from.begin(); g != from.end(); g += per_group) std::shuffle(g, g + per_group, engine);
  std::vector<double> l(32), b(32);
  for (std::size_t e = 0; e < 32; ++e) {
    l[e] = logits[from[e]];
    b[e] = bias[from[e]];
  }
  const GateRun one(o, logits, bias), two(o, l, b);
  RC_ASSERT(one.values() == two.values());
  for (std::size_t k = 0; k < 4; ++k) {
    RC_ASSERT(from[static_cast<std::size_t>(two.ids[k])] == static_cast<std::size_t>(one.ids[k]));
  }
}

// The weights of a renormalized row sum to 1, and to routed_scaling_factor where it is in them: a double or a
// missing scale shows here. The bounds of the terms bound the sum.
RC_GTEST_PROP(GatingProperty, WeightsSumToTheScale, ()) {
  const auto seed = *rc::gen::arbitrary<std::uint32_t>();
  auto o = sizes(64, 4, 2, *rc::gen::inRange(1, 17));
  o.scoring = *rc::gen::element(Scoring::kSigmoid, Scoring::kSoftmax, Scoring::kSqrtSoftplus);
  o.routed_scaling_factor = *rc::gen::element(1.0, 2.5, 2.827);
  o.policy.scale_weights = *rc::gen::element(ScaleWeights::kNever, ScaleWeights::kAlways);
  o.policy.epsilon = *rc::gen::element(Epsilon::kNone, Epsilon::kAdd, Epsilon::kMax, Epsilon::kGuard);
  const GateRun run(o, normal(64, seed, 0, 2), normal(64, seed + 1, 0, 0.1));
  double sum = 0, bound = 0;
  for (const auto& w : run.weights) {
    sum += w.value;
    bound += w.proven;
  }
  RC_ASSERT(std::fabs(sum - (run.gate.scales_weights() ? o.routed_scaling_factor : 1)) <= bound);
  RC_ASSERT(std::set<std::int64_t>(run.ids.begin(), run.ids.end()).size() == run.ids.size());
}

// The order is antisymmetric, and the reference's own selection respects it.
RC_GTEST_PROP(GatingProperty, SelectionRespectsTheOrder, ()) {
  const auto seed = *rc::gen::arbitrary<std::uint32_t>();
  auto o = sizes(32, 4, 2, 6);
  o.policy.expert_tie = *rc::gen::element(Tie::kLow, Tie::kHigh, Tie::kAny, Tie::kBitReversed, Tie::kLane64);
  auto logits = normal(32, seed), bias = normal(32, seed + 1, 0, 0.2);
  for (auto& v : logits) v = std::round(v * 4) / 4;  // ties
  for (auto& v : bias) v = std::round(v * 4) / 4;
  const GateRun run(o, logits, bias);
  for (std::size_t k = 1; k < run.ids.size(); ++k) {
    RC_ASSERT(run.gate.expert_order(run.row, run.ids[k - 1], run.ids[k]) != Order::kAfter);
    const Order back = run.gate.expert_order(run.row, run.ids[k], run.ids[k - 1]);
    RC_ASSERT(back != Order::kBefore);
  }
}

}  // namespace
}  // namespace moecheck::tests
