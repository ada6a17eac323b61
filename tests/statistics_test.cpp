// Accuracy statistics against scipy, statsmodels and mpmath (datasets/golden/statistics.json), against published tables,
// and against what a brute force says.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <numeric>
#include <set>

#include "harness/json.h"
#include "harness/random.h"
#include "harness/statistics/accuracy.h"
#include "harness/statistics/distributions.h"
#include "harness/statistics/paired.h"
#include "harness/statistics/planning.h"
#include "harness/statistics/verdict.h"

namespace moecheck::harness {
namespace {

using Json = nlohmann::json;

constexpr double kTolerance = 1e-9;

const Json& golden() {
  static const Json all = Json::parse(std::ifstream(MOECHECK_SOURCE_DIR "/datasets/golden/statistics.json"));
  return all;
}

void expect_close(double ours, const Json& theirs, const std::string& what) {
  const double wanted = theirs.get<double>();
  EXPECT_NEAR(ours, wanted, kTolerance * std::abs(wanted) + 1e-14) << what;
}

PairedCounts counts(std::int64_t n, std::int64_t regressions, std::int64_t fixes) {
  PairedCounts c;
  c.regressions = regressions;
  c.fixes = fixes;
  c.both = (n - regressions - fixes) / 2;
  c.neither = n - regressions - fixes - c.both;
  return c;
}

TEST(Statistics, binomial_is_scipys) {
  for (const Json& g : golden()["binomial"]) {
    const std::int64_t k = g["k"], n = g["n"];
    const double p = g["p"];
    expect_close(log_binomial_pmf(k, n, p), g["log_pmf"], g.dump());
    expect_close(binomial_cdf(k, n, p), g["cdf"], g.dump());
    expect_close(binomial_upper(k, n, p), g["upper"], g.dump());
    expect_close(log_choose(n, k), g["log_choose"], g.dump());
  }
  EXPECT_EQ(binomial_cdf(-1, 5, 0.5), 0);
  EXPECT_EQ(binomial_upper(6, 5, 0.5), 0);
  EXPECT_EQ(binomial_cdf(3, 5, 0), 1);
  EXPECT_EQ(binomial_upper(5, 5, 1), 1);
}

TEST(Statistics, small_tails_keep_their_digits) {
  // P(X = 0) of 1,000 tosses is 2^-1000: far below what 1 - P could hold.
  EXPECT_NEAR(std::log2(binomial_upper(1000, 1000, 0.5)), -1000, 1e-9);
  EXPECT_NEAR(log_binomial_cdf(0, 100000, 0.5) / std::log(2.0), -100000, 1e-5);
}

TEST(Statistics, normal_is_scipys) {
  for (const Json& g : golden()["normal"]) {
    expect_close(normal_cdf(g["z"]), g["cdf"], g.dump());
    expect_close(normal_upper(g["z"]), g["upper"], g.dump());
  }
  for (const Json& g : golden()["normal_quantile"])
    EXPECT_NEAR(normal_quantile(g["p"]), g["z"].get<double>(), 1e-11);
  for (double z = -30; z < 8; z += 0.37)
    EXPECT_NEAR(normal_quantile(normal_cdf(z)), z, 1e-2 * (z > 5) + 1e-9) << z;
}

TEST(Statistics, intervals_are_statsmodels) {
  for (const Json& g : golden()["intervals"]) {
    const Interval w = wilson(g["k"], g["n"], g["alpha"]), c = clopper_pearson(g["k"], g["n"], g["alpha"]);
    EXPECT_NEAR(w.low, g["wilson"][0].get<double>(), kTolerance) << g;
    EXPECT_NEAR(w.high, g["wilson"][1].get<double>(), kTolerance) << g;
    EXPECT_NEAR(c.low, g["clopper_pearson"][0].get<double>(), kTolerance) << g;
    EXPECT_NEAR(c.high, g["clopper_pearson"][1].get<double>(), kTolerance) << g;
  }
}

TEST(Statistics, paired_tests_are_scipys_and_statsmodels) {
  for (const Json& g : golden()["pairs"]) {
    const PairedCounts c = counts(g["n"], g["regressions"], g["fixes"]);
    expect_close(c.standard_error(), g["standard_error"], g.dump());
    expect_close(mcnemar_two_sided(c), g["two_sided"], g.dump());
    expect_close(mcnemar_worse(c), g["worse"], g.dump());
    for (const auto& z : g["z"].items())
      expect_close(tango_z(c, std::stod(z.key())), z.value(), g.dump() + z.key());
    const Interval i = tango_interval(c);
    EXPECT_NEAR(i.low, g["interval"][0].get<double>(), kTolerance) << g;
    EXPECT_NEAR(i.high, g["interval"][1].get<double>(), kTolerance) << g;
  }
}

// What the comparison is for: the false alarms of a one-sided 5% test, by simulation of equal arms.
TEST(Statistics, tango_keeps_its_level) {
  const Random random(7, "level");
  std::uint64_t draw = 0;
  int rejected = 0;
  constexpr int kRuns = 2000, kQuestions = 600;
  constexpr double kMargin = 0.02, kPsi = 0.06;  // B is worse by exactly the margin
  for (int run = 0; run < kRuns; ++run) {
    PairedCounts c;
    for (int i = 0; i < kQuestions; ++i) {
      const double u = random.uniform(draw++);
      ++(u < (kPsi + kMargin) / 2 ? c.regressions : u < kPsi ? c.fixes : c.both);
    }
    rejected += noninferiority_p(c, kMargin) < 0.05;
  }
  EXPECT_GT(rejected, kRuns * 0.03);
  EXPECT_LT(rejected, kRuns * 0.065);
}

TEST(Statistics, minimum_evidence_of_a_regression) {
  // One-sided 5%: 5 of 5, 9 of 10, 15 of 20, 20 of 30, 26 of 40 flips.
  for (const auto& [m, least] :
       std::vector<std::pair<int, int>>{{5, 5}, {10, 9}, {20, 15}, {30, 20}, {40, 26}}) {
    EXPECT_LT(mcnemar_worse(counts(100, least, m - least)), 0.05) << m;
    EXPECT_GE(mcnemar_worse(counts(100, least - 1, m - least + 1)), 0.05) << m;
  }
}

TEST(Statistics, e_value_is_its_mixture) {
  for (const Json& g : golden()["e_values"])
    expect_close(log_e_value(g["regressions"], g["fixes"]), g["log_e"], g.dump());
  EXPECT_NEAR(std::exp(log_e_value(6, 0)), 18.142857, 1e-6);
  EXPECT_NEAR(std::exp(log_e_value(7, 0)), 31.875, 1e-9);
}

TEST(Statistics, watching_the_e_value_alarms_at_most_alpha) {
  const Random random(11, "peeking");
  std::uint64_t draw = 0;
  int alarms = 0;
  constexpr int kRuns = 2000;
  for (int run = 0; run < kRuns; ++run) {
    std::int64_t worse = 0, better = 0;
    bool alarm = false;
    while (worse + better < 200 && !alarm) {
      ++(random.uniform(draw++) < 0.5 ? worse : better);
      alarm = log_e_value(worse, better) >= std::log(20.0);
    }
    alarms += alarm;
  }
  EXPECT_LE(alarms, kRuns * 0.05);
  EXPECT_GT(alarms, 0);
}

TEST(Statistics, bootstrap_is_near_the_exact_interval_and_repeats) {
  const PairedCounts c = counts(1319, 22, 18);
  const Interval b = paired_bootstrap(c, 4000, 1), again = paired_bootstrap(c, 4000, 1);
  std::set<double> others;
  for (const std::uint64_t seed : {1, 2, 3, 4, 5}) others.insert(paired_bootstrap(c, 50, seed).low);
  EXPECT_GT(others.size(), 1u) << "every seed draws anew";
  EXPECT_EQ(b.low, again.low);
  EXPECT_EQ(b.high, again.high);
  const double half = 1.96 * c.standard_error();
  EXPECT_NEAR(b.low, c.difference() - half, 0.0008);
  EXPECT_NEAR(b.high, c.difference() + half, 0.0008);
  std::vector<double> values(200);
  std::iota(values.begin(), values.end(), 0.0);
  const Interval mean = bootstrap_mean(values, 4000, 3);
  const double sd = std::sqrt((200.0 * 200 - 1) / 12 / 200);
  EXPECT_NEAR(mean.low, 99.5 - 1.96 * sd, 0.8);
  EXPECT_NEAR(mean.high, 99.5 + 1.96 * sd, 0.8);
  EXPECT_NE(bootstrap_mean(values, 4000, 4).low, mean.low);
}

TEST(Statistics, clusters_and_holm_are_statsmodels) {
  for (const Json& g : golden()["clusters"]) {
    const auto values = g["values"].get<std::vector<double>>();
    const auto cluster = g["cluster"].get<std::vector<std::int64_t>>();
    expect_close(clustered_standard_error(values, cluster), g["standard_error"], "cluster");
  }
  for (const Json& g : golden()["holm"]) {
    const auto p = g["p"].get<std::vector<double>>();
    const std::vector<double> ours = holm(p);
    for (std::size_t i = 0; i < p.size(); ++i) expect_close(ours[i], g["adjusted"][i], g.dump());
  }
}

TEST(Statistics, plans_are_scipys) {
  for (const Json& g : golden()["plans"]["unpaired"])
    expect_close(unpaired_detectable(g["p"], g["n"]), g["d"], g.dump());
  for (const Json& g : golden()["plans"]["paired"]) {
    const auto ours = paired_detectable(g["psi"], g["n"]);
    ASSERT_EQ(ours.has_value(), !g["d"].is_null()) << g;
    if (ours) expect_close(*ours, g["d"], g.dump());
  }
}

// The published tables of minimum detectable effects, provable margins and sample sizes, in points.
TEST(Statistics, plans_are_the_published_tables) {
  const auto points = [](double d) { return std::round(d * 1e4) / 100; };
  EXPECT_EQ(points(unpaired_detectable(0.95, 256)), 5.40);
  EXPECT_EQ(points(unpaired_detectable(0.90, 1319)), 3.27);
  EXPECT_EQ(points(unpaired_detectable(0.80, 5276)), 2.18);
  EXPECT_EQ(points(*paired_detectable(0.05, 200)), 4.40);
  EXPECT_EQ(points(*paired_detectable(0.02, 500)), 1.77);
  EXPECT_EQ(points(*paired_detectable(0.10, 1319)), 2.44);
  EXPECT_EQ(points(*paired_detectable(0.01, 5276)), 0.39);
  EXPECT_FALSE(paired_detectable(0.03, 256).has_value());
  EXPECT_FALSE(paired_detectable(0.01, 500).has_value());
  EXPECT_EQ(points(provable_margin(0.01, 200)), 1.76);
  EXPECT_EQ(points(provable_margin(0.03, 1319)), 1.19);
  EXPECT_EQ(points(provable_margin(0.05, 2638)), 1.08);
  EXPECT_EQ(questions_for_margin(0.01, 0.01), 619);
  EXPECT_EQ(questions_for_margin(0.02, 0.01), 1237);
  EXPECT_EQ(questions_for_margin(0.03, 0.01), 1855);
  EXPECT_EQ(questions_for_margin(0.05, 0.01), 3092);
}

TEST(Statistics, noise_floor) {
  for (const Json& g : golden()["excess"])
    expect_close(excess_flips_p(g["flips"], g["n"], g["noise_flips"], g["noise_n"]), g["p"], g.dump());
  EXPECT_NEAR(noise_discordance(0.009, 200), 0.0324, 1e-12);
  EXPECT_NEAR(noise_sd(0.03, 1319), 0.00477, 1e-5);
}

TEST(Statistics, one_run) {
  EXPECT_NEAR(standard_error(243, 256), 0.0136, 5e-4);
  EXPECT_NEAR(standard_error(1055, 1319), 0.0110, 5e-5);
  EXPECT_TRUE(std::isnan(standard_error(1, 1)));
}

// The table of a published pull request: "256 samples", 0.9469 +- 0.0062.
TEST(Statistics, a_printed_score_tells_its_sample_size) {
  EXPECT_NEAR(*implied_n(0.9469, 0.0062), 1309, 0.5);
  const Range r = implied_n_range(0.9469, 4, 0.0062, 4);
  EXPECT_NEAR(r.low, 1288, 1);
  EXPECT_NEAR(r.high, 1331, 1);
  EXPECT_FALSE(implied_n(0.5, 0).has_value());
  EXPECT_TRUE(std::isinf(implied_n_range(1, 4, 0, 4).high));
  const double scores[] = {0.9469, 0.9439, 0.9416, 0.4685};
  const std::int64_t right[] = {1249, 1245, 1242, 618};
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(on_grid(scores[i], 4, 1319), right[i]);
    EXPECT_FALSE(on_grid(scores[i], 4, 256).has_value()) << scores[i];
  }
  EXPECT_EQ(on_grid(0.9492, 4, 256), 243);
}

TEST(Statistics, verdicts_exclude_each_other) {
  const auto verdict = [](std::int64_t n, std::int64_t regressions, std::int64_t fixes, double margin) {
    return judge_pairs({counts(n, regressions, fixes), margin, 0.05});
  };
  // The same two scores, 1249 and 1245 of 1,319: the pairs decide.
  const PairedVerdict noisy = verdict(1319, 22, 18, 0.01);
  EXPECT_EQ(noisy.verdict, ComparisonVerdict::kInconclusive);
  EXPECT_NEAR(noisy.noninferiority_p, 0.080, 5e-4);
  EXPECT_NEAR(noisy.two_sided_p, 0.64, 5e-3);
  EXPECT_NEAR(noisy.interval.low, -0.0130, 5e-5);
  EXPECT_NEAR(noisy.interval.high, 0.0067, 5e-5);
  EXPECT_GT(noisy.questions_needed, 1319);
  EXPECT_GT(noisy.proven_margin, 0.01);
  EXPECT_NEAR(noninferiority_p(counts(1319, 22, 18), noisy.proven_margin), 0.05, 1e-9);
  EXPECT_EQ(verdict(1319, 22, 18, 0.02).verdict, ComparisonVerdict::kNoRegression);
  EXPECT_NEAR(verdict(1319, 22, 18, 0.02).noninferiority_p, 0.0008, 5e-5);
  const PairedVerdict quiet = verdict(1319, 4, 0, 0.01);
  EXPECT_EQ(quiet.verdict, ComparisonVerdict::kNoRegression);
  EXPECT_NEAR(quiet.noninferiority_p, 0.0055, 5e-5);
  EXPECT_EQ(quiet.questions_needed, 0);
  EXPECT_EQ(verdict(1319, 6, 0, 0.02).verdict, ComparisonVerdict::kWorseWithinMargin);
  EXPECT_EQ(verdict(1319, 40, 5, 0.01).verdict, ComparisonVerdict::kRegression);
  EXPECT_EQ(verdict(15, 9, 0, 0.01).verdict, ComparisonVerdict::kRegression);
  EXPECT_EQ(verdict(256, 0, 0, 0.01).verdict,
            ComparisonVerdict::kInconclusive);  // 256 questions prove 1.05 points
  EXPECT_GT(verdict(256, 0, 0, 0.01).questions_needed, 256);
  EXPECT_EQ(verdict(0, 0, 0, 0.01).verdict, ComparisonVerdict::kInconclusive);
}

TEST(Statistics, pairs_are_counted_by_direction) {
  const PairedCounts c = paired_counts({true, true, false, false, true}, {true, false, true, false, false});
  EXPECT_EQ(c.both, 1);
  EXPECT_EQ(c.regressions, 2);
  EXPECT_EQ(c.fixes, 1);
  EXPECT_EQ(c.neither, 1);
  EXPECT_DOUBLE_EQ(c.difference(), -0.2);
  EXPECT_DOUBLE_EQ(c.discordance(), 0.6);
}

}  // namespace
}  // namespace moecheck::harness
