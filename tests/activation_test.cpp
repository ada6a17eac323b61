// The gated activation: layouts, clamps, roundings, and the exact values that integer data rest on.
#include "reference/activation.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "tests/moe_test_support.h"

namespace moecheck::reference {
namespace {

// The forms in which people compute silu in fp32.
float silu_division(float x) { return x / (1.0F + std::exp(-x)); }
float silu_product(float x) { return x * (1.0F / (1.0F + std::exp(-x))); }
float silu_exp2(float x) { return x / (1.0F + std::exp2(-x * 1.44269504F)); }
float silu_tanh(float x) { return x * (0.5F * std::tanh(0.5F * x) + 0.5F); }

TEST(Silu, IsExactForZeroAndForLargeIntegers) {
  for (const double g : {0.0, 32.0, 33.0, 128.0, 512.0, 60000.0, -128.0, -129.0, -512.0, -60000.0}) {
    const Bounded s = silu_exact(Bounded::exact(g));
    EXPECT_TRUE(s.is_exact()) << g;
    EXPECT_EQ(s.value, g >= 0 ? g : 0);
    for (const auto form : {silu_division, silu_product, silu_exp2, silu_tanh})
      EXPECT_EQ(static_cast<double>(form(static_cast<float>(g))), s.value) << g;
  }
  EXPECT_FALSE(silu_exact(Bounded::exact(31)).is_exact());
  EXPECT_FALSE(silu_exact(Bounded::exact(-127)).is_exact());
}

RC_GTEST_PROP(SiluProperties, HonestFormsStayWithinTheBounds, (std::uint64_t seed)) {
  Rng rng(seed);
  const float x = static_cast<float>(normal(rng) * *rc::gen::element(0.01, 1.0, 10.0, 60.0));
  const Bounded s = silu_exact(Bounded::exact(x));
  for (const auto form : {silu_division, silu_product, silu_exp2})
    RC_ASSERT(std::fabs(static_cast<double>(form(x)) - s.value) <= s.suspect_bound());
}

ActivationOptions options(GateUpLayout layout, Clamp clamp = Clamp::kNone, double limit = 0) {
  ActivationOptions o;
  o.layout = layout, o.clamp = clamp, o.limit = limit;
  o.round_silu = Rounding::kNone;
  o.round_product = Rounding::kNone;
  return o;
}

TEST(Activation, LayoutsPickTheirRows) {
  EXPECT_EQ(gate_row(GateUpLayout::kGateUp, 5, 2), 2);
  EXPECT_EQ(up_row(GateUpLayout::kGateUp, 5, 2), 7);
  EXPECT_EQ(gate_row(GateUpLayout::kUpGate, 5, 2), 7);
  EXPECT_EQ(up_row(GateUpLayout::kUpGate, 5, 2), 2);
  EXPECT_EQ(gate_row(GateUpLayout::kInterleaved, 5, 2), 4);
  EXPECT_EQ(up_row(GateUpLayout::kInterleaved, 5, 2), 5);
}

TEST(Activation, OneLayoutReadAsAnotherGivesOtherNumbers) {
  // Gates of 64 and 128, ups of 2 and 3.
  const WeightTensor stacked = float_tensor(Shape(1, 4), {64, 128, 2, 3});
  const auto values = [&](GateUpLayout layout) {
    std::vector<double> v;
    for (const Bounded& b : silu_and_mul(stacked.view(), options(layout))) v.push_back(b.value);
    return v;
  };
  EXPECT_EQ(values(GateUpLayout::kGateUp), (std::vector<double>{128, 384}));
  EXPECT_NE(values(GateUpLayout::kUpGate), values(GateUpLayout::kGateUp));
  EXPECT_EQ(values(GateUpLayout::kInterleaved)[0], 64 * 128);
}

double clamped_value(Clamp clamp, double limit, double gate, double up) {
  const Bounded a = gated_activation(Bounded::exact(gate), Bounded::exact(up),
                                     options(GateUpLayout::kGateUp, clamp, limit));
  return a.value;
}

TEST(Activation, ClampsBeforeAndAfterSiluDiffer) {
  EXPECT_EQ(clamped_value(Clamp::kNone, 10, 64, 64), 4096);
  EXPECT_EQ(clamped_value(Clamp::kAfterSilu, 10, 64, 64), 100);
  const double before = clamped_value(Clamp::kBeforeSilu, 10, 64, 64);
  EXPECT_LT(before, 100);
  EXPECT_DOUBLE_EQ(before, 10 * 10 / (1 + std::exp(-10)));
  EXPECT_EQ(clamped_value(Clamp::kBeforeSilu, 40, 64, -64), -1600) << "up is clamped on both sides";
  EXPECT_EQ(clamped_value(Clamp::kBeforeSilu, 40, -512, 3), 0) << "gate is clamped above only";
  EXPECT_EQ(clamped_value(Clamp::kBeforeSilu, 0, 64, 64), 4096) << "a limit of 0 is no clamp";
}

TEST(Activation, GptOssAddsOneToUpAndScalesTheSigmoid) {
  ActivationOptions o = options(GateUpLayout::kInterleaved, Clamp::kBeforeSilu, 7);
  o.activation = Activation::kSwigluOai;
  const auto value = [&](double gate, double up) {
    return gated_activation(Bounded::exact(gate), Bounded::exact(up), o).value;
  };
  const double alpha = static_cast<float>(1.702);
  EXPECT_DOUBLE_EQ(value(2, 0.5), 2 / (1 + std::exp(-2 * alpha)) * 1.5);
  EXPECT_EQ(value(9, 9), value(7, 7));
  EXPECT_EQ(value(0, 5), 0);
  EXPECT_EQ(value(3, -1), 0);
}

RC_GTEST_PROP(ActivationProperties, AnHonestOperatorStaysWithinTheBounds, (std::uint64_t seed)) {
  Rng rng(seed);
  const DType dtype = *rc::gen::element(DType::kBF16, DType::kF16, DType::kF32);
  const std::int64_t rows = *rc::gen::inRange(1, 4), n = *rc::gen::inRange(1, 33);
  const WeightTensor x = normal_tensor(dtype, Shape(rows, 2 * n), rng, 3);
  ActivationOptions o = options(GateUpLayout::kGateUp);
  o.dtype = dtype;
  const bool round_silu = *rc::gen::arbitrary<bool>();
  o.round_silu = *rc::gen::element(round_silu ? Rounding::kRound : Rounding::kNone, Rounding::kAny);
  const std::vector<Bounded> expected = silu_and_mul(x.view(), o);
  std::vector<double> got;
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t i = 0; i < n; ++i) {
      float s = silu_division(static_cast<float>(x.view().at(r, i)));
      if (round_silu) s = static_cast<float>(round_to(dtype, s));
      got.push_back(round_to(dtype, s * static_cast<float>(x.view().at(r, n + i))));
    }
  RC_ASSERT(rejection(got, expected, dtype) == "");
}

TEST(Activation, AnExtraRoundingIsMissedWhereThePolicyHasNone) {
  Rng rng(8);
  const WeightTensor x = normal_tensor(DType::kBF16, Shape(4, 128), rng, 3);
  const std::vector<Bounded> expected = silu_and_mul(x.view(), options(GateUpLayout::kGateUp));
  std::vector<double> got;
  for (std::int64_t r = 0; r < 4; ++r)
    for (std::int64_t i = 0; i < 64; ++i) {
      const double s = round_to(DType::kBF16, silu_division(static_cast<float>(x.view().at(r, i))));
      got.push_back(round_to(DType::kBF16, s * x.view().at(r, 64 + i)));
    }
  EXPECT_NE(rejection(got, expected, DType::kBF16), "");
}

TEST(Activation, InfinitiesAndNaNFollowIeee) {
  const double inf = std::numeric_limits<double>::infinity();
  EXPECT_TRUE(std::isnan(silu_exact(Bounded::exact(-inf)).value));
  EXPECT_EQ(silu_exact(Bounded::exact(inf)).value, inf);
  EXPECT_TRUE(std::isnan(silu_exact(Bounded::exact(std::nan(""))).value));
}

}  // namespace
}  // namespace moecheck::reference
