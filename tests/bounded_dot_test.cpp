// Sums of products: every order of summation that a kernel may choose, and what must not pass for one.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "fp32_machine.h"
#include "reference/bounded.h"

namespace moecheck::reference {
namespace {

using test::Fp32Machine;

constexpr double kInf = std::numeric_limits<double>::infinity();
enum Data { kUsual, kSameSign, kManySizes, kBf16, kNearSubnormals, kDataKinds };

struct Vectors {
  std::vector<float> a, b;
  std::vector<double> wide_a, wide_b;
  std::int64_t n() const { return static_cast<std::int64_t>(a.size()); }
};

Vectors vectors(Fp32Machine& m, Data data, std::size_t n) {
  std::normal_distribution<double> normal;
  const auto element = [&] {
    const double x = normal(m.rng);
    switch (data) {
      case kSameSign:
        return static_cast<float>(std::fabs(x));
      case kManySizes:
        return static_cast<float>(std::ldexp(x, static_cast<int>(m.below(41)) - 20));
      case kBf16:
        return static_cast<float>(round_to(DType::kBF16, x));
      case kNearSubnormals:
        return static_cast<float>(std::ldexp(x, -130 + 80 * static_cast<int>(m.below(2))));
      default:
        return static_cast<float>(x);
    }
  };
  Vectors v;
  for (std::size_t i = 0; i < n; ++i) {
    v.a.push_back(element()), v.b.push_back(element());
    v.wide_a.push_back(v.a[i]), v.wide_b.push_back(v.b[i]);
  }
  return v;
}

std::vector<std::size_t> any_order(Fp32Machine& m, const Vectors& v) {
  std::vector<std::size_t> order(v.a.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto by_product = [&](std::size_t i, std::size_t j) {
    return std::fabs(v.wide_a[i] * v.wide_b[i]) < std::fabs(v.wide_a[j] * v.wide_b[j]);
  };
  switch (m.below(4)) {
    case 0:
      std::shuffle(order.begin(), order.end(), m.rng);
      break;
    case 1:
      std::sort(order.begin(), order.end(), by_product);
      break;
    case 2:
      std::sort(order.rbegin(), order.rend(), by_product);
      break;
    default:
      break;
  }
  return order;
}

// Lanes (1: sequential) in that order, then the lanes as a tree.
float machine_dot(Fp32Machine& m, const Vectors& v, const std::vector<std::size_t>& order,
                  std::size_t lanes) {
  std::vector<float> sums(lanes, 0.0f);
  for (std::size_t i = 0; i < order.size(); ++i)
    sums[i % lanes] = m.multiply_add(v.a[order[i]], v.b[order[i]], sums[i % lanes]);
  for (; lanes > 1; lanes /= 2)
    for (std::size_t i = 0; i < lanes / 2; ++i) sums[i] = m.add(sums[i], sums[i + lanes / 2]);
  return sums[0];
}

bool proven_holds(double got, const Bounded& b) {
  return b.proven == kInf || std::fabs(got - b.value) <= b.proven;
}
bool unsuspicious(double got, const Bounded& b) {
  return b.proven == kInf || std::fabs(got - b.value) <= b.suspect_bound();
}

RC_GTEST_PROP(BoundedDot, EveryOrderOfEveryHonestMachineIsWithinTheBounds, (std::uint64_t seed)) {
  for (std::uint64_t run = 0; run < 20; ++run) {
    Fp32Machine m(seed + run);
    const auto data = static_cast<Data>(m.below(kDataKinds));
    const Vectors v = vectors(m, data, m.below(600));
    const Bounded b = dot(v.wide_a.data(), v.wide_b.data(), v.n());
    RC_ASSERT(b.sigma >= 0 && b.suspect_bound() <= b.proven);
    for (int order = 0; order < 3; ++order) {
      const float got = machine_dot(m, v, any_order(m, v), std::size_t{1} << m.below(7));
      RC_ASSERT(proven_holds(got, b));
      RC_ASSERT(unsuspicious(got, b));
    }
  }
}

TEST(BoundedDot, TheWorstRoundingsUseMostOfTheProvenBound) {
  // 1, and terms just over half of its last place: every addition rounds up by almost u.
  const double used = [] {
    const std::int64_t n = 1000;
    std::vector<double> a(static_cast<std::size_t>(n), 1), b(static_cast<std::size_t>(n), 0x1.000002p-24);
    b[0] = 1;
    const Bounded bound = dot(a.data(), b.data(), n);
    float sum = 0;
    for (double x : b) sum += static_cast<float>(x);
    EXPECT_TRUE(proven_holds(sum, bound));
    return std::fabs(sum - bound.value) / bound.proven;
  }();
  EXPECT_GT(used, 0.9);
}

TEST(BoundedDot, RoundingsOfWhatTheLeftSideMayBeCountToo) {
  // Values of 0 that may be 1: all of the sum is inherited, and its roundings are those of the ones.
  const std::vector<Bounded> a(1000, Bounded{0, 1, 1});
  std::vector<double> b(1000, 0x1.000002p-24);
  b[0] = 1;
  float sum = 0;
  for (double x : b) sum += static_cast<float>(x);
  EXPECT_TRUE(proven_holds(sum, dot(a.data(), b.data(), 1000)));
  EXPECT_TRUE(proven_holds(sum, dot(DotLeft(a.data(), 1000), b.data())));
}

TEST(BoundedDot, SubnormalFactorsMayBeLost) {
  const double tiny[] = {0x1p-130, 1}, huge[] = {0x1p100, 0};
  for (const Bounded& b :
       {dot(tiny, huge, 2), dot(huge, tiny, 2), dot(DotLeft(tiny, 2), huge), dot(DotLeft(huge, 2), tiny)}) {
    EXPECT_EQ(b.value, 0x1p-30);
    EXPECT_TRUE(proven_holds(0, b) && unsuspicious(0, b));
  }
}

TEST(BoundedDot, NoiseIsWithinAnOrderOfSixSigma) {
  // The largest error of realistic data comes near the suspect bound, and the proven bound is no stand-in for it.
  double used = 0, share = 0;
  for (std::uint64_t run = 0; run < 300; ++run) {
    Fp32Machine m(run);
    const Vectors v = vectors(m, kUsual, 1024);
    const Bounded b = dot(v.wide_a.data(), v.wide_b.data(), v.n());
    std::vector<std::size_t> order(v.a.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    used = std::fmax(used, std::fabs(machine_dot(m, v, order, 1) - b.value) / b.suspect_bound());
    share = std::fmax(share, b.suspect_bound() / b.proven);
  }
  EXPECT_GT(used, 0.1);
  EXPECT_LT(share, 0.1);
}

RC_GTEST_PROP(BoundedDot, WrongSumsAreOutside, (std::uint64_t seed)) {
  Fp32Machine m(seed);
  const Vectors v = vectors(m, kUsual, 256 + m.below(1024));
  const Bounded b = dot(v.wide_a.data(), v.wide_b.data(), v.n());
  const std::size_t n = v.a.size(), i = m.below(n), j = (i + 1) % n;
  RC_PRE(std::fabs(v.wide_a[i] * v.wide_b[i]) > 0x1p-3 &&
         std::fabs((v.a[i] - v.a[j]) * (v.b[i] - v.b[j])) > 0x1p-3f);
  RC_ASSERT(!proven_holds(b.value - v.wide_a[i] * v.wide_b[i], b));  // one left out
  RC_ASSERT(!proven_holds(b.value + v.wide_a[i] * v.wide_b[i], b));  // one twice
  RC_ASSERT(
      !proven_holds(b.value - (v.wide_a[i] - v.wide_a[j]) * (v.wide_b[i] - v.wide_b[j]), b));  // two swapped
}

TEST(BoundedDot, NarrowInputsAndNarrowSumsAreSuspect) {
  int inputs = 0, sums = 0;  // TF32 in place of fp32; a sum kept in bf16
  for (std::uint64_t run = 0; run < 100; ++run) {
    Fp32Machine m(run);
    const Vectors v = vectors(m, kUsual, 512);
    const Bounded b = dot(v.wide_a.data(), v.wide_b.data(), v.n());
    double cut = 0, narrow = 0;
    for (std::size_t i = 0; i < v.a.size(); ++i) {
      cut += round_to(DType::kF16, v.wide_a[i]) * round_to(DType::kF16, v.wide_b[i]);
      narrow = round_to(DType::kBF16, narrow + v.wide_a[i] * v.wide_b[i]);
    }
    inputs += !unsuspicious(cut, b);
    sums += !unsuspicious(narrow, b);
  }
  // Some errors nearly cancel by chance.
  EXPECT_GT(inputs, 90);
  EXPECT_GT(sums, 90);
}

RC_GTEST_PROP(BoundedDot, ALeftSideLookedAtOnceMeansTheSame, (std::uint64_t seed)) {
  Fp32Machine m(seed);
  Vectors v = vectors(m, static_cast<Data>(m.below(kNearSubnormals)), 1 + m.below(600));
  if (m.below(3) == 0)
    for (std::size_t i = 0; i < v.a.size(); ++i) {
      v.wide_a[i] = v.a[i] = static_cast<float>(m.below(17)) - 8;
      v.wide_b[i] = v.b[i] = static_cast<float>(m.below(17)) / 4;
    }
  const double* b = v.wide_b.data();
  const std::int64_t n = v.n(), begin = static_cast<std::int64_t>(m.below(v.a.size()));
  std::vector<Bounded> bounded;
  for (double x : v.wide_a) bounded.push_back({x, std::fabs(x) * 0x1p-22, std::fabs(x) * 0x1p-20});
  // Sums of doubles in another order: n roundings of each part.
  const double roundings = static_cast<double>(n + 4) * 0x1p-52;
  // What flushing may cost is taken from the largest number of the whole row, or of the slice.
  const double largest =
      2 * std::fabs(*std::max_element(v.wide_a.begin(), v.wide_a.end(),
                                      [](double x, double y) { return std::fabs(x) < std::fabs(y); }));
  const double flush = static_cast<double>(n) * kFlushed32 * (largest + 0x1p24);
  const auto same = [&](const Bounded& x, const Bounded& y) {
    RC_ASSERT(std::fabs(x.value - y.value) <= roundings * (x.proven / kU32));
    RC_ASSERT(std::fabs(x.proven - y.proven) <= roundings * x.proven + flush);
    RC_ASSERT(std::fabs(x.sigma - y.sigma) <= 0x1p26 * roundings * x.sigma + flush);  // y^2 may cancel
  };
  const DotLeft left(v.wide_a.data(), n), bounded_left(bounded.data(), n);
  same(dot(left, b), dot(v.wide_a.data(), b, n));
  same(dot(left, v.b.data()), dot(left, b));
  same(dot(bounded_left, b), dot(bounded.data(), b, n));
  same(dot(bounded_left, v.b.data()), dot(bounded_left, b));
  same(dot(bounded_left, begin, b + begin, n - begin), dot(bounded.data() + begin, b + begin, n - begin));
  same(dot(left, begin, v.b.data() + begin, n - begin), dot(left, begin, b + begin, n - begin));
  const Bounded slice = dot(left, begin, b + begin, n - begin);
  if (!slice.is_exact()) {
    const Bounded plain = dot(v.wide_a.data() + begin, b + begin, n - begin);
    RC_ASSERT(plain.is_exact() || std::fabs(plain.proven - slice.proven) <= roundings * slice.proven + flush);
  }
}

RC_GTEST_PROP(BoundedDot, ABoundedLeftSideMayBeAnywhereInItsIntervals, (std::uint64_t seed)) {
  for (std::uint64_t run = 0; run < 20; ++run) {
    Fp32Machine m(seed + run);
    Vectors v = vectors(m, static_cast<Data>(m.below(kNearSubnormals)), 1 + m.below(300));
    std::vector<Bounded> a;
    for (std::size_t i = 0; i < v.a.size(); ++i) {
      const double proven = std::fabs(v.a[i]) * std::ldexp(1, -static_cast<int>(m.below(22)));
      a.push_back({v.a[i], proven / std::sqrt(3.0), proven});
      const double shift =
          m.below(4) == 0 ? (v.b[i] > 0 ? 1 : -1) : static_cast<double>(m.below(2001)) / 1000 - 1;
      const auto moved = static_cast<float>(v.wide_a[i] + shift * proven);
      if (proven_holds(moved, a[i])) v.a[i] = moved;
    }
    const Bounded b = dot(a.data(), v.wide_b.data(), v.n());
    const float got = machine_dot(m, v, any_order(m, v), std::size_t{1} << m.below(7));
    RC_ASSERT(proven_holds(got, b));
    // Exact or not is a matter of the errors, not of the type.
    for (Bounded& x : a) x = Bounded::exact(x.value);
    RC_ASSERT(dot(a.data(), v.wide_b.data(), v.n()).proven ==
              dot(v.wide_a.data(), v.wide_b.data(), v.n()).proven);
  }
}

RC_GTEST_PROP(BoundedDot, SumsHoldInAnyOrder, (std::uint64_t seed)) {
  for (std::uint64_t run = 0; run < 50; ++run) {
    Fp32Machine m(seed + run);
    Vectors v = vectors(m, static_cast<Data>(m.below(kDataKinds)), m.below(20));
    std::vector<Bounded> terms;
    for (float x : v.a) terms.push_back(Bounded::exact(x));
    std::fill(v.b.begin(), v.b.end(), 1.0f);
    std::fill(v.wide_b.begin(), v.wide_b.end(), 1.0);
    const Bounded b = sum(terms.data(), v.n());
    if (v.n() == 1) continue;
    RC_ASSERT(proven_holds(machine_dot(m, v, any_order(m, v), 1), b));
    RC_ASSERT(unsuspicious(machine_dot(m, v, any_order(m, v), 8), b));
  }
}

TEST(BoundedDot, SumsAreTightAndInherit) {
  const Bounded terms[] = {{1, 0.25, 0.5}, {2, 0.75, 1}, {-3, 0, 0}};
  const Bounded b = sum(terms, 3);
  EXPECT_EQ(b.value, 0);
  EXPECT_GT(b.proven, 1.5);
  EXPECT_LT(b.proven, 1.5 + 8 * 3 * kU32);
  EXPECT_GE(b.sigma, std::hypot(0.25, 0.75));
  EXPECT_EQ(sum(terms, 1).proven, 0.5);
  EXPECT_TRUE(sum(terms, 0).is_exact());
  const Bounded whole[] = {Bounded::exact(1), Bounded::exact(2.5), Bounded::exact(-7)};
  EXPECT_TRUE(sum(whole, 3).is_exact());
  const Bounded broken[] = {Bounded::exact(1), Bounded::exact(float{0.1f}), Bounded::exact(-7)};
  EXPECT_FALSE(sum(broken, 3).is_exact());
}

RC_GTEST_PROP(BoundedDot, IntegersAreExactInEveryOrder, (std::uint64_t seed)) {
  Fp32Machine m(seed);
  Vectors v;
  const double grid_a = std::ldexp(1, static_cast<int>(m.below(40)) - 20),
               grid_b = std::ldexp(1, -static_cast<int>(m.below(20)));
  for (std::size_t n = 1 + m.below(1000); n > 0; --n) {
    v.wide_a.push_back(grid_a * (static_cast<double>(m.below(129)) - 64));
    v.wide_b.push_back(grid_b * (static_cast<double>(m.below(129)) - 64));
    v.a.push_back(static_cast<float>(v.wide_a.back())), v.b.push_back(static_cast<float>(v.wide_b.back()));
  }
  const Bounded b = dot(v.wide_a.data(), v.wide_b.data(), v.n());
  RC_ASSERT(b.is_exact() && b.sigma == 0);
  RC_ASSERT(dot(DotLeft(v.wide_a.data(), v.n()), v.b.data()).is_exact());
  RC_ASSERT(machine_dot(m, v, any_order(m, v), std::size_t{1} << m.below(7)) == b.value);
  // One element off the grid, far back, and nothing is known any more.
  const std::size_t last = v.a.size() - 1;
  v.wide_b[last] = grid_b * 1.0000001, v.b[last] = static_cast<float>(v.wide_b[last]),
  v.wide_b[last] = v.b[last];
  RC_PRE(v.wide_a[last] != 0 && v.a.size() > 64);
  RC_ASSERT(!dot(v.wide_a.data(), v.wide_b.data(), v.n()).is_exact());
  RC_ASSERT(!dot(DotLeft(v.wide_a.data(), v.n()), v.b.data()).is_exact());
}

TEST(BoundedDot, ExactnessEndsWithTheTwentyFourthBit) {
  const double ones[] = {1, 1, 1};
  const double fits[] = {0x1p24 - 1, 1, 0}, too_much[] = {0x1p24 - 1, 2, 0}, low_bit[] = {0x1p23, 0.5, 0};
  EXPECT_TRUE(dot(ones, fits, 3).is_exact() && dot(DotLeft(ones, 3), fits).is_exact());
  EXPECT_FALSE(dot(ones, too_much, 3).is_exact() || dot(DotLeft(ones, 3), too_much).is_exact());
  EXPECT_TRUE(dot(ones, low_bit, 3).proven > 0 && dot(DotLeft(ones, 3), low_bit).proven > 0);
  // Cancellation hides nothing: some order passes 2^24.
  const double cancels[] = {0x1p24, 1, -0x1p24};
  EXPECT_FALSE(dot(ones, cancels, 3).is_exact());
  // What flushing could touch is not exact.
  const double small[] = {0x1p-127, 0x1p-126, 0}, products[] = {0x1p-70, 0x1p-70, 0};
  EXPECT_FALSE(dot(ones, small, 3).is_exact() || dot(DotLeft(ones, 3), small).is_exact());
  EXPECT_FALSE(dot(products, products, 3).is_exact() || dot(DotLeft(products, 3), products).is_exact());
  EXPECT_TRUE(dot(ones, ones, 0).is_exact() && dot(ones, ones, 0).value == 0);
}

TEST(BoundedDot, NothingIsPromisedOfInfinitiesAndOverflow) {
  const double values[] = {1, 2, kInf}, nan[] = {1, 2, std::nan("")}, ones[] = {1, 1, 0},
               big[] = {FLT_MAX, FLT_MAX, -FLT_MAX};
  const double units[] = {1, -1, 1};
  for (const Bounded& b :
       {dot(values, ones, 3), dot(ones, values, 3), dot(nan, ones, 3), dot(DotLeft(nan, 3), ones),
        dot(DotLeft(ones, 3), values), dot(units, big, 3), dot(DotLeft(units, 3), big)}) {
    EXPECT_EQ(b.proven, kInf) << b.value;
    EXPECT_FALSE(std::isnan(b.sigma));
  }
  // The sum is finite, a partial sum of some order is not.
  EXPECT_TRUE(std::isfinite(dot(units, big, 3).value));
  EXPECT_EQ(dot(units, big, 3).sigma, kInf);
}

TEST(BoundedDot, QuantumIsTheLargestCommonPowerOfTwo) {
  const double mixed[] = {6, -20, 0, 12}, fine[] = {6, 0x1p-30, 8}, zeros[] = {0, -0.0}, odd[] = {3, 5};
  EXPECT_EQ(quantum(mixed, 4), 2);
  EXPECT_EQ(quantum(fine, 3), 0x1p-30);
  EXPECT_EQ(quantum(zeros, 2), 0);
  EXPECT_EQ(quantum(odd, 2), 1);
  const double infinite[] = {4, kInf}, tiny[] = {0x1p-1074}, huge[] = {0x1p1000, 0x1.8p1000};
  EXPECT_EQ(quantum(infinite, 2), 0);
  EXPECT_EQ(quantum(tiny, 1), 0x1p-1074);
  EXPECT_EQ(quantum(huge, 2), 0x1p999);
  // Longer than the pieces it is computed in, with the finest element last, and a large one that hides nothing.
  std::vector<double> longer(1000, 1024);
  longer[500] = 0x1p60, longer[998] = 24;
  EXPECT_EQ(quantum(longer.data(), 1000), 8);
  longer[999] = kInf;
  EXPECT_EQ(quantum(longer.data(), 1000), 0);
}

}  // namespace
}  // namespace moecheck::reference
