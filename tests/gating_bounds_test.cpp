// Gating: honest fp32 implementations of several kinds never leave the bounds, planted mistakes do; precision
// profiles equal an emulation of their own.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <numeric>

#include "tests/gating_test_support.h"

namespace moecheck::tests {
namespace {

float bf16(float v) {  // nearest, ties to even; no NaN here
  const auto bits = std::bit_cast<std::uint32_t>(v);
  return std::bit_cast<float>((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000u);
}

// How one implementation computes. `nudge`: its exp and reciprocal are always so many ulps off.
struct Style {
  const char* name;
  bool exp2 = false, reciprocal = false, flush = false;
  int nudge = 0, order = 0;  // order of sums: 0 ascending, 1 descending, 2 pairwise
  ScoreMath math = ScoreMath::kExp;
};

const Style kStyles[] = {
    {"plain"},
    {"exp2f", true},
    {"reciprocal", false, true, false, 0, 1},
    {"fast high", true, true, true, 2, 2},
    {"fast low", true, true, true, -2, 1},
    {"tanh", false, false, false, 0, 0, ScoreMath::kTanh},
    {"log2", true, true, true, 1, 2, ScoreMath::kLog2},
};

class Honest {
 public:
  explicit Honest(const Style& style) : s_(style) {}

  float exp(float x) const {
    const float e = s_.exp2 ? std::exp2(x * 1.44269504f) : std::exp(x);
    return flushed(nudged(e, s_.nudge));
  }
  float divide(float a, float b) const {
    if (!s_.reciprocal) return flushed(a / b);
    return flushed(a * nudged(1 / b, s_.nudge));
  }
  float sum(const std::vector<float>& v) const {
    if (s_.order == 2 && v.size() > 1) {
      const auto half = v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2);
      return sum({v.begin(), half}) + sum({half, v.end()});
    }
    float total = 0;
    for (std::size_t i = 0; i < v.size(); ++i) total += v[s_.order == 1 ? v.size() - 1 - i : i];
    return total;
  }
  std::vector<float> scores(Scoring scoring, const std::vector<float>& x) const {
    std::vector<float> s(x.size());
    if (scoring == Scoring::kSoftmax) {
      const float top = *std::max_element(x.begin(), x.end());
      for (std::size_t e = 0; e < x.size(); ++e) s[e] = exp(x[e] - top);
      const float z = sum(s);
      for (float& v : s) v = divide(v, z);
      return s;
    }
    for (std::size_t e = 0; e < x.size(); ++e)
      s[e] = scoring == Scoring::kSigmoid ? sigmoid(x[e]) : sqrt_softplus(x[e]);
    return s;
  }

 private:
  float flushed(float v) const { return s_.flush && std::fabs(v) < 0x1p-126f ? 0 : v; }
  static float nudged(float v, int ulps) {
    for (; ulps > 0; --ulps) v = std::nextafter(v, INFINITY);
    for (; ulps < 0; ++ulps) v = v > 0 ? std::nextafter(v, 0.f) : v;
    return v;
  }
  float sigmoid(float x) const {
    if (s_.math == ScoreMath::kTanh) return 0.5f * std::tanh(0.5f * x) + 0.5f;
    if (s_.order == 2 && x < 0) return divide(exp(x), 1 + exp(x));  // the other stable form
    return divide(1, 1 + exp(-x));
  }
  float sqrt_softplus(float x) const {
    if (x > 20) return std::sqrt(x);
    if (s_.math != ScoreMath::kLog2) return std::sqrt(std::log1p(exp(x)));
    return std::sqrt(std::log2(1 + exp(x)) * 0.693147181f);
  }
  Style s_;
};

// Everything one implementation produces of a row, from an honest start and with room for mistakes.
struct Row {
  std::vector<float> score, choice, group, weights;
  std::vector<std::int64_t> ids;
};

struct Mistakes {
  bool group_max = false, biased_weights = false, no_scale = false, bf16_bias = false;
  float epsilon = 0;
};

template <class T>
std::vector<std::int64_t> largest(const std::vector<T>& v, std::size_t k) {
  std::vector<std::int64_t> ids(v.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](auto a, auto b) {
    return v[static_cast<std::size_t>(a)] > v[static_cast<std::size_t>(b)];
  });
  ids.resize(k);
  return ids;
}

Row compute(const Honest& h, const GatingOptions& o, const std::vector<float>& x,
            const std::vector<float>& bias, Mistakes m = {}) {
  Row r;
  r.score = h.scores(o.scoring, x);
  r.choice = r.score;
  for (std::size_t e = 0; e < bias.size(); ++e) r.choice[e] += m.bf16_bias ? bf16(bias[e]) : bias[e];
  std::vector<float> candidates = r.choice;
  if (o.groups > 1) {
    const auto per_group = static_cast<std::ptrdiff_t>(o.experts / o.groups);
    for (auto g = r.choice.begin(); g != r.choice.end(); g += per_group) {
      std::vector<float> sorted(g, g + per_group);
      std::sort(sorted.rbegin(), sorted.rend());
      r.group.push_back(m.group_max || bias.empty() ? sorted[0] : sorted[0] + sorted[1]);
    }
    const auto kept = largest(r.group, static_cast<std::size_t>(o.topk_group));
    for (std::int64_t j = 0; j < o.groups; ++j) {
      if (std::find(kept.begin(), kept.end(), j) != kept.end()) continue;
      std::fill_n(candidates.begin() + j * per_group, per_group, -INFINITY);
    }
  }
  r.ids = largest(candidates, static_cast<std::size_t>(o.topk));
  std::vector<float> w;
  for (auto id : r.ids) w.push_back((m.biased_weights ? r.choice : r.score)[static_cast<std::size_t>(id)]);
  const float s = h.sum(w) + (o.policy.epsilon == Epsilon::kAdd ? 1e-20f : 0.f) + m.epsilon;
  for (float v : w) {
    const float q = o.renormalize ? h.divide(v, s) : v;
    r.weights.push_back(m.no_scale ? q : q * static_cast<float>(o.routed_scaling_factor));
  }
  return r;
}

bool within(const Bounded& b, double got) { return std::fabs(got - b.value) <= b.proven; }

bool within(const std::vector<Bounded>& b, const std::vector<float>& got) {
  for (std::size_t i = 0; i < b.size(); ++i) {
    if (!within(b[i], static_cast<double>(got[i]))) return false;
  }
  return true;
}

// Nothing in the implementation's selection is certainly wrong.
bool admissible(const Gating& gate, const GatingRow& row, const Row& got) {
  const auto& o = gate.options();
  std::vector<bool> kept(static_cast<std::size_t>(o.groups), o.groups == 1);
  if (o.groups > 1) {
    const auto ids = largest(got.group, static_cast<std::size_t>(o.topk_group));
    for (auto id : ids) kept[static_cast<std::size_t>(id)] = true;
    for (std::int64_t a = 0; a < o.groups; ++a) {
      for (std::int64_t b = 0; b < o.groups; ++b) {
        if (!kept[static_cast<std::size_t>(a)] && kept[static_cast<std::size_t>(b)] &&
            gate.group_order(row, a, b) == Order::kBefore)
          return false;
      }
    }
  }
  for (std::size_t k = 1; k < got.ids.size(); ++k) {
    if (gate.expert_order(row, got.ids[k - 1], got.ids[k]) == Order::kAfter) return false;
  }
  for (std::int64_t e = 0; e < o.experts; ++e) {
    const bool chosen = std::find(got.ids.begin(), got.ids.end(), e) != got.ids.end();
    if (chosen || !kept[static_cast<std::size_t>(e / gate.experts_per_group())]) continue;
    if (gate.expert_order(row, e, got.ids.back()) == Order::kBefore) return false;
  }
  return true;
}

struct Problem {
  GatingOptions options;
  std::vector<float> logits, bias;
};

Problem problem(std::uint32_t seed, Scoring scoring) {
  std::mt19937 engine(seed);
  Problem p{sizes(16, 4, 2, 4), {}, {}};
  p.options.scoring = scoring;
  p.options.renormalize = engine() % 4 != 0;
  p.options.routed_scaling_factor = 2.827;
  p.options.policy.scale_weights = ScaleWeights::kAlways;
  p.options.policy.epsilon = engine() % 2 ? Epsilon::kAdd : Epsilon::kNone;
  constexpr float kSpread[] = {1, 1, 4, 30, 90, 1e-3f};
  const float spread = kSpread[engine() % 6];
  std::normal_distribution<float> normal_logit(0, spread), normal_bias(0, 0.2f);
  for (int e = 0; e < 16; ++e) {
    p.logits.push_back(normal_logit(engine));
    p.bias.push_back(normal_bias(engine));
  }
  if (engine() % 8 == 0) p.logits[engine() % 16] = p.logits[engine() % 16];
  return p;
}

class Judge {  // the reference on one problem, memory kept between rows
 public:
  explicit Judge(const Problem& p, ScoreMath math) : gate_(with(p.options, math)) {
    gate_.scores({p.logits.data(), DType::kF32, Shape(1, 16)}, {p.bias.data(), DType::kF32, Shape(16)}, 0,
                 row);
  }
  bool accepts(const Row& got) {
    gate_.weights(row, got.ids, weights);
    return within(row.score, got.score) && within(row.choice, got.choice) && within(row.group, got.group) &&
           admissible(gate_, row, got) && within(weights, got.weights);
  }
  GatingRow row;
  std::vector<Bounded> weights;

 private:
  static GatingOptions with(GatingOptions o, ScoreMath math) {
    o.policy.score_math = math;
    return o;
  }
  Gating gate_;
};

class HonestFloat : public testing::TestWithParam<Scoring> {};

TEST_P(HonestFloat, StaysWithinTheBounds) {
  std::int64_t suspects = 0, rows = 0;
  for (std::uint32_t seed = 0; seed < 12000; ++seed) {
    const Problem p = problem(seed, GetParam());
    for (const Style& style : kStyles) {
      Judge judge(p, style.math);
      const Row got = compute(Honest(style), p.options, p.logits, p.bias);
      ASSERT_TRUE(judge.accepts(got)) << style.name << " leaves the bounds at seed " << seed;
      ++rows;
      for (std::size_t k = 0; k < got.weights.size(); ++k) {
        suspects += std::fabs(static_cast<double>(got.weights[k]) - judge.weights[k].value) >
                    judge.weights[k].suspect_bound();
      }
    }
  }
  EXPECT_EQ(rows, 12000 * 7);
  EXPECT_EQ(suspects, 0);
}

INSTANTIATE_TEST_SUITE_P(Gating, HonestFloat,
                         testing::Values(Scoring::kSigmoid, Scoring::kSoftmax, Scoring::kSqrtSoftplus));

// Of 1000 ordinary rows, how many the reference rejects when the implementation makes the mistake.
int rejected(Mistakes mistakes, double bias_mean = 0, bool renormalize = true) {
  int count = 0;
  for (std::uint32_t seed = 0; seed < 1000; ++seed) {
    Problem p = problem(seed, Scoring::kSigmoid);
    p.options.renormalize = renormalize;
    p.options.policy.epsilon = Epsilon::kAdd;
    const auto logits = normal(16, seed), bias = normal(16, seed + 5000, bias_mean, 0.1);
    p.logits.assign(logits.begin(), logits.end());
    p.bias.assign(bias.begin(), bias.end());
    count += !Judge(p, ScoreMath::kExp)
                  .accepts(compute(Honest(kStyles[0]), p.options, p.logits, p.bias, mistakes));
  }
  return count;
}

TEST(GatingMistakes, AreRejected) {
  EXPECT_EQ(rejected({}), 0);
  EXPECT_EQ(rejected({.biased_weights = true}), 1000);
  EXPECT_EQ(rejected({.no_scale = true}), 1000);
  EXPECT_EQ(rejected({.epsilon = 1e-2f}), 1000);
  EXPECT_EQ(rejected({.epsilon = 2e-5f}), 1000);  // so tight are the bounds
  EXPECT_EQ(rejected({.group_max = true}),
            1000);  // the group scores; a kernel shows it by its ids, on the rows that differ
  EXPECT_EQ(rejected({.bf16_bias = true}), 1000);
  EXPECT_EQ(rejected({.bf16_bias = true}, 6.9), 1000);
}

// The same mistakes as far as ids and weights show them.
TEST(GatingMistakes, ShowInTheIds) {
  int group_max = 0, bf16_bias = 0;
  for (std::uint32_t seed = 0; seed < 1000; ++seed) {
    auto o = sizes(256, 8, 4, 8);
    const auto logits = normal(256, seed), bias = normal(256, seed + 5000, 6.9, 0.04);
    const GateRun right(o, logits, bias);
    o.policy.group_score = GroupScore::kMax;
    group_max += GateRun(o, logits, bias).ids != right.ids;
    o.policy.group_score = GroupScore::kAuto;
    o.logits_dtype = DType::kBF16;
    o.policy.bias_cast = BiasCast::kLogitsDtype;
    const GateRun cast(o, logits, bias);
    o.policy.bias_cast = BiasCast::kKeep;
    bf16_bias += cast.ids != GateRun(o, logits, bias).ids;
  }
  EXPECT_GT(group_max, 300);
  EXPECT_GT(bf16_bias, 900);  // biases near 6.9 have few bf16 codes
}

TEST(GatingPrecision, Bf16SelectionEqualsAnEmulation) {
  std::int64_t exact = 0, all = 0;
  for (std::uint32_t seed = 0; seed < 300; ++seed) {
    auto o = sizes(64, 4, 2, 6);
    o.logits_dtype = o.bias_dtype = DType::kBF16;
    o.policy.precision = Precision::kSelect;
    const GateRun run(o, normal(64, seed, 0, 2), normal(64, seed + 900, 0.5, 0.3));
    const auto logits = normal(64, seed, 0, 2), bias = normal(64, seed + 900, 0.5, 0.3);
    for (std::size_t j = 0; j < 4; ++j) {
      std::vector<float> c;
      for (std::size_t e = 16 * j; e < 16 * (j + 1); ++e) {
        const float x = bf16(static_cast<float>(logits[e])), b = bf16(static_cast<float>(bias[e]));
        const float s = bf16(1 / (1 + std::exp(-x)));
        c.push_back(bf16(s + b));
        ASSERT_TRUE(within(run.row.score[e], static_cast<double>(s)));
        ASSERT_TRUE(within(run.row.choice[e], static_cast<double>(c.back())));
        exact += run.row.choice[e].is_exact();
        ++all;
      }
      std::sort(c.rbegin(), c.rend());
      ASSERT_TRUE(within(run.row.group[j], static_cast<double>(bf16(c[0] + c[1]))));
    }
  }
  EXPECT_GT(exact, all * 99 / 100);
}

TEST(GatingPrecision, NarrowSelectionsTieOften) {
  int tied = 0;
  for (std::uint32_t seed = 0; seed < 200; ++seed) {
    auto o = sizes(256, 1, 1, 9);
    o.logits_dtype = o.bias_dtype = DType::kBF16;
    o.policy.precision = Precision::kSelect;
    const GateRun run(o, normal(256, seed), normal(256, seed + 1, 6.9, 0.05));
    tied += run.row.choice[static_cast<std::size_t>(run.ids[7])].value ==
            run.row.choice[static_cast<std::size_t>(run.ids[8])].value;
  }
  EXPECT_GT(tied, 80);
}

TEST(GatingPrecision, AnF32BiasPromotes) {
  auto o = sizes(4, 1, 1, 2);
  o.logits_dtype = DType::kBF16;
  o.policy.precision = Precision::kSelect;
  const GateRun run(o, {0.5, -1, 2, 0.1}, {0.3, 0, -0.2, 0.4});
  const float s = bf16(1 / (1 + std::exp(-0.5f)));
  EXPECT_TRUE(run.row.score[0].is_exact());
  EXPECT_EQ(run.row.score[0].value, static_cast<double>(s));
  EXPECT_EQ(run.row.choice[0].value, static_cast<double>(s + 0.3f));  // an f32 sum, not a bf16 one
}

TEST(GatingPrecision, NarrowWeightsRoundAtEachStep) {
  for (std::uint32_t seed = 0; seed < 300; ++seed) {
    auto o = sizes(32, 1, 1, 4);
    o.logits_dtype = DType::kBF16;
    o.policy.precision = Precision::kAll;
    o.policy.scale_weights = ScaleWeights::kAlways;
    o.routed_scaling_factor = 2.827;
    const auto logits = normal(32, seed), bias = normal(32, seed + 7, 0, 0.1);
    const GateRun run(o, logits, bias);
    std::vector<float> w;
    for (auto id : run.ids) {
      w.push_back(bf16(1 / (1 + std::exp(-bf16(static_cast<float>(logits[static_cast<std::size_t>(id)]))))));
    }
    const float sum = bf16(w[0] + w[1] + w[2] + w[3]);
    for (std::size_t k = 0; k < 4; ++k) {
      const float got = bf16(bf16(w[k] / sum) * 2.827f);
      ASSERT_TRUE(within(run.weights[k], static_cast<double>(got))) << seed << " slot " << k;
    }
  }
}

TEST(GatingPrecision, WeightsFromChoiceScoresLoseTheBias) {
  auto o = sizes(2, 1, 1, 2);
  o.renormalize = false;
  o.policy.weight_from = WeightFrom::kChoiceLessBias;
  const float x = static_cast<float>(logit(0.01)), s = 1 / (1 + std::exp(-x)), b = 6.9f;
  const volatile float c = s + b;
  const GateRun run(o, {static_cast<double>(x), 0}, {static_cast<double>(b), 0});
  EXPECT_TRUE(within(run.weights[0], static_cast<double>(c - b)));
  o.policy.weight_from = WeightFrom::kScore;
  EXPECT_FALSE(within(GateRun(o, {static_cast<double>(x), 0}, {static_cast<double>(b), 0}).weights[0],
                      static_cast<double>(c - b)));
}

// A machine that flushes gives 0 to every weight of a row whose scores are the roots of subnormal numbers: allowed, and no noise.
TEST(GatingBounds, ARowFlushedToZeroIsNotSuspect) {
  for (const int topk : {1, 2})
    for (const Epsilon epsilon : {Epsilon::kGuard, Epsilon::kAdd, Epsilon::kMax}) {
      auto o = sizes(8, 1, 1, topk);
      o.scoring = Scoring::kSqrtSoftplus;
      o.policy.epsilon = epsilon;
      for (const Bounded& w : GateRun(o, std::vector<double>(8, -100)).weights) {
        EXPECT_GE(w.suspect_bound(), std::fabs(w.value)) << "0 where " << w.value << " was expected";
        EXPECT_LE(w.proven, 1.001);
      }
    }
}

// A bias added to huge logits is lost in their rounding, however near they are to the largest.
TEST(GatingBounds, SoftmaxOfHugeSumsHoldsTheirRounding) {
  auto o = sizes(4, 1, 1, 2);
  o.scoring = Scoring::kSoftmax;
  o.renormalize = false;
  o.policy.bias_on = BiasOn::kLogits;
  for (const double x : {-65504.0, 65504.0, 3.0, -1e10}) {
    const std::vector<double> bias = {0.0103, -1.998, 0.0009, x < -1e9 ? 900 : 0.5};
    const GateRun run(o, std::vector<double>(4, x), bias);
    float sum = 0, t[4];
    for (std::size_t e = 0; e < 4; ++e) {
      const volatile float top = static_cast<float>(x) + static_cast<float>(bias[3]),
                           argument = static_cast<float>(x) + static_cast<float>(bias[e]);
      sum += t[e] = std::exp(argument - top);
    }
    for (std::size_t e = 0; e < 4; ++e)
      EXPECT_LE(std::fabs(static_cast<double>(t[e] / sum) - run.row.score[e].value), run.row.score[e].proven)
          << x << " " << e;
    if (x == 3) {
      EXPECT_LT(run.row.score[0].proven, 1e-5);
    }
  }
}

}  // namespace
}  // namespace moecheck::tests
