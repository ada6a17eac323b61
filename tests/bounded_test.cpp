// Two questions of every bound: does honest hardware stay inside (fp32_machine.h), and would a wrong answer fall outside?
#include "reference/bounded.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <functional>
#include <vector>

#include "fp32_machine.h"

namespace moecheck::reference {
namespace {

using test::Fp32Machine;

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

double distance(double got, const Bounded& b) { return std::fabs(got - b.value); }
// NaN is inside nothing.
bool proven_holds(double got, const Bounded& b) { return b.proven == kInf || distance(got, b) <= b.proven; }
bool unsuspicious(double got, const Bounded& b) {
  return b.proven == kInf || distance(got, b) <= b.suspect_bound();
}
bool well_formed(const Bounded& b) {
  return b.sigma >= 0 && b.sigma <= b.proven && b.suspect_bound() <= b.proven;
}

// What honest hardware says next to what the reference says.
struct Both {
  Bounded bounded;
  float machine;
};

// Numbers of a kind that a whole program shares: usual, of many sizes, small integers, next to the subnormals.
Both any_input(Fp32Machine& m, int kind) {
  const double normal = std::normal_distribution<double>()(m.rng);
  const int exponent = kind == 1   ? static_cast<int>(m.below(61)) - 30
                       : kind == 3 ? static_cast<int>(m.below(40)) - 150
                                   : 0;
  const auto x = static_cast<float>(kind == 2 ? std::round(4 * normal) : std::ldexp(normal, exponent));
  return {Bounded::exact(x), x};
}

Both apply(Fp32Machine& m, std::uint64_t op, const Both& a, const Both& b) {
  const float scale = op & 1 ? 4.0f : 0.25f;
  switch (op % 12) {
    case 0:
    case 1:
      return {a.bounded + b.bounded, m.add(a.machine, b.machine)};
    case 2:
      return {a.bounded - b.bounded, m.add(a.machine, -b.machine)};
    case 3:
    case 4:
      return {a.bounded * b.bounded, m.multiply(a.machine, b.machine)};
    case 5:
      return {a.bounded / b.bounded, m.divide(a.machine, b.machine)};
    case 6:
      return {sqrt(max(a.bounded, 0)), m.sqrt(a.machine > 0 ? m.kept(a.machine) : 0.0f)};
    case 7:
      return {sigmoid(a.bounded), m.sigmoid(a.machine)};
    case 8:
      return {silu(a.bounded), m.silu(a.machine)};
    case 9:
      return {softplus(a.bounded), m.softplus(a.machine)};
    case 10:
      return {scaled_exact(a.bounded, scale), m.multiply(a.machine, scale)};
    default:
      return {min(a.bounded, 0.5), a.machine > 0.5f ? 0.5f : m.kept(a.machine)};
  }
}

Both random_tree(Fp32Machine& m, int kind, int depth) {
  if (depth == 0) return any_input(m, kind);
  const Both a = random_tree(m, kind, depth - 1);
  const Both b = random_tree(m, kind, static_cast<int>(m.below(static_cast<std::uint64_t>(depth))));
  return apply(m, m.rng(), a, b);
}

RC_GTEST_PROP(Bounded, HonestProgramsStayWithinTheProvenBound, (std::uint64_t seed)) {
  // Registers may be used twice: errors that are correlated as badly as a program can make them.
  for (std::uint64_t run = 0; run < 200; ++run) {
    Fp32Machine m(seed + run);
    const int kind = static_cast<int>(m.below(4));
    std::vector<Both> registers;
    for (int i = 0; i < 4; ++i) registers.push_back(any_input(m, kind));
    for (int step = 0; step < 12; ++step) {
      const Both& a = registers[m.below(registers.size())];
      const Both& b = registers[m.below(registers.size())];
      const Both c = apply(m, m.rng(), a, b);
      RC_ASSERT(well_formed(c.bounded));
      RC_ASSERT(proven_holds(c.machine, c.bounded));
      registers.push_back(c);
    }
  }
}

RC_GTEST_PROP(Bounded, HonestTreesAreNeverSuspect, (std::uint64_t seed)) {
  // Six sigmas are passed twice in 10^9 draws of normal noise; a property run looks at 2 * 10^4.
  for (std::uint64_t run = 0; run < 200; ++run) {
    Fp32Machine m(seed + run);
    // Without the inputs next to the subnormals: to be flushed is a fact for all of them at once, not noise.
    const Both result = random_tree(m, static_cast<int>(m.below(3)), 5);
    RC_ASSERT(unsuspicious(result.machine, result.bounded));
  }
}

// The largest share of the bound that honest hardware uses.
template <class Fn>
double headroom_used(int runs, Fn&& run) {
  double used = 0;
  for (int i = 0; i < runs; ++i) {
    Fp32Machine m(static_cast<std::uint64_t>(i));
    const Both result = run(m);
    EXPECT_TRUE(proven_holds(result.machine, result.bounded));
    used = std::fmax(used, distance(result.machine, result.bounded) / result.bounded.proven);
  }
  return used;
}

TEST(Bounded, ShortChainsUseHalfOfTheirBound) {
  // A bound twice as wide as what is seen is not vacuous.
  for (std::uint64_t op : {0u, 3u, 5u, 6u, 7u, 8u}) {
    const double used = headroom_used(20000, [op](Fp32Machine& m) {
      const Both a = any_input(m, 0), b = any_input(m, 0);
      const Both x{max(a.bounded, 0.125), std::fmax(a.machine, 0.125f)};
      return apply(m, op, x, {max(b.bounded, 0.125), std::fmax(b.machine, 0.125f)});
    });
    EXPECT_GT(used, 0.5) << "operation " << op;
  }
  const double chain = headroom_used(200000, [](Fp32Machine& m) {
    const Both ab = apply(m, 3, any_input(m, 0), any_input(m, 0));
    return apply(m, 0, ab, any_input(m, 0));
  });
  EXPECT_GT(chain, 0.5);
}

RC_GTEST_PROP(Bounded, AResultTwoUlpsOffIsOutside, (std::uint64_t seed)) {
  Fp32Machine m(seed);
  const Both a = any_input(m, 0), b = any_input(m, 0);
  for (std::uint64_t op : {0u, 2u, 3u}) {
    const Both c = apply(m, op, a, b);
    for (const int off : {2, -2}) RC_ASSERT(!proven_holds(Fp32Machine::moved(c.machine, off), c.bounded));
  }
  // Approximations may be 3 ulps off, and the rounding of an argument more; ten are too many.
  for (std::uint64_t op : {5u, 6u, 7u, 8u}) {
    const Both c = apply(m, op, {Bounded::exact(std::fabs(a.machine)), std::fabs(a.machine)}, b);
    for (const int off : {24, -24}) RC_ASSERT(!proven_holds(Fp32Machine::moved(c.machine, off), c.bounded));
  }
}

TEST(Bounded, SigmoidsHoldFromUnderflowToOverflow) {
  const std::function<Both(Fp32Machine&, float)> functions[] = {
      [](Fp32Machine& m, float x) {
        return Both{sigmoid(Bounded::exact(x)), m.sigmoid(x)};
      },
      [](Fp32Machine& m, float x) {
        return Both{silu(Bounded::exact(x)), m.silu(x)};
      },
      [](Fp32Machine& m, float x) {
        return Both{softplus(Bounded::exact(x)), m.softplus(x)};
      }};
  for (const auto& f : functions)
    for (std::uint64_t make = 0; make < 40; ++make) {
      Fp32Machine m(make);
      for (float x = -110; x < 110; x += 0.0371f) {
        const Both y = f(m, x);
        ASSERT_TRUE(unsuspicious(y.machine, y.bounded)) << x << " " << y.machine << " " << y.bounded.value;
      }
    }
}

RC_GTEST_PROP(Bounded, AnyArgumentInTheIntervalIsCovered, (std::uint64_t seed)) {
  // The argument is not exact: it may be anywhere within its bound, and the bound may be wide.
  Fp32Machine m(seed);
  for (int run = 0; run < 200; ++run) {
    const double v = 4 * std::normal_distribution<double>()(m.rng);
    const double width = std::ldexp(1, -static_cast<int>(m.below(24)));
    const Bounded x{v, width / 5, width};  // as a number that may have been rounded either way
    const auto got =
        static_cast<float>(v + width * (1 - 0x1p-20) * (static_cast<double>(m.below(2001)) / 1000 - 1));
    if (!proven_holds(got, x)) continue;  // rounded out of the interval
    for (std::uint64_t op : {6u, 7u, 8u, 9u, 11u}) {
      const Both y = apply(m, op, {x, got}, {x, got});
      RC_ASSERT(proven_holds(y.machine, y.bounded) && unsuspicious(y.machine, y.bounded));
    }
  }
}

TEST(Bounded, WideIntervalsAreNotMerelyFirstOrder) {
  const Bounded one{1, 0.1, 0.5}, zero{0, 1, 1};
  EXPECT_TRUE(proven_holds(2.25, one * one) && !proven_holds(2.26, one * one));
  EXPECT_TRUE(proven_holds(3, one / one) && !proven_holds(3.01, one / one));
  EXPECT_TRUE(proven_holds(1, sqrt(zero)) && !proven_holds(1.01, sqrt(zero)));
  // silu turns inside the interval: its lowest value is at neither end.
  const Bounded turning = silu(Bounded{-4, 0.8, 4});
  EXPECT_TRUE(proven_holds(-0.27846, turning) && unsuspicious(-0.27846, turning));
  EXPECT_FALSE(proven_holds(-0.2785, turning));
}

TEST(Bounded, ExactOperandsWithAnExactResultStayExact) {
  const Bounded three = Bounded::exact(3), five = Bounded::exact(5), tenth = Bounded::exact(float{0.1f});
  EXPECT_TRUE((three + five).is_exact() && (three - five).is_exact() && (three * five).is_exact());
  EXPECT_EQ((three * five).value, 15);
  EXPECT_FALSE((tenth * tenth).is_exact());
  EXPECT_FALSE((tenth + three).is_exact());
  EXPECT_FALSE((Bounded::exact(0x1p24) + Bounded::exact(1)).is_exact());
  EXPECT_FALSE((Bounded::exact(0x1p30) + Bounded::exact(0x1p-40)).is_exact());  // double loses it too
  EXPECT_FALSE((five / three).is_exact());
  EXPECT_FALSE((five / five).is_exact());  // a * rcp(b)
  EXPECT_TRUE((Bounded::exact(0) / three).is_exact());
  EXPECT_TRUE(min(five, 4).is_exact() && max(three, 4).is_exact());
  EXPECT_FALSE(rounded(five).is_exact());
}

TEST(Bounded, FlushedNumbersAreHonest) {
  const Bounded tiny = Bounded::exact(0x1p-130), huge = Bounded::exact(0x1p20);
  for (const Bounded& b :
       {tiny * huge, tiny + Bounded::exact(0), scaled_exact(tiny, 0x1p60), sqrt(tiny),
        scaled_exact(Bounded::exact(0x1p-120), 0x1p-10), Bounded::exact(0x1p-120) * Bounded::exact(0x1p-20),
        Bounded::exact(0x1.8p-126) - Bounded::exact(0x1p-126), silu(Bounded::exact(-89)),
        Bounded::exact(0x1p10) / Bounded::exact(0x1p127)}) {
    EXPECT_GT(b.value, -1e-30);
    EXPECT_NE(b.value, 0);
    EXPECT_TRUE(proven_holds(0, b) && unsuspicious(0, b)) << b.value << " " << b.proven;
    EXPECT_TRUE(proven_holds(static_cast<float>(b.value), b));
  }
  // Elsewhere a power of two is exact, but -7 times the smallest subnormal over 4 rounds to -2 times it.
  const Bounded wide{-3.5 * kTiny32, 3.5 * kTiny32, 3.5 * kTiny32};
  EXPECT_TRUE(proven_holds(-7 * kTiny32, wide) && proven_holds(-2 * kTiny32, scaled_exact(wide, 0.25)));
  // Cancellation to a normal number near 0 is no excuse for a flush.
  const Bounded difference = Bounded::exact(1.0f + 0x1p-20f) - rounded(Bounded::exact(1));
  EXPECT_FALSE(proven_holds(0, difference));
}

TEST(Bounded, NothingIsPromisedOfWhatMayNotBeFinite) {
  const Bounded one = Bounded::exact(1), inf = Bounded::exact(kInf), nan = Bounded::exact(kNaN);
  const Bounded big = Bounded::exact(FLT_MAX), wide{1, 1, 2};
  for (const Bounded& b : {inf + one,
                           inf - inf,
                           inf * Bounded::exact(0),
                           inf / one,
                           one / inf,
                           sqrt(inf),
                           sigmoid(inf),
                           silu(-1 > 0 ? one : nan),
                           softplus(nan),
                           nan + one,
                           min(nan, 1),
                           max(nan, 1),
                           rounded(nan),
                           scaled_exact(inf, 0.5),
                           big + big,
                           big * Bounded::exact(2),
                           rounded(big),
                           one / wide,
                           one / Bounded::exact(0),
                           sqrt(Bounded::exact(-1)),
                           one / Bounded::exact(0x1p-130),
                           round_to(DType::kE4M3FN, Bounded{450, 1, 20}),
                           round_to(DType::kBF16, nan),
                           round_to(DType::kBF16, inf)}) {
    EXPECT_EQ(b.proven, kInf) << b.value;
    EXPECT_TRUE(well_formed(b)) << b.value;
  }
  EXPECT_TRUE(std::isnan((inf - inf).value) && std::isnan(min(nan, 1).value));
  // A clamp of an exact infinity is exact.
  EXPECT_TRUE(min(inf, 10).is_exact() && max(negate(inf), -10).is_exact());
  // Where only the bound reaches past FLT_MAX the noise is still known.
  EXPECT_LT(rounded(Bounded{FLT_MAX * (1 - 0x1p-10), 0, FLT_MAX * 0x1p-10}).sigma, FLT_MAX);
}

RC_GTEST_PROP(Bounded, RoundingAcceptsExactlyWhatTheIntervalRoundsTo, (std::uint64_t seed)) {
  Fp32Machine m(seed);
  const DType dtypes[] = {DType::kBF16,     DType::kF16,  DType::kE4M3FN,
                          DType::kE4M3FNUZ, DType::kE5M2, DType::kF32};
  const DType dtype = dtypes[m.below(6)];
  const double v = 8 * std::normal_distribution<double>()(m.rng);
  const double width = std::fabs(v) * unit_roundoff(dtype) * std::ldexp(1, 3 - static_cast<int>(m.below(12)));
  const Bounded b{v, width * (m.below(2) == 0 ? 1.0 / 6 : 1.0 / 60), width};
  const Bounded r = round_to(dtype, b);
  RC_ASSERT(well_formed(r) && r.value == round_to(dtype, v));
  // Every number in reach is accepted, and the far end is one of them.
  const double low = round_to(dtype, v - width), high = round_to(dtype, v + width);
  for (double x = low, last = -kInf; x <= high && x > last; last = x, x = next_up(dtype, x))
    RC_ASSERT(proven_holds(x, r));
  RC_ASSERT(r.proven == std::fmax(high - r.value, r.value - low));
  // So is all that six sigmas reach; a number that they do not reach is suspect when nothing else is either.
  const double six = b.suspect_bound();
  const double low6 = round_to(dtype, v - six), high6 = round_to(dtype, v + six);
  RC_ASSERT(unsuspicious(low6, r) && unsuspicious(high6, r));
  if (low6 == high6) RC_ASSERT(r.sigma == 0);
  if (low == high) RC_ASSERT(r.is_exact());
  // Where the implementation may also not round there.
  const Bounded any = round_to(dtype, b, Rounding::kAny);
  RC_ASSERT(well_formed(any) && any.value == v);
  for (int i = -8; i <= 8; ++i) {
    const double x = v + width * i / 8;
    RC_ASSERT(proven_holds(x, any) && proven_holds(round_to(dtype, x), any));
  }
  const double half_step = std::fmax(unit_roundoff(dtype) * (std::fabs(v) + width), min_subnormal(dtype) / 2);
  RC_ASSERT(any.proven <= (width + half_step) * (1 + 0x1p-50));
}

TEST(Bounded, RoundingAnExactValueIsExact) {
  for (const double v : {1.0, 1.0 + 0x1p-8, 1.0 + 0x1p-9, 0.0, -3.7}) {
    const Bounded r = round_to(DType::kBF16, Bounded::exact(v));
    EXPECT_TRUE(r.is_exact());
    EXPECT_EQ(r.value, round_to(DType::kBF16, v));
  }
  EXPECT_TRUE(round_to(DType::kBF16, Bounded::exact(1.5), Rounding::kAny).is_exact());
  EXPECT_EQ(round_to(DType::kBF16, Bounded::exact(1.5 + 0x1p-9), Rounding::kAny).proven, 0x1p-8);
  EXPECT_EQ(round_to(DType::kBF16, Bounded{1, 0.1, 0.2}, Rounding::kNone).proven, 0.2);
  EXPECT_EQ(round_to(DType::kE4M3FN, Bounded{500, 1, 5}, Rounding::kRound, Overflow::kSaturate).value, 448);
  EXPECT_TRUE(round_to(DType::kE4M3FN, Bounded{500, 1, 5}, Rounding::kRound, Overflow::kSaturate).is_exact());
}

}  // namespace
}  // namespace moecheck::reference
