// The comparators: right answers pass, and each kind of wrong answer is rejected. A judge that accepts everything would pass every
// other test of the project.
#include "harness/judge.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <limits>

namespace moecheck::harness {
namespace {

using reference::encode;

Tensor tensor_of(DType dtype, const std::vector<double>& values) {
  Tensor t("out", dtype, Shape(1, static_cast<std::int64_t>(values.size())));
  for (std::size_t i = 0; i < values.size(); ++i) t.view().set(static_cast<std::int64_t>(i), values[i]);
  return t;
}

Judgement judged(DType dtype, const std::vector<double>& got, const std::vector<Bounded>& expected,
                 ElementRules rules = {}) {
  Judgement j;
  judge_elements(j, tensor_of(dtype, got), expected, rules);
  return j;
}

TEST(Judge, ExactValuesPassAndTheNextNumberFails) {
  for (const DType d : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Bounded one = Bounded::exact(1);
    EXPECT_EQ(judged(d, {1}, {one}).verdict, Verdict::kPass);
    EXPECT_EQ(judged(d, {reference::next_up(d, 1)}, {one}).verdict, Verdict::kFail);
    EXPECT_EQ(judged(d, {reference::next_down(d, 1)}, {one}).verdict, Verdict::kFail);
  }
}

TEST(Judge, BothNeighboursAreRightNearAMidpointAndOnlyThere) {
  const double up = reference::next_up(DType::kBF16, 1), middle = (1 + up) / 2, bound = (up - 1) / 1000;
  for (const double got : {1.0, up})
    EXPECT_EQ(judged(DType::kBF16, {got}, {{middle, bound, bound}}).verdict, Verdict::kPass);
  EXPECT_EQ(judged(DType::kBF16, {up}, {{middle - 2 * bound, bound, bound}}).verdict, Verdict::kFail);
  EXPECT_EQ(judged(DType::kBF16, {1}, {{middle + 2 * bound, bound, bound}}).verdict, Verdict::kFail);
}

TEST(Judge, BeyondSixSigmaIsSuspectBeyondTheProvenBoundFails) {
  const Bounded b{1, 1e-6, 1e-4};
  EXPECT_EQ(judged(DType::kF32, {1 + 5e-6}, {b}).verdict, Verdict::kPass);
  EXPECT_EQ(judged(DType::kF32, {1 + 9e-6}, {b}).verdict, Verdict::kSuspect);
  EXPECT_EQ(judged(DType::kF32, {1 + 2e-4}, {b}).verdict, Verdict::kFail);
}

TEST(Judge, TheWorstElementIsThatOfTheLargestShareOfItsBound) {
  // An error of 0.5 within a bound of 4, and one of 0.01 within 0.0125.
  const Judgement j = judged(DType::kF32, {100.5, 1.01}, {{100, 4, 4}, {1, 0.0125, 0.0125}});
  ASSERT_TRUE(j.worst);
  EXPECT_EQ(j.worst->index.back(), 1);
  EXPECT_NEAR(j.worst->ratio, 0.8, 1e-3);
}

TEST(Judge, NonFiniteResultsMustBeTheExpectedOnes) {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  const Bounded two{2, 1e-7, 1e-6};
  EXPECT_EQ(judged(DType::kF32, {nan, 2}, {two, two}).verdict, Verdict::kFail);
  EXPECT_EQ(judged(DType::kF32, {inf, 2}, {two, two}).verdict, Verdict::kFail);
  EXPECT_EQ(judged(DType::kF32, {inf, 2}, {Bounded::exact(inf), two}).verdict, Verdict::kPass);
  EXPECT_EQ(judged(DType::kF32, {-inf, 2}, {Bounded::exact(inf), two}).verdict, Verdict::kFail);
  EXPECT_EQ(judged(DType::kF32, {nan, 2}, {Bounded::exact(nan), two}).verdict, Verdict::kPass);
  // NaN expected is no wildcard.
  EXPECT_EQ(judged(DType::kF32, {7, 2}, {Bounded::exact(nan), two}).verdict, Verdict::kFail);
}

TEST(Judge, TheWorstElementIsTheWrongOneWithItsCoordinates) {
  Tensor t("out", DType::kF32, Shape(2, 3));
  std::vector<Bounded> expected(6, Bounded{1, 1e-7, 1e-6});
  for (int i = 0; i < 6; ++i) t.view().set(i, 1);
  t.view().set(4, 1.5);
  Judgement j;
  judge_elements(j, t, expected);
  ASSERT_TRUE(j.worst);
  EXPECT_EQ(j.worst->index, (std::vector<std::int64_t>{1, 1}));
  EXPECT_EQ(j.worst->got, 1.5);
  EXPECT_EQ(j.failed, 1);
}

TEST(Judge, ChecksThatCouldNotFailAreMistrusted) {
  EXPECT_EQ(judged(DType::kF32, {0, 0}, {Bounded::exact(0), Bounded::exact(0)}).verdict,
            Verdict::kMistrusted);
  ElementRules zeros;
  zeros.may_be_zero = true;
  EXPECT_EQ(judged(DType::kF32, {0, 0}, {Bounded::exact(0), Bounded::exact(0)}, zeros).verdict,
            Verdict::kPass);
  EXPECT_EQ(judged(DType::kF32, {1}, {{1, 0.2, 0.2}}).verdict, Verdict::kMistrusted);
  const double inf = std::numeric_limits<double>::infinity();
  EXPECT_EQ(judged(DType::kF32, {1}, {{1, inf, inf}}).verdict, Verdict::kMistrusted);
  ElementRules exact;
  exact.must_be_exact = true;
  EXPECT_EQ(judged(DType::kF32, {1}, {{1, 1e-9, 1e-9}}, exact).verdict, Verdict::kMistrusted);
}

TEST(Judge, SkippedRowsAreNotCompared) {
  Tensor t("out", DType::kF32, Shape(2, 1));
  t.view().set(0, 5), t.view().set(1, 1);
  const std::uint8_t skip[] = {1, 0};
  ElementRules rules;
  rules.skip_rows = skip;
  Judgement j;
  judge_elements(j, t, std::vector<Bounded>{Bounded::exact(1), Bounded::exact(1)}, rules);
  EXPECT_EQ(j.verdict, Verdict::kPass);
  EXPECT_EQ(j.elements, 1);
}

// The faults that global metrics let through (NMSE, cosine, ratios of matches): one wrong token among thousands.
TEST(Judge, OneWrongTokenAmongManyFails) {
  constexpr int kRows = 4096, kColumns = 8;
  Tensor t("out", DType::kBF16, Shape(kRows, kColumns));
  std::vector<Bounded> expected;
  for (int i = 0; i < kRows * kColumns; ++i) {
    const double v = 1 + (i * 37 % 101) / 101.0;
    expected.push_back({v, 1e-6, 1e-5});
    t.view().set(i, v);
  }
  Judgement right;
  judge_elements(right, t, expected);
  EXPECT_EQ(right.verdict, Verdict::kPass);
  for (int c = 0; c < kColumns; ++c) t.view().set(100 * kColumns + c, 0);
  Judgement wrong;
  judge_elements(wrong, t, expected);
  EXPECT_EQ(wrong.verdict, Verdict::kFail);
  EXPECT_EQ(wrong.failed, kColumns);
  EXPECT_GT(wrong.metrics.cosine, 0.99) << "cosine does not see it";
  EXPECT_LT(wrong.metrics.nmse, 5e-4) << "NMSE does not see it";
}

RC_GTEST_PROP(Judge, an_honest_result_within_the_bound_never_fails, ()) {
  const DType d = *rc::gen::element(DType::kF32, DType::kBF16, DType::kF16);
  const double value = *rc::gen::inRange(1, 1 << 20) / 4096.0,
               proven = value * *rc::gen::inRange(0, 1000) * 1e-6;
  const double x = value + proven * (*rc::gen::inRange(-1000, 1001) / 1000.0);
  Judgement j;
  judge_elements(j, tensor_of(d, {x}), std::vector<Bounded>{{value, proven, proven}});
  RC_ASSERT(j.failed == 0);
  RC_ASSERT(j.headroom <= 1);
}

RC_GTEST_PROP(Judge, the_first_number_outside_fails_and_says_so_in_its_ratio, ()) {
  const DType d = *rc::gen::element(DType::kF32, DType::kBF16, DType::kF16);
  const double value = *rc::gen::inRange(1, 1 << 20) / 4096.0,
               proven = value * *rc::gen::inRange(0, 1000) * 1e-6;
  const double outside = *rc::gen::arbitrary<bool>()
                             ? reference::next_up(d, reference::round_to(d, value + proven))
                             : reference::next_down(d, reference::round_to(d, value - proven));
  Judgement j;
  judge_elements(j, tensor_of(d, {outside}), std::vector<Bounded>{{value, proven, proven}});
  RC_ASSERT(j.failed == 1);
  RC_ASSERT(j.headroom >= 1);  // exactly 1 where the number outside is a midpoint away
}

TEST(JudgeBytes, OneBitIsEnough) {
  Tensor a = tensor_of(DType::kBF16, {1, 2, 3}), b = a;
  Judgement same;
  judge_bytes(same, a, b);
  EXPECT_EQ(same.verdict, Verdict::kPass);
  b.data()[3] ^= std::byte{1};
  Judgement differs;
  judge_bytes(differs, a, b);
  EXPECT_EQ(differs.verdict, Verdict::kFail);
  EXPECT_EQ(differs.failed, 1);
}

TEST(JudgeIntegers, NamesTheValue) {
  Tensor t("ids", DType::kI32, Shape(2));
  t.view().set_int(0, 4), t.view().set_int(1, 9);
  const std::int64_t expected[] = {4, 7};
  Judgement j;
  judge_integers(j, t, expected, "expert id");
  EXPECT_EQ(j.verdict, Verdict::kFail);
  EXPECT_EQ(j.worst->note, "expert id 9 instead of 7");
}

TEST(Verdict, SeverityKeepsTheFirstReasonOfTheWorst) {
  Judgement j;
  j.raise(Verdict::kUndecided, "a");
  j.raise(Verdict::kFail, "b");
  j.raise(Verdict::kFail, "c");
  j.raise(Verdict::kSuspect, "d");
  EXPECT_EQ(j.verdict, Verdict::kFail);
  EXPECT_EQ(j.reason, "b");
}

}  // namespace
}  // namespace moecheck::harness
