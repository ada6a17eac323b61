// fp8 quantization per 128 activations: bits where the policy fixes them, both neighbours where it does not.
#include "reference/fp8_block.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "tests/moe_test_support.h"

namespace moecheck::reference {
namespace {

std::vector<Bounded> exact_values(const std::vector<double>& values) {
  std::vector<Bounded> out;
  for (const double v : values) out.push_back(Bounded::exact(v));
  return out;
}

QuantizedRow quantized(const std::vector<Bounded>& x, const Fp8QuantOptions& options) {
  QuantizedRow row;
  quantize_fp8(x.data(), static_cast<std::int64_t>(x.size()), options, row);
  return row;
}

struct Honest {
  std::vector<double> codes, scales;
};
// In fp32, as kernels do it.
Honest honest(const std::vector<double>& x, QuantDivision division, ScaleFormat format) {
  Honest q;
  for (std::size_t begin = 0; begin < x.size(); begin += 128) {
    float amax = 1e-10F;
    const std::size_t end = std::min(x.size(), begin + 128);
    for (std::size_t i = begin; i < end; ++i) amax = std::fmax(amax, std::fabs(static_cast<float>(x[i])));
    float s = division == QuantDivision::kReciprocal ? amax * (1.0F / 448.0F) : amax / 448.0F;
    if (format == ScaleFormat::kUE8M0) s = std::exp2(std::ceil(std::log2(s)));
    q.scales.push_back(s);
    for (std::size_t i = begin; i < end; ++i) {
      const float v = static_cast<float>(x[i]);
      const bool multiply = division == QuantDivision::kReciprocal && format == ScaleFormat::kF32;
      q.codes.push_back(
          round_to(DType::kE4M3FN, multiply ? v * (448.0F / amax) : v / s, Overflow::kSaturate));
    }
  }
  return q;
}

std::vector<double> random_row(Rng& rng, std::int64_t n) {
  const double size = std::exp2(uniform(rng, -20, 12));
  std::vector<double> x;
  for (std::int64_t i = 0; i < n; ++i) x.push_back(round_to(DType::kBF16, normal(rng) * size));
  return x;
}

RC_GTEST_PROP(Fp8QuantProperties, CodesAndScalesOfExactDataAreExact, (std::uint64_t seed)) {
  Rng rng(seed);
  const std::vector<double> x = random_row(rng, *rc::gen::inRange(1, 400));
  Fp8QuantOptions o;
  o.division = *rc::gen::element(QuantDivision::kDivide, QuantDivision::kReciprocal);
  o.scale_format = *rc::gen::element(ScaleFormat::kF32, ScaleFormat::kUE8M0);
  const QuantizedRow row = quantized(exact_values(x), o);
  const Honest want = honest(x, o.division, o.scale_format);
  RC_ASSERT(row.exact && all_exact(row.codes) && all_exact(row.scales));
  for (std::size_t i = 0; i < x.size(); ++i) RC_ASSERT(row.codes[i].value == want.codes[i]);
  for (std::size_t b = 0; b < want.scales.size(); ++b) RC_ASSERT(row.scales[b].value == want.scales[b]);
}

RC_GTEST_PROP(Fp8QuantProperties, AnyDivisionHoldsBothOfThem, (std::uint64_t seed)) {
  Rng rng(seed);
  const std::vector<double> x = random_row(rng, *rc::gen::inRange(1, 400));
  Fp8QuantOptions o;
  o.division = QuantDivision::kAny;
  o.scale_format = *rc::gen::element(ScaleFormat::kF32, ScaleFormat::kUE8M0);
  const QuantizedRow row = quantized(exact_values(x), o);
  for (const QuantDivision division : {QuantDivision::kDivide, QuantDivision::kReciprocal}) {
    const Honest got = honest(x, division, o.scale_format);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const Bounded &code = row.codes[i], &scale = row.scales[i / 128];
      const double dequantized = got.codes[i] * got.scales[i / 128], expected = code.value * scale.value;
      const double bound = code.proven * scale.value + std::fabs(got.codes[i]) * scale.proven;
      RC_ASSERT(std::fabs(dequantized - expected) <= bound * (1 + 0x1p-40));
    }
  }
}

RC_GTEST_PROP(Fp8QuantProperties, BoundedActivationsHoldEveryHonestInput, (std::uint64_t seed)) {
  Rng rng(seed);
  const std::vector<double> x = random_row(rng, 128);
  const double noise = std::exp2(*rc::gen::element(-24.0, -16.0, -8.0));
  Fp8QuantOptions o;
  o.scale_format = *rc::gen::element(ScaleFormat::kF32, ScaleFormat::kUE8M0);
  std::vector<Bounded> bounded;
  std::vector<double> moved;
  for (const double v : x) {
    const double reach = static_cast<float>(std::fabs(v) * noise);
    bounded.push_back({v, reach / 3, reach});
    moved.push_back(static_cast<float>(v + reach * uniform(rng, -0.999, 0.999)));
  }
  const QuantizedRow row = quantized(bounded, o);
  const Honest got = honest(moved, o.division, o.scale_format);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = row.codes[i].value * row.scales[0].value;
    const double bound = row.codes[i].proven * row.scales[0].value +
                         (std::fabs(row.codes[i].value) + row.codes[i].proven) * row.scales[0].proven;
    RC_ASSERT(std::fabs(got.codes[i] * got.scales[0] - expected) <= bound * (1 + 0x1p-40));
  }
}

TEST(Fp8Quant, AZeroGroupHasTheFloorsScale) {
  const QuantizedRow row = quantized(exact_values(std::vector<double>(130, 0.0)), {});
  EXPECT_EQ(row.scales.size(), 2U);
  EXPECT_EQ(row.scales[0].value, static_cast<double>(1e-10F / 448.0F));
  EXPECT_EQ(row.codes[129].value, 0);
}

TEST(Fp8Quant, TheLargestElementIs448) {
  const QuantizedRow row = quantized(exact_values({-3, 1.5, 0.1}), {});
  EXPECT_EQ(row.codes[0].value, -448);
  EXPECT_EQ(row.codes[1].value, 224);
}

TEST(Fp8Quant, Ue8m0ScalesArePowersOfTwoAndNothingSaturates) {
  Rng rng(4);
  Fp8QuantOptions o;
  o.scale_format = ScaleFormat::kUE8M0;
  for (int i = 0; i < 200; ++i) {
    const std::vector<double> x = random_row(rng, 128);
    const QuantizedRow row = quantized(exact_values(x), o);
    int exponent = 0;
    EXPECT_EQ(std::frexp(row.scales[0].value, &exponent), 0.5);
    for (std::size_t k = 0; k < x.size(); ++k)
      EXPECT_LE(std::fabs(x[k]), 448 * row.scales[0].value * (1 + 0x1p-23));
  }
}

TEST(Fp8Quant, AnAmbiguousPowerOfTwoHoldsBoth) {
  // amax / 448 is 2^-3 up to the bound of the input: the scale is 2^-3 or 2^-2. Only subnormal codes feel it.
  Fp8QuantOptions o;
  o.scale_format = ScaleFormat::kUE8M0;
  const std::vector<Bounded> x = {{56, 1e-6, 4e-6}, {0.0003, 0, 0}};
  const QuantizedRow row = quantized(x, o);
  const double fine = round_to(DType::kE4M3FN, 0.0003 / 0.125) * 0.125,
               coarse = round_to(DType::kE4M3FN, 0.0003 / 0.25) * 0.25;
  const double value = row.codes[1].value * row.scales[0].value,
               bound = row.codes[1].proven * row.scales[0].value;
  EXPECT_LE(std::fabs(fine - value), bound);
  EXPECT_LE(std::fabs(coarse - value), bound);
  EXPECT_FALSE(row.exact);
}

TEST(Fp8Quant, NaNIsNaNOrTheLowestByPolicy) {
  const double nan = std::nan("");
  Fp8QuantOptions o;
  QuantizedRow row = quantized(exact_values({1, nan}), o);
  EXPECT_EQ(row.scales[0].value, static_cast<double>(1.0F / 448.0F)) << "amax ignores NaN";
  EXPECT_TRUE(std::isnan(row.codes[1].value));
  o.nan_saturates = true;
  EXPECT_EQ(quantized(exact_values({1, nan}), o).codes[1].value, -448);
  row = quantized(exact_values({1, std::numeric_limits<double>::infinity()}), o);
  EXPECT_EQ(row.codes[0].value, 0);
  EXPECT_EQ(row.codes[1].value, -448) << "Inf / Inf";
}

TEST(Fp8Quant, FnuzSaturatesAt240) {
  Fp8QuantOptions o;
  o.dtype = DType::kE4M3FNUZ;
  const QuantizedRow row = quantized(exact_values({2, -1}), o);
  EXPECT_EQ(row.codes[0].value, 240);
  EXPECT_EQ(row.codes[1].value, -120);
}

TEST(BlockScale, IsIndexedByRowThenColumnBlock) {
  const WeightTensor scale = float_tensor(Shape(2, 2, 3), {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  EXPECT_EQ(block_scale(scale.view(), 0, 127, 128), 1);
  EXPECT_EQ(block_scale(scale.view(), 0, 128, 0), 3);
  EXPECT_EQ(block_scale(scale.view(), 1, 200, 300), 11);
}

}  // namespace
}  // namespace moecheck::reference
