// The vector functions against double precision, on every instruction set this machine has.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "reference/number_formats.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/optimized_vector_math_test.cpp"
#include "optimized/cpu/simd.h"
// After simd.h, which chooses the targets.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "optimized/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moecheck::optimized::HWY_NAMESPACE {

// n is a multiple of 16.
template <class F>
void map(const float* x, std::size_t n, float* y, F f) {
  for (std::size_t i = 0; i < n; i += hn::Lanes(DF())) hn::StoreU(f(hn::LoadU(DF(), x + i)), DF(), y + i);
}
void map_exp(const float* x, std::size_t n, float* y) {
  map(x, n, y, [](VF v) { return exp(v); });
}
void map_sigmoid(const float* x, std::size_t n, float* y) {
  map(x, n, y, [](VF v) { return sigmoid(v); });
}
void map_softplus(const float* x, std::size_t n, float* y) {
  map(x, n, y, [](VF v) { return softplus(v); });
}
void map_round_bf16(const float* x, std::size_t n, float* y) {
  map(x, n, y, [](VF v) { return round_bf16(v); });
}
void map_round_f16(const float* x, std::size_t n, float* y) {
  map(x, n, y, [](VF v) { return round_f16(v); });
}
void load_all(ConstView view, float* out) { load_floats(view, 0, view.shape.numel(), out); }
void store_all(const float* in, View view) { store_floats(in, view.shape.numel(), view, 0); }

}  // namespace moecheck::optimized::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moecheck::optimized {
namespace {

HWY_EXPORT(map_exp);
HWY_EXPORT(map_sigmoid);
HWY_EXPORT(map_softplus);
HWY_EXPORT(map_round_bf16);
HWY_EXPORT(map_round_f16);
HWY_EXPORT(load_all);
HWY_EXPORT(store_all);

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Every 16411th float, of all signs, exponents and kinds, padded to whole vectors.
std::vector<float> sampled_floats() {
  std::vector<float> all{0.0F, -0.0F, kInf, -kInf, kNaN, 88.72283F, 88.72284F, -103.97F, -104.5F, -200.0F};
  for (std::uint64_t bits = 0; bits < std::uint64_t{1} << 32; bits += 16411)
    all.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
  while (all.size() % 16 != 0) all.push_back(0);
  return all;
}

double spacing(double v) {
  const double magnitude = std::fabs(v);
  return magnitude < 0x1p-126 ? 0x1p-149 : std::ldexp(1.0, std::ilogb(magnitude) - 23);
}

// Largest error in ulps; infinite where a special value is wrong.
template <class Map, class Exact>
double worst_ulps(Map map, Exact exact, float lowest) {
  const std::vector<float> x = sampled_floats();
  std::vector<float> y(x.size());
  map(x.data(), x.size(), y.data());
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (x[i] < lowest) continue;
    const double want = exact(static_cast<double>(x[i]));
    if (std::isnan(x[i])) {
      if (!std::isnan(y[i])) return kInf;
    } else if (static_cast<float>(want) != y[i]) {
      worst = std::fmax(worst, std::fabs(y[i] - want) / spacing(want));
    }
  }
  return worst;
}

class VectorMath : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override { use_baseline_target(GetParam()); }
  void TearDown() override { use_baseline_target(false); }
};
INSTANTIATE_TEST_SUITE_P(Targets, VectorMath, testing::Values(false, true),
                         [](const auto& tested) { return tested.param ? "baseline" : "best"; });

TEST_P(VectorMath, ExpIsWithinTwoUlpsDownToTheSmallestSubnormal) {
  EXPECT_LE(worst_ulps(
                MOECHECK_DISPATCH(map_exp), [](double x) { return std::exp(x); }, -kInf),
            2.0);
}

// Below -87 exp(-x) overflows and the score is flushed: the reference allows that.
TEST_P(VectorMath, ScoreFunctionsAreWithinFourUlps) {
  EXPECT_LE(worst_ulps(
                MOECHECK_DISPATCH(map_sigmoid), [](double x) { return 1 / (1 + std::exp(-x)); }, -87),
            4.0);
  const auto softplus = [](double x) { return std::fmax(x, 0) + std::log1p(std::exp(-std::fabs(x))); };
  EXPECT_LE(worst_ulps(MOECHECK_DISPATCH(map_softplus), softplus, -87), 4.0);
}

TEST_P(VectorMath, RoundingIsThatOfTheFormats) {
  const std::vector<float> x = sampled_floats();
  std::vector<float> bf16(x.size()), f16(x.size());
  MOECHECK_DISPATCH(map_round_bf16)(x.data(), x.size(), bf16.data());
  MOECHECK_DISPATCH(map_round_f16)(x.data(), x.size(), f16.data());
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(x[i])) continue;
    ASSERT_EQ(bf16[i], reference::round_to(DType::kBF16, x[i])) << x[i];
    ASSERT_EQ(f16[i], reference::round_to(DType::kF16, x[i])) << x[i];
    ASSERT_EQ(round_bf16(x[i]), bf16[i]) << x[i];
    ASSERT_EQ(round_f16(x[i]), f16[i]) << x[i];
  }
}

TEST_P(VectorMath, LoadsEveryCodeOfEveryFormat) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kE4M3FN, DType::kE4M3FNUZ}) {
    const bool wide = reference::size_bytes(dtype) == 2;
    const std::int64_t codes = (wide ? 65536 : 256) + 5;  // a partial vector at the end
    std::vector<std::uint16_t> pairs;
    std::vector<std::uint8_t> bytes;
    for (std::int64_t i = 0; i < codes; ++i) {
      pairs.push_back(static_cast<std::uint16_t>(i));
      bytes.push_back(static_cast<std::uint8_t>(i));
    }
    const void* data = wide ? static_cast<const void*>(pairs.data()) : bytes.data();
    std::vector<float> got(static_cast<std::size_t>(codes));
    MOECHECK_DISPATCH(load_all)({data, dtype, reference::Shape(codes)}, got.data());
    for (std::int64_t i = 0; i < codes; ++i) {
      const double want = reference::load(dtype, data, i);
      const float value = got[static_cast<std::size_t>(i)];
      if (std::isnan(want))
        ASSERT_TRUE(std::isnan(value)) << reference::name(dtype) << " code " << i;
      else
        ASSERT_EQ(value, want) << reference::name(dtype) << " code " << i;
    }
  }
}

TEST_P(VectorMath, StoresTheBitsOfTheFormats) {
  std::vector<float> x = sampled_floats();
  x.resize(x.size() - 3);
  const auto n = static_cast<std::int64_t>(x.size());
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    std::vector<std::uint16_t> bits(x.size() + 1, 0xABCD);
    MOECHECK_DISPATCH(store_all)(x.data(), {bits.data(), dtype, reference::Shape(n)});
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (std::isnan(x[i]))
        ASSERT_TRUE(std::isnan(reference::decode(dtype, bits[i])));
      else
        ASSERT_EQ(bits[i], reference::encode(dtype, x[i])) << x[i];
    }
    EXPECT_EQ(bits.back(), 0xABCD) << "one element too many was written";
  }
}

}  // namespace
}  // namespace moecheck::optimized
#endif
