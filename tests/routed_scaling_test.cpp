// Where routed_scaling_factor is multiplied: plans, projects' rules, and the diagnosis from outputs alone.
// The reduce itself: combine_test.cpp.
#include "reference/routed_scaling.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cfloat>
#include <numeric>

#include "reference/scale_diagnosis.h"
#include "reference/scale_rules.h"
#include "tests/moe_test_support.h"

namespace moecheck::reference {
namespace {

constexpr double kRsf = 2.827;

ScalePlan plan_with(std::initializer_list<ScalePlace> places, bool fused = false) {
  ScalePlan plan;
  plan.fused_shared = fused;
  for (const ScalePlace place : places) plan = plan.with(place);
  return plan;
}

TEST(ScalePlace, NamesParseBack) {
  for (int i = 0; i < kScalePlaces; ++i) {
    ScalePlace parsed{};
    ASSERT_TRUE(parse_scale_place(name(static_cast<ScalePlace>(i)), parsed));
    EXPECT_EQ(static_cast<int>(parsed), i);
  }
  ScalePlace none{};
  EXPECT_FALSE(parse_scale_place("everywhere", none));
}

// The table of section 2.2: what a path does, the coefficients it gives, and the name of the bug.
struct TableRow {
  ScalePlan plan;
  double alpha, beta;
  std::string_view diagnosis;
};
std::vector<TableRow> table() {
  using P = ScalePlace;
  ScalePlan per_rank = plan_with({P::kTopkWeights}, true);
  per_rank.shared_copies = 4;
  const double r = kRsf;
  return {
      {plan_with({P::kReduce}), r, 1, "correct"},
      {plan_with({}), 1, 1, "scale_missing"},
      {plan_with({P::kTopkWeights, P::kOutput}), r * r, 1, "scale_twice"},
      {plan_with({P::kRunner}, true), r, r, "whole_output_scaled"},
      {plan_with({P::kTopkWeights, P::kPreDividedShared}, true), r, 1 / r, "shared_slot_divided"},
      {plan_with({P::kPreDividedShared}, true), 1, 1 / r, "pre_divided_without_output_scale"},
      {plan_with({P::kTopkWeightsAndShared, P::kReduce}, true), r * r, r, "weights_and_output_scaled"},
      {plan_with({P::kReduce, P::kOutput}, true), r * r, r * r, "whole_output_scaled_twice"},
      {per_rank, r, 4, "shared_once_per_rank"},
  };
}

TEST(ScaleTable, EveryRowComesOutOfItsPlanAndIsRecognized) {
  DiagnosisContext context;
  context.routed_scaling_factor = kRsf;
  context.ep_size = 4;
  for (const TableRow& row : table()) {
    const ScaleCoefficients c = row.plan.coefficients(kRsf);
    EXPECT_DOUBLE_EQ(c.alpha, row.alpha) << row.diagnosis;
    EXPECT_DOUBLE_EQ(c.beta, row.beta) << row.diagnosis;
    const ScaleDiagnosis found = diagnose_scale(c.alpha, c.beta, context);
    EXPECT_EQ(found.name, row.diagnosis);
    EXPECT_EQ(found.correct, row.diagnosis == "correct");
    EXPECT_EQ(row.plan.check().has_value(), row.diagnosis != "correct") << row.diagnosis;
    EXPECT_FALSE(found.ambiguous);
  }
}

TEST(ScaleTable, RowsThatNoPlanGivesAreRecognizedToo) {
  DiagnosisContext context;
  context.routed_scaling_factor = kRsf;
  context.shared_slots = 2;
  context.score_sum = 1.147439;
  const double sum = *context.score_sum, divisor = 1 + 2 / kRsf;
  EXPECT_EQ(diagnose_scale(kRsf, 0, context).name, "shared_lost");
  EXPECT_EQ(diagnose_scale(0, 1, context).name, "routed_lost");
  EXPECT_EQ(diagnose_scale(kRsf * sum, 1, context).name, "renorm_missing");
  EXPECT_EQ(diagnose_scale(kRsf * sum, 17, context).name, "renorm_missing");
  EXPECT_EQ(diagnose_scale(kRsf, sum, context).name, "fused_without_renorm");
  EXPECT_EQ(diagnose_scale(kRsf * sum, sum, context).name, "fused_without_renorm");
  EXPECT_EQ(diagnose_scale(kRsf / divisor, 1 / divisor, context).name, "shared_in_divisor");
  EXPECT_EQ(diagnose_scale(kRsf, 0.5, context).name, "shared_weight_over_n");
  EXPECT_EQ(diagnose_scale(0.3, 7, context).name, "unknown");
}

TEST(ScaleTable, AFactorOfOneIsCalledAmbiguous) {
  DiagnosisContext context;
  EXPECT_TRUE(diagnose_scale(1, 1, context).ambiguous);
}

TEST(ScalePlan, SharedInTheDivisorShrinksBothAsTheNotesSay) {
  DiagnosisContext context;
  context.routed_scaling_factor = 2.5;
  EXPECT_EQ(diagnose_scale(1.786, 0.714, context).name, "shared_in_divisor");
}

TEST(ScalePlan, WithoutRenormalizationAPreDividedSlotKeepsTheScoreSum) {
  ScalePlan plan = plan_with({ScalePlace::kReduce, ScalePlace::kPreDividedShared}, true);
  EXPECT_FALSE(plan.check());
  plan.renormalized = false;
  EXPECT_DOUBLE_EQ(plan.coefficients(2.5, 1.147439).beta, 1.147439);
  EXPECT_NE(plan.check()->find("without it"), std::string::npos);
  ScalePlan unit = plan_with({ScalePlace::kTopkWeights}, true);
  unit.renormalized = false;
  EXPECT_FALSE(unit.check()) << "weight 1 is right with and without renormalization";
}

TEST(ScalePlan, TheFp16FormNeedsTheDividedStream) {
  ScalePlan plan = plan_with({ScalePlace::kRunner});
  plan.half_runner = true;
  EXPECT_DOUBLE_EQ(plan.coefficients(2.5).beta, 0.4);
  EXPECT_NE(plan.check()->find("residual stream is not divided"), std::string::npos);
  EXPECT_FALSE(plan.with(ScalePlace::kResidualStream).check());
}

TEST(ScaleRules, SglangIsRightForEveryCombinationOfFlagsWithItsGuards) {
  for (int bits = 0; bits < 1 << 11; ++bits) {
    SglangScaleFlags flags;
    flags.platform = static_cast<SglangPlatform>(bits & 3);
    flags.path = static_cast<SglangPath>(bits >> 2 & 3);
    flags.use_aiter = (bits >> 4 & 1) != 0;
    flags.fused_shared = (bits >> 5 & 1) != 0;
    flags.fused_in_topk = (bits >> 6 & 1) != 0;
    flags.renormalize = (bits >> 7 & 1) != 0;
    flags.kt_wrapper = (bits >> 8 & 1) != 0;
    flags.ep_every_rank = (bits >> 9 & 1) != 0;
    flags.ep_size = 1 + 3 * (bits >> 10 & 1);
    const ScalePlan plan = sglang_scale_plan(flags);
    const bool aiter = flags.platform == SglangPlatform::kHip && flags.use_aiter;
    if (flags.fused_shared && !flags.renormalize && !aiter) {
      EXPECT_TRUE(plan.check()) << "a slot computed from the scores' sum needs norm_topk_prob";
    } else {
      EXPECT_FALSE(plan.check()) << bits << ": " << plan.describe() << ": " << *plan.check();
    }
  }
}

TEST(ScaleRules, VllmIsRightWhereTheModelAsksForTheOutputScaleWithoutAiterOnly) {
  for (int bits = 0; bits < 1 << 6; ++bits) {
    VllmScaleFlags flags;
    flags.aiter = (bits & 1) != 0;
    flags.fused_shared = (bits >> 1 & 1) != 0;
    flags.renormalize = (bits >> 2 & 1) != 0;
    flags.monolithic = (bits >> 3 & 1) != 0;
    flags.fp16 = (bits >> 4 & 1) != 0;
    flags.ep_size = 1 + 3 * (bits >> 5 & 1);
    flags.apply_scale_to_output = !flags.aiter;
    const ScalePlan plan = vllm_scale_plan(flags);
    EXPECT_EQ(plan.check().has_value(), flags.aiter && flags.fp16) << bits << ": " << plan.describe();
  }
}

TEST(ScaleRules, EveryPublishedBugIsDescribedAndDiagnosed) {
  EXPECT_GE(known_scale_bugs().size(), 15U);
  for (const KnownScaleBug& bug : known_scale_bugs()) {
    const auto words = bug.plan.check();
    ASSERT_TRUE(words) << bug.name;
    EXPECT_GT(words->size(), 40U);
    DiagnosisContext context;
    context.routed_scaling_factor = kRsf;
    context.ep_size = 4;
    context.score_sum = 1.147439;
    const ScaleCoefficients c = bug.plan.coefficients(kRsf, *context.score_sum);
    // In its own context (a divided stream) the fp16 bug is visible; alone it looks like a whole output scaled.
    EXPECT_FALSE(diagnose_scale(c.alpha, c.beta, context).correct) << bug.name;
  }
}

TEST(ScaleRules, KnownBugsHaveTheirCoefficients) {
  const auto of = [](std::string_view bug_name) {
    for (const KnownScaleBug& bug : known_scale_bugs())
      if (bug.name == bug_name) return bug.plan.coefficients(2.5);
    return ScaleCoefficients{0, 0};
  };
  EXPECT_DOUBLE_EQ(of("fused_shared_output_scale").alpha, 2.5);
  EXPECT_DOUBLE_EQ(of("fused_shared_output_scale").beta, 2.5);
  EXPECT_DOUBLE_EQ(of("hip_dual_stream").alpha, 6.25);
  EXPECT_DOUBLE_EQ(of("hip_dual_stream").beta, 1);
  EXPECT_DOUBLE_EQ(of("mori_shared").alpha, 2.5);
  EXPECT_DOUBLE_EQ(of("mori_shared").beta, 0.4);
  EXPECT_DOUBLE_EQ(of("aiter_big_m").alpha, 1);
  EXPECT_DOUBLE_EQ(of("overlap_output").alpha, 6.25);
  EXPECT_DOUBLE_EQ(of("ep_shared_per_rank").beta, 4);
}

RC_GTEST_PROP(ScalePlanProperties, CoefficientsAreWhatTheMultiplicationsDoToNumbers, ()) {
  ScalePlan plan;
  plan.places = static_cast<std::uint8_t>(*rc::gen::inRange(0, 128));
  plan.fused_shared = *rc::gen::arbitrary<bool>();
  plan.half_runner = *rc::gen::arbitrary<bool>();
  const double r = 2.5, routed = 3, shared = 7;
  double w = 1, slot = plan.has(ScalePlace::kPreDividedShared) ? 1 / r : 1;
  if (plan.has(ScalePlace::kTopkWeights)) w *= r;
  if (plan.has(ScalePlace::kTopkWeightsAndShared)) w *= r, slot = 1;
  double out = w * routed + (plan.fused_shared ? slot * shared : 0), addend = shared;
  for (const ScalePlace place : {ScalePlace::kReduce, ScalePlace::kOutput, ScalePlace::kSharedAddAlpha})
    if (plan.has(place)) out *= r;
  if (plan.has(ScalePlace::kRunner)) {
    if (plan.half_runner && !plan.fused_shared) {
      addend /= r;
    } else {
      out *= r;
    }
  }
  if (!plan.fused_shared) out += addend;
  const ScaleCoefficients c = plan.coefficients(r);
  RC_ASSERT(std::fabs(c.alpha * routed + c.beta * shared - out) <=
            32 * DBL_EPSILON * out);  // 16 roundings, all terms positive
}

TEST(FitScale, RecoversCoefficientsFromRoundedOutputs) {
  Rng rng(7);
  std::vector<double> routed, shared, out;
  for (int i = 0; i < 512; ++i) {
    routed.push_back(normal(rng));
    shared.push_back(normal(rng) * 0.2);
    out.push_back(round_to(DType::kBF16, kRsf * routed.back() + kRsf * shared.back()));
  }
  const ScaleFit fit = fit_scale(out, routed, shared);
  // || error of a least squares solution || <= || rounding errors || / smallest singular value, columns of length 1.
  const auto norm = [](const std::vector<double>& v) {
    return std::sqrt(std::inner_product(v.begin(), v.end(), v.begin(), 0.0));
  };
  const double square = fit.condition * fit.condition, smallest = std::sqrt(2 / (square + 1));
  const double reach = unit_roundoff(DType::kBF16) * 2 * norm(out) / smallest;
  EXPECT_LT(std::fabs(fit.alpha - kRsf), reach / norm(routed));
  EXPECT_LT(std::fabs(fit.beta - kRsf), reach / norm(shared));
  EXPECT_LE(fit.residual, 2 * unit_roundoff(DType::kBF16));
  EXPECT_FALSE(fit.dependent);
  DiagnosisContext context;
  context.routed_scaling_factor = kRsf;
  const std::string words = describe(fit, context);
  EXPECT_NE(words.find("vllm#44313"), std::string::npos) << words;
  EXPECT_NE(words.find("Remedy"), std::string::npos) << words;
}

TEST(FitScale, SaysWhenRoutedAndSharedCannotBeToldApart) {
  const std::vector<double> routed = {1, 2, 3, 4}, shared = {2, 4, 6, 8}, out = {4, 8, 12, 16};
  const ScaleFit fit = fit_scale(out, routed, shared);
  EXPECT_TRUE(fit.dependent);
  EXPECT_NE(describe(fit, {}).find("told apart"), std::string::npos);
  EXPECT_TRUE(fit_scale(out, routed, {}).dependent);
  EXPECT_DOUBLE_EQ(fit_scale(out, routed, {}).alpha, 4);
}

TEST(FitScale, LeavesNonFiniteElementsOutAndSeesWhatScalingDoesNotExplain) {
  std::vector<double> routed = {1, -2, 3, 4, 5}, shared = {2, 1, 0, -1, 3}, out;
  for (std::size_t i = 0; i < routed.size(); ++i) out.push_back(2 * routed[i] + shared[i]);
  out[2] = std::nan("");
  const ScaleFit fit = fit_scale(out, routed, shared);
  EXPECT_DOUBLE_EQ(fit.alpha, 2);
  EXPECT_DOUBLE_EQ(fit.beta, 1);
  out[0] = 100;
  EXPECT_NE(describe(fit_scale(out, routed, shared), {}).find("does not explain"), std::string::npos);
}

}  // namespace
}  // namespace moecheck::reference
