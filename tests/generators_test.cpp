// Generated data are what their name says: without ties, padding or outliers in them the suites that are named so find nothing.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <set>

#include "harness/case.h"
#include "harness/operator.h"

namespace moecheck::harness {
namespace {

TensorSet generated(const std::string& line) {
  const Case c = parse_case(line);
  TensorSet inputs(operator_of(c).inputs(c));
  operator_of(c).generate(c, inputs);
  return inputs;
}

std::vector<double> values(const TensorSet& set, std::string_view name) {
  std::vector<double> all;
  const ConstView view = set.view(name);
  for (std::int64_t i = 0; i < view.shape.numel(); ++i) all.push_back(view.at(i));
  return all;
}

// Of the first `n` values, so many are different.
std::size_t different(const std::vector<double>& v, std::size_t n) {
  return std::set<double>(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(n)).size();
}

TEST(Generators, AnotherSeedIsOtherData) {
  for (const Operator* op : operators()) {
    const std::string name(op->name());
    const TensorSet a = generated(name + " seed=1"), b = generated(name + " seed=2"),
                    again = generated(name + " seed=1");
    EXPECT_EQ(first_difference(a, again), "") << name;
    // Angles of positions stay, and what has hardly a value; what is computed with may not.
    for (const Tensor& t : a.tensors()) {
      const auto n = static_cast<std::size_t>(t.shape().numel());
      if (!reference::is_float(t.dtype()) || t.shape().rank < 2 || t.name() == "cos" || t.name() == "sin" ||
          different(values(a, t.name()), n) <= 2)
        continue;
      EXPECT_NE(std::memcmp(t.data(), b.at(t.name()).data(), t.bytes()), 0) << name << " " << t.name();
    }
  }
}

TEST(Generators, TiesAndNearTiesAreThere) {
  const std::vector<double> ties = values(generated("gating data=ties tokens=1 experts=64"), "router_logits");
  EXPECT_LE(different(ties, 64), 7u) << "steps of a half from -1.5 to 1.5";
  const std::vector<double> near =
      values(generated("gating data=near_ties tokens=1 experts=64 dtype=f32"), "router_logits");
  EXPECT_LE(different(near, 64), 4u);
  EXPECT_GE(different(near, 64), 2u);
  for (const double v : near) EXPECT_NEAR(v, 1, 1e-5);
}

TEST(Generators, EditsOfLogitsAreDone) {
  const auto at = [](const std::string& edit, std::int64_t i) {
    return values(generated("gating tokens=2 experts=8 topk=2 edit=" + edit), "router_logits")
        .at(static_cast<std::size_t>(i));
  };
  EXPECT_TRUE(std::isnan(at("nan:1:3", 11)));
  EXPECT_FALSE(std::isnan(at("nan:1:3", 10)));
  EXPECT_EQ(at("inf:0:2", 2), INFINITY);
  EXPECT_EQ(at("neg_inf:0:2", 2), -INFINITY);
  EXPECT_EQ(at("tie:0:4", 4), at("tie:0:4", 5));
  EXPECT_EQ(at("zero:1", 9), 0);
}

TEST(Generators, PhysicalExpertsAreOthers) {
  const TensorSet in = generated("gating tokens=2 experts=32 remap=1");
  const ConstView table = in.view("logical_to_physical");
  std::set<std::int64_t> physical;
  std::int64_t moved = 0;
  for (std::int64_t e = 0; e < 32; ++e) physical.insert(table.int_at(e)), moved += table.int_at(e) != e;
  EXPECT_EQ(physical.size(), 32u) << "a permutation";
  EXPECT_GT(moved, 16);
}

TEST(Generators, TokensGoToDifferentExperts) {
  const TensorSet in = generated("experts tokens=32 experts=16 topk=2");
  const ConstView ids = in.view("topk_ids");
  std::set<std::pair<std::int64_t, std::int64_t>> routes;
  for (std::int64_t t = 0; t < 32; ++t) routes.emplace(ids.int_at(2 * t), ids.int_at(2 * t + 1));
  EXPECT_GT(routes.size(), 16u);
}

TEST(Generators, PaddedRowsGoNowhere) {
  const TensorSet in = generated("experts data=padding tokens=8 experts=16 topk=2");
  const ConstView ids = in.view("topk_ids");
  for (std::int64_t t = 0; t < 8; ++t) EXPECT_EQ(ids.int_at(2 * t) < 0, t >= 6) << t;
  EXPECT_TRUE(std::isnan(in.view("hidden_states").at(7, 0))) << "nobody may read them";
}

TEST(Generators, SomeSlotsAreMinusOne) {
  const TensorSet in = generated("experts data=minus_one tokens=16 experts=16 topk=4");
  std::int64_t none = 0;
  for (std::int64_t i = 0; i < 64; ++i) none += in.view("topk_ids").int_at(i) < 0;
  EXPECT_GT(none, 4);
  EXPECT_LT(none, 60);
}

// Quantizers are hard where one channel is far larger than its group.
TEST(Generators, ActivationsHaveOutliers) {
  const std::vector<double> x = values(generated("experts tokens=64 hidden=128"), "hidden_states");
  double largest = 0;
  for (const double v : x) largest = std::max(largest, std::fabs(v));
  EXPECT_GT(largest, 6) << "others stay within 3.5";
}

TEST(Generators, ExpertsDiffer) {
  const TensorSet in = generated("experts tokens=2 experts=4 hidden=64 intermediate=16");
  const Tensor& w = in.at("w13");
  const std::size_t one = w.bytes() / 4;
  EXPECT_NE(std::memcmp(w.data(), w.data() + one, one), 0);
}

}  // namespace
}  // namespace moecheck::harness
