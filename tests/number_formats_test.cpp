// Every code of every format where they can be counted, random bit patterns where they cannot. No tolerance anywhere:
// numbers are equal or not. Vectors of an implementation that is not ours: number_formats_golden_test.cpp.
#include "reference/number_formats.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <limits>
#include <map>
#include <sstream>
#include <stdexcept>
#include <vector>

namespace moecheck::reference {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr DType kFloats[] = {DType::kF64,    DType::kF32,      DType::kBF16, DType::kF16,
                             DType::kE4M3FN, DType::kE4M3FNUZ, DType::kE5M2, DType::kE8M0};
constexpr DType kCounted[] = {DType::kBF16,     DType::kF16,  DType::kE4M3FN,
                              DType::kE4M3FNUZ, DType::kE5M2, DType::kE8M0};

// Equal, with NaN equal to NaN and -0 different from +0.
bool same(double a, double b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return a == b && std::signbit(a) == std::signbit(b);
}

std::uint64_t codes(DType dtype) { return std::uint64_t{1} << (8 * size_bytes(dtype)); }

// Every number of the format in ascending order, one zero, no NaN.
std::vector<double> numbers(DType dtype) {
  std::vector<double> all;
  for (std::uint64_t code = 0; code < codes(dtype); ++code) {
    const double value = decode(dtype, code);
    if (!std::isnan(value) && !(value == 0 && std::signbit(value))) all.push_back(value);
  }
  std::sort(all.begin(), all.end());
  return all;
}

// The code's low bit decides ties. In e8m0 (one significant bit) the tie goes up, which is the caller's case.
bool even(DType dtype, double value) { return (encode(dtype, value) & 1) == 0; }

std::string at(DType dtype, double value) {
  std::ostringstream out;
  out << name(dtype) << " " << std::hexfloat << value;
  return out.str();
}

class Counted : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(NumberFormats, Counted, ::testing::ValuesIn(kCounted),
                         [](const auto& test) { return std::string(name(test.param)); });

TEST_P(Counted, EveryCodeSurvivesARoundTrip) {
  const DType dtype = GetParam();
  for (std::uint64_t code = 0; code < codes(dtype); ++code) {
    const double value = decode(dtype, code);
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(decode(dtype, encode(dtype, value)))) << code;
      ASSERT_TRUE(std::isnan(round_to(dtype, value))) << code;
    } else {
      ASSERT_EQ(encode(dtype, value), code) << at(dtype, value);
      ASSERT_TRUE(same(round_to(dtype, value), value)) << at(dtype, value);
    }
  }
}

TEST_P(Counted, NumbersAscendWithTheirCodes) {
  const DType dtype = GetParam();
  const int top = dtype == DType::kE8M0 ? 8 : 8 * size_bytes(dtype) - 1;
  double last = -1;
  for (std::uint64_t code = 0; code < (std::uint64_t{1} << top); ++code) {
    const double value = decode(dtype, code);
    if (std::isnan(value)) continue;
    ASSERT_GT(value, last) << code;
    last = value;
    if (dtype == DType::kE8M0) continue;
    const double negative = decode(dtype, code | std::uint64_t{1} << top);
    if (dtype == DType::kE4M3FNUZ && code == 0) {
      ASSERT_TRUE(std::isnan(negative));
    } else {
      ASSERT_TRUE(same(negative, -value)) << code;
    }
  }
}

TEST_P(Counted, NeighboursAreTheAdjacentNumbers) {
  const DType dtype = GetParam();
  const std::vector<double> all = numbers(dtype);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const double v = all[i];
    const double above = i + 1 < all.size() ? all[i + 1] : kInf;
    const double below = i > 0 ? all[i - 1] : dtype == DType::kE8M0 ? 0 : -kInf;
    ASSERT_EQ(next_up(dtype, v), above) << at(dtype, v);
    ASSERT_EQ(next_down(dtype, v), below) << at(dtype, v);
    const Neighbours self = neighbours(dtype, v);
    ASSERT_TRUE(self.lower == v && self.upper == v && self.nearest == v) << at(dtype, v);
    if (v == above) continue;
    for (const double x : {std::nextafter(v, above), std::nextafter(above, v)}) {
      if (std::isinf(x) || x == v) continue;
      const Neighbours n = neighbours(dtype, x);
      ASSERT_TRUE(n.lower == v && n.upper == above) << at(dtype, x);
      ASSERT_EQ(next_up(dtype, x), above) << at(dtype, x);
      ASSERT_EQ(next_down(dtype, x), v) << at(dtype, x);
    }
  }
}

TEST_P(Counted, MidpointsTieToEvenAndTheirNeighboursDoNot) {
  const DType dtype = GetParam();
  const std::vector<double> all = numbers(dtype);
  for (std::size_t i = 0; i + 1 < all.size(); ++i) {
    const double a = all[i], b = all[i + 1];
    if (std::isinf(a) || std::isinf(b)) continue;
    const double middle = (a + b) / 2;
    const double tie = dtype == DType::kE8M0 ? b : even(dtype, a) ? a : b;
    const double below = std::nextafter(middle, -kInf), above = std::nextafter(middle, kInf);
    for (const auto& [x, rounded] : {std::pair{middle, tie}, std::pair{below, a}, std::pair{above, b}}) {
      ASSERT_EQ(round_to(dtype, x), rounded) << at(dtype, x);
      ASSERT_EQ(decode(dtype, encode(dtype, x)), rounded) << at(dtype, x);
    }
    ASSERT_EQ(midpoint_distance(dtype, middle), 0) << at(dtype, middle);
    // At a number the nearest midpoint is half of the smaller gap away.
    const double gap_above = b - a;
    const double gap_below = i > 0 && !std::isinf(all[i - 1]) ? a - all[i - 1] : gap_above;
    const double expected = dtype == DType::kE8M0 && i == 0 ? a / 2 : std::fmin(gap_above, gap_below) / 2;
    ASSERT_EQ(midpoint_distance(dtype, a), expected) << at(dtype, a);
  }
}

TEST_P(Counted, OverflowBeginsHalfAStepPastTheLargest) {
  const DType dtype = GetParam();
  const double largest = max_finite(dtype);
  const double threshold =
      dtype == DType::kE8M0 ? 1.5 * largest : largest + (largest - next_down(dtype, largest)) / 2;
  const double past = has_infinity(dtype) ? kInf : kNaN;
  const auto loose = [&](double v) { return decode(dtype, encode(dtype, v)); };
  const auto tight = [&](double v) { return decode(dtype, encode(dtype, v, Overflow::kSaturate)); };
  // The largest number of e4m3fn alone has an even code: 464 still rounds to 448.
  const bool tie_stays = dtype == DType::kE4M3FN;
  const double below = std::nextafter(threshold, 0), above = std::nextafter(threshold, kInf);
  for (const double sign : {1.0, -1.0}) {
    if (sign < 0 && dtype == DType::kE8M0) continue;
    EXPECT_TRUE(same(loose(sign * below), sign * largest)) << at(dtype, below);
    EXPECT_TRUE(same(loose(sign * threshold), tie_stays ? sign * largest : sign * past))
        << at(dtype, threshold);
    const double beyond =
        threshold + 0.75 * (threshold - largest) * 2;  // past the number that would come next
    for (const double v : {above, beyond, 2 * threshold, 1e300, kInf}) {
      EXPECT_TRUE(same(loose(sign * v), sign * past)) << at(dtype, sign * v);
      EXPECT_TRUE(same(round_to(dtype, sign * v), sign * past)) << at(dtype, sign * v);
      EXPECT_TRUE(same(tight(sign * v), sign * largest)) << at(dtype, sign * v);
      EXPECT_TRUE(same(round_to(dtype, sign * v, Overflow::kSaturate), sign * largest))
          << at(dtype, sign * v);
      const Neighbours n = neighbours(dtype, sign * v);
      EXPECT_EQ(n.nearest, sign * kInf) << at(dtype, sign * v);
      EXPECT_EQ(sign > 0 ? n.upper : n.lower, sign * kInf) << at(dtype, sign * v);
      const bool is_infinity = v == kInf && has_infinity(dtype);
      EXPECT_EQ(sign > 0 ? n.lower : n.upper, sign * (is_infinity ? kInf : largest)) << at(dtype, sign * v);
    }
  }
  EXPECT_EQ(midpoint_distance(dtype, threshold), 0);
  EXPECT_EQ(midpoint_distance(dtype, 2 * threshold), threshold);
  EXPECT_TRUE(std::isnan(tight(kNaN)));
}

TEST_P(Counted, LimitsAreTheEndsOfTheList) {
  const DType dtype = GetParam();
  std::vector<double> positive;
  for (const double v : numbers(dtype))
    if (v > 0 && !std::isinf(v)) positive.push_back(v);
  const std::map<DType, double> largest = {
      {DType::kF16, 65504}, {DType::kE4M3FN, 448}, {DType::kE5M2, 57344}, {DType::kE4M3FNUZ, 240}};
  if (largest.count(dtype)) {
    EXPECT_EQ(positive.back(), largest.at(dtype));
  }
  EXPECT_EQ(max_finite(dtype), positive.back());
  EXPECT_EQ(min_subnormal(dtype), positive.front());
  EXPECT_EQ(unit_roundoff(dtype), (next_up(dtype, 1) - 1) / 2);
  // Under the smallest normal number steps no longer shrink.
  const double normal = min_normal(dtype);
  if (dtype != DType::kE8M0) {
    EXPECT_EQ(next_up(dtype, normal) - normal, normal - next_down(dtype, normal));
    EXPECT_EQ(next_up(dtype, 2 * normal) - 2 * normal, 2 * (2 * normal - next_down(dtype, 2 * normal)));
  }
}

// Bit patterns: rapidcheck's arbitrary<double> makes no NaN, Inf or subnormal. Half of them within the range of fp32.
double pattern(std::uint64_t bits, bool narrow) {
  if (narrow) {
    const std::uint64_t exponent = 1023 - 160 + (bits >> 52 & 0x7FF) % 300;
    bits = (bits & ~(std::uint64_t{0x7FF} << 52)) | exponent << 52;
  }
  return std::bit_cast<double>(bits);
}

DType any_float() { return *rc::gen::elementOf(std::vector<DType>(std::begin(kFloats), std::end(kFloats))); }
double any_double() {
  return pattern(*rc::gen::resize(100, rc::gen::arbitrary<std::uint64_t>()), *rc::gen::arbitrary<bool>());
}

RC_GTEST_PROP(NumberFormats, RoundingIsDecodingWhatWasEncoded, ()) {
  const DType dtype = any_float();
  const double x = any_double();
  for (const Overflow overflow : {Overflow::kSaturate, Overflow::kNonSaturating})
    RC_ASSERT(same(round_to(dtype, x, overflow), decode(dtype, encode(dtype, x, overflow))));
}

RC_GTEST_PROP(NumberFormats, ARoundedNumberIsTheCloserNeighbour, ()) {
  const DType dtype = any_float();
  const double x = any_double();
  RC_PRE(!std::isnan(x) && (dtype != DType::kE8M0 || x > 0));
  const Neighbours n = neighbours(dtype, x);
  RC_ASSERT(n.lower <= x && x <= n.upper && (n.nearest == n.lower || n.nearest == n.upper));
  RC_ASSERT(n.lower == n.upper || next_up(dtype, n.lower) == n.upper);
  if (std::isinf(n.lower) || std::isinf(n.upper) || (dtype == DType::kE8M0 && n.lower == 0)) return;
  const double other = n.nearest == n.lower ? n.upper : n.lower;
  RC_ASSERT(std::fabs(x - n.nearest) <= std::fabs(x - other));
  RC_ASSERT(n.nearest == round_to(dtype, x));
  // Half a step, and the unit roundoff where numbers are normal.
  RC_ASSERT(std::fabs(x - n.nearest) <= (n.upper - n.lower) / 2);
  if (std::fabs(x) >= min_normal(dtype))
    RC_ASSERT(std::fabs(x - n.nearest) <= unit_roundoff(dtype) * std::fabs(x));
}

RC_GTEST_PROP(NumberFormats, RoundingIsMonotonic, ()) {
  const DType dtype = any_float();
  double a = any_double(), b = *rc::gen::arbitrary<bool>() ? any_double() : std::nextafter(a, kInf);
  RC_PRE(!std::isnan(a) && !std::isnan(b));
  if (dtype == DType::kE8M0) a = std::fabs(a), b = std::fabs(b);
  RC_PRE(dtype != DType::kE8M0 || (a > 0 && b > 0));
  if (a > b) std::swap(a, b);
  RC_ASSERT(round_to(dtype, a, Overflow::kSaturate) <= round_to(dtype, b, Overflow::kSaturate));
}

RC_GTEST_PROP(NumberFormats, AValueWithinItsMidpointDistanceRoundsTheSame, ()) {
  const DType dtype = *rc::gen::element(DType::kF32, DType::kBF16, DType::kF16, DType::kE4M3FN,
                                        DType::kE4M3FNUZ, DType::kE5M2, DType::kE8M0);
  const double x = pattern(*rc::gen::resize(100, rc::gen::arbitrary<std::uint64_t>()), true);
  RC_PRE(dtype != DType::kE8M0 || x > 0);
  RC_PRE(std::fabs(x) <
         0x1p20 * max_finite(dtype));  // further out the distance drowns in the last place of x
  const double d = midpoint_distance(dtype, x);
  RC_ASSERT(d >= 0 && std::isfinite(d));
  // The distance is exact or correctly rounded: anything nearer rounds the same, and a point just past it does not.
  // Zeros count as one: the sign of 0 is not a number.
  const auto rounds_alike = [&](double y) {
    return same(round_to(dtype, y) + 0.0, round_to(dtype, x) + 0.0);
  };
  if (d > 0) {
    const double inner = d * (1 - 0x1p-52);
    RC_ASSERT(rounds_alike(std::nextafter(x + inner, x)) && rounds_alike(std::nextafter(x - inner, x)));
  }
  const double outer = std::nextafter(d, kInf);
  RC_ASSERT(!rounds_alike(std::nextafter(x + outer, kInf)) ||
            !rounds_alike(std::nextafter(x - outer, -kInf)));
}

RC_GTEST_PROP(NumberFormats, SinglePrecisionRoundsAsTheProcessorDoes, ()) {
  const double x = any_double();
  const float f = static_cast<float>(x);
  RC_ASSERT(same(round_to(DType::kF32, x), f));
  if (!std::isnan(x)) RC_ASSERT(encode(DType::kF32, x) == std::bit_cast<std::uint32_t>(f));
  const double saturated = round_to(DType::kF32, x, Overflow::kSaturate);
  RC_ASSERT(same(saturated, std::isinf(f) ? std::copysign(double{FLT_MAX}, x) : double{f}));
}

TEST(NumberFormats, OneRoundingFromDoubleNotTwo) {
  // 1 + half a step + a bit that fp32 cannot hold: by way of fp32 it would tie to 1.
  const std::pair<DType, int> formats[] = {
      {DType::kBF16, 7}, {DType::kF16, 10}, {DType::kE4M3FN, 3}, {DType::kE4M3FNUZ, 3}, {DType::kE5M2, 2}};
  for (const auto& [dtype, mantissa] : formats) {
    const double half = std::ldexp(1, -mantissa - 1);
    EXPECT_EQ(round_to(dtype, 1 + half), 1) << name(dtype);
    EXPECT_EQ(round_to(dtype, 1 + half + 0x1p-50), 1 + 2 * half) << name(dtype);
    EXPECT_EQ(round_to(dtype, 1 + 3 * half - 0x1p-50), 1 + 2 * half) << name(dtype);
  }
}

TEST(NumberFormats, HandCheckedCodes) {
  EXPECT_EQ(encode(DType::kBF16, 1.0), 0x3F80u);
  EXPECT_EQ(encode(DType::kF16, -2.0), 0xC000u);
  EXPECT_EQ(encode(DType::kE4M3FN, 448), 0x7Eu);
  EXPECT_EQ(encode(DType::kE4M3FN, 1), 0x38u);
  EXPECT_EQ(encode(DType::kE4M3FNUZ, 1), 0x40u);
  EXPECT_EQ(encode(DType::kE4M3FNUZ, -0.0), 0x00u);
  EXPECT_EQ(encode(DType::kE4M3FNUZ, -0x1p-30), 0x00u);
  EXPECT_TRUE(same(round_to(DType::kE4M3FNUZ, -0x1p-30), 0.0));
  EXPECT_EQ(encode(DType::kE4M3FN, -0.0), 0x80u);
  EXPECT_EQ(encode(DType::kE5M2, kInf), 0x7Cu);
  EXPECT_EQ(encode(DType::kBF16, -kNaN) & 0x7FFF, 0x7FC0u);
}

TEST(NumberFormats, BlockScalesAreNearestOrTheNextPowerOfTwo) {
  for (const double v : {0.0, -0.0, -1.0, -kInf, kNaN}) {
    EXPECT_EQ(encode(DType::kE8M0, v), 0xFFu) << v;
    EXPECT_EQ(encode_e8m0_ceil(v), 0xFF) << v;
    EXPECT_TRUE(std::isnan(neighbours(DType::kE8M0, v).nearest)) << v;
  }
  EXPECT_EQ(encode(DType::kE8M0, 0x1p-149), 0u);
  EXPECT_EQ(encode(DType::kE8M0, DBL_TRUE_MIN), 0u);
  EXPECT_EQ(neighbours(DType::kE8M0, 0x1p-149).lower, 0);
  for (int k = -127; k <= 127; ++k) {
    const double p = std::ldexp(1, k);
    const auto code = static_cast<std::uint64_t>(k + 127);
    EXPECT_EQ(encode_e8m0_ceil(p), code);
    EXPECT_EQ(encode_e8m0_ceil(std::nextafter(p, kInf)), std::min<std::uint64_t>(code + 1, 0xFE));
    EXPECT_EQ(encode_e8m0_ceil(std::nextafter(p, 0)), code);
  }
  EXPECT_EQ(encode_e8m0_ceil(kInf), 0xFE);
  EXPECT_EQ(encode_e8m0_ceil(DBL_TRUE_MIN), 0);
}

RC_GTEST_PROP(NumberFormats, StoredElementsLoadAsRoundedAndTouchNothingElse, ()) {
  const DType dtype = any_float();
  const double x = any_double();
  const auto i = *rc::gen::inRange<std::int64_t>(0, 5);
  std::vector<unsigned char> memory(1 + 5 * static_cast<std::size_t>(size_bytes(dtype)), 0xA5);
  void* data = memory.data() + 1;  // not aligned
  store(dtype, data, i, x);
  RC_ASSERT(same(load(dtype, data, i), round_to(dtype, x)));
  RC_ASSERT(same(load_any(dtype, data, i), round_to(dtype, x)));
  for (std::size_t byte = 0; byte < memory.size(); ++byte)
    if (byte < 1 + static_cast<std::size_t>(i * size_bytes(dtype)) ||
        byte >= 1 + static_cast<std::size_t>((i + 1) * size_bytes(dtype)))
      RC_ASSERT(memory[byte] == 0xA5);
}

TEST(NumberFormats, IntegersAreReadWithoutADetourThroughDouble) {
  std::int64_t wide[2] = {0, 0};
  store_int(DType::kI64, wide, 1, (std::int64_t{1} << 53) + 1);
  EXPECT_EQ(load_int(DType::kI64, wide, 1), (std::int64_t{1} << 53) + 1);
  std::int32_t ids[2] = {7, 0};
  store_int(DType::kI32, ids, 1, -1);
  EXPECT_EQ(ids[1], -1);
  EXPECT_EQ(load(DType::kI32, ids, 1), -1);
  std::uint8_t bytes[1] = {0};
  store_int(DType::kU8, bytes, 0, 255);
  EXPECT_EQ(load_int(DType::kU8, bytes, 0), 255);
  EXPECT_THROW(store_int(DType::kU8, bytes, 0, 256), std::out_of_range);
  EXPECT_THROW(store_int(DType::kI32, ids, 0, std::int64_t{1} << 31), std::out_of_range);
  EXPECT_THROW(store_int(DType::kF32, ids, 0, 1), std::invalid_argument);
  EXPECT_THROW(static_cast<void>(load_int(DType::kBF16, ids, 0)), std::invalid_argument);
  EXPECT_THROW(static_cast<void>(encode(DType::kI32, 1)), std::invalid_argument);
  EXPECT_THROW(store(DType::kU8, bytes, 0, 1), std::invalid_argument);
}

TEST(NumberFormats, NamesParseBack) {
  for (int i = 0; i <= static_cast<int>(DType::kU8); ++i) {
    const auto dtype = static_cast<DType>(i);
    DType parsed = DType::kU8;
    EXPECT_TRUE(parse_dtype(name(dtype), parsed));
    EXPECT_EQ(parsed, dtype);
    EXPECT_EQ(is_float(dtype), name(dtype)[0] != 'i' && name(dtype)[0] != 'u');
  }
  DType untouched = DType::kF16;
  EXPECT_FALSE(parse_dtype("fp8", untouched));
  EXPECT_EQ(untouched, DType::kF16);
}

}  // namespace
}  // namespace moecheck::reference
