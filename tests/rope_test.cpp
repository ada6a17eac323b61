// Rotary embedding: pairs, tables and roundings by hand.
#include "reference/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace moecheck::reference {
namespace {

std::vector<Bounded> exact(const std::vector<double>& v) {
  std::vector<Bounded> b;
  for (const double x : v) b.push_back(Bounded::exact(x));
  return b;
}

std::vector<double> rotated(RopeOptions o, std::vector<double> cos, std::vector<double> sin,
                            std::vector<double> x) {
  o.dim = static_cast<std::int64_t>(x.size());
  std::vector<Bounded> row = exact(x);
  rope(o, exact(cos).data(), exact(sin).data(), row.data());
  std::vector<double> values;
  for (const Bounded& b : row) values.push_back(b.value);
  return values;
}

using Numbers = std::vector<double>;

TEST(Rope, NeoxPairsHalvesAndGptjNeighbours) {
  RopeOptions o;
  const Numbers x = {1, 2, 3, 4}, cos = {10, 100}, sin = {1000, 10000};
  o.style = RopeStyle::kNeox;  // pairs (1, 3) with 10, 1000 and (2, 4) with 100, 10000
  EXPECT_EQ(rotated(o, cos, sin, x), (Numbers{10 - 3000, 200 - 40000, 30 + 1000, 400 + 20000}));
  o.style = RopeStyle::kGptj;  // pairs (1, 2) and (3, 4)
  EXPECT_EQ(rotated(o, cos, sin, x), (Numbers{10 - 2000, 20 + 1000, 300 - 40000, 400 + 30000}));
}

TEST(Rope, FullTablesAreIndexedByTheChannelOfTheOutput) {
  RopeOptions o;
  o.full_table = true;
  const Numbers x = {1, 2, 3, 4}, cos = {1, 2, 3, 4}, sin = {10, 20, 30, 40};
  o.style = RopeStyle::kNeox;
  EXPECT_EQ(rotated(o, cos, sin, x), (Numbers{1 - 30, 4 - 80, 9 + 30, 16 + 80}));
  o.style = RopeStyle::kGptj;
  EXPECT_EQ(rotated(o, cos, sin, x), (Numbers{1 - 20, 4 + 20, 9 - 120, 16 + 120}));
}

TEST(Rope, PartnersComeInPairs) {
  for (const RopeStyle style : {RopeStyle::kNeox, RopeStyle::kGptj})
    for (const std::int64_t dim : {2, 6, 64}) {
      RopeOptions o;
      o.style = style, o.dim = dim;
      for (std::int64_t c = 0; c < dim; ++c) {
        const RopeTerm t = rope_term(o, c), back = rope_term(o, t.partner);
        EXPECT_EQ(back.partner, c);
        EXPECT_EQ(back.table, t.table);
        EXPECT_NE(back.negative, t.negative);
        EXPECT_LT(t.table, dim / 2);
      }
    }
}

// x = 1 + 2^-7, c = s = 1 + 2^-7: a product is 1 + 2^-6 + 2^-14, which bf16 stores as 1 + 2^-6. Their sum: 2 + 2^-5 or + 2^-13.
TEST(Rope, RoundingsAreWhereThePolicySaysTheyAre) {
  RopeOptions o;
  o.dtype = DType::kBF16;
  const double v = 1 + 0x1p-7, big = 1.5;
  const auto second = [&](RopeRounding rounding) {
    o.rounding = rounding;
    return rotated(o, {v}, {v}, {v, v})[1];
  };
  EXPECT_EQ(second(RopeRounding::kPerOp), 2 + 0x1p-5);
  EXPECT_EQ(second(RopeRounding::kStored), 2 + 0x1p-5);
  EXPECT_EQ(second(RopeRounding::kOnce), 2 + 0x1p-5 + 0x1p-13);
  // Here the orders differ: 1.5 v = 1.51171875 is a tie (1.5078125 | 1.515625), so per_op gives 1.515625 - 1.515625.
  o.rounding = RopeRounding::kPerOp;
  EXPECT_EQ(rotated(o, {big}, {1.515625}, {v, 1})[0], 0);
  o.rounding = RopeRounding::kStored;
  EXPECT_EQ(rotated(o, {big}, {1.515625}, {v, 1})[0], 1.51171875 - 1.515625);
}

TEST(Rope, AnyHoldsEveryOtherRounding) {
  std::uint32_t state = 7;
  const auto next = [&] {
    state = state * 1664525 + 1013904223;
    return round_to(DType::kBF16, static_cast<double>(state >> 8) * 0x1p-23 - 1);
  };
  for (int i = 0; i < 2000; ++i) {
    const double x = next(), y = next(), c = next(), s = next();
    RopeOptions o;
    o.dim = 2, o.rounding = RopeRounding::kAny;
    std::vector<Bounded> any = exact({x, y});
    rope(o, exact({c}).data(), exact({s}).data(), any.data());
    for (const RopeRounding r : {RopeRounding::kPerOp, RopeRounding::kStored, RopeRounding::kOnce}) {
      o.rounding = r;
      const Numbers one = rotated(o, {c}, {s}, {x, y});
      EXPECT_LE(std::fabs(one[0] - any[0].value), any[0].proven);
      EXPECT_LE(std::fabs(one[1] - any[1].value), any[1].proven);
    }
  }
}

}  // namespace
}  // namespace moecheck::reference
