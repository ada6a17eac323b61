// Load figures: an example worked by hand, the definitions one by one, and identities that catch wrong records.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "harness/load/metrics.h"
#include "harness/random.h"

namespace moecheck::harness::load {
namespace {

// Events at the given times. `tokens`: the server's running count at each, where it sends one.
RequestRecord request(double start, std::vector<double> times, std::int64_t output,
                      std::vector<std::int32_t> tokens = {}) {
  RequestRecord r;
  r.success = true;
  r.start = r.due = start;
  for (std::size_t i = 0; i < times.size(); ++i)
    r.events.push_back({times[i], tokens.empty() ? -1 : tokens[i], true, true});
  r.asked_output_tokens = r.output_tokens = output;
  r.asked_prompt_tokens = r.prompt_tokens = 100;
  r.end = start + (times.empty() ? 0 : times.back());
  return r;
}

// A: 4 tokens, one per event. B: one token. C: speculative, 10 tokens in 6 events. D: failed.
std::vector<RequestRecord> worked_example() {
  std::vector<RequestRecord> all = {
      request(0.0, {0.5, 0.625, 0.75, 0.875}, 4), request(0.5, {1.0}, 1),
      request(2.0, {0.25, 0.475, 0.7, 0.925, 1.15, 1.375}, 10, {1, 3, 5, 7, 9, 10}), RequestRecord{}};
  all[3].error = "connection reset";
  all[3].events.push_back({0.1, -1, true, true});  // what came of a failed request counts for nothing
  all[3].output_tokens = 77;
  return all;
}

TEST(LoadMetrics, TheWorkedExample) {
  MetricsOptions options;
  options.percentiles = {50, 90, 99};
  options.goodput = {0.6, 0.15, {}};
  const Metrics m = calculate(worked_example(), 4.0, options);
  EXPECT_EQ(m.completed, 3);
  EXPECT_EQ(m.failed, 1);
  EXPECT_NEAR(m.ttft.mean, 0.583333, 1e-6);
  EXPECT_DOUBLE_EQ(m.ttft.median, 0.5);
  EXPECT_NEAR(m.ttft.percentiles[1].second, 0.9, 1e-12);
  EXPECT_NEAR(m.ttft.percentiles[2].second, 0.99, 1e-12);
  EXPECT_EQ(m.tpot.count, 2);  // the one-token request has none
  EXPECT_NEAR(m.tpot.mean, 0.125, 1e-12);
  EXPECT_EQ(m.itl.count, 8);
  EXPECT_NEAR(m.itl.mean, 0.1875, 1e-12);
  EXPECT_NEAR(m.itl.percentiles[0].second, 0.225, 1e-12);
  EXPECT_NEAR(m.e2el.mean, 1.083333, 1e-6);
  EXPECT_DOUBLE_EQ(m.output_throughput, 3.75);
  EXPECT_DOUBLE_EQ(m.total_token_throughput, (300 + 15) / 4.0);
  EXPECT_DOUBLE_EQ(m.request_throughput, 0.75);
  EXPECT_DOUBLE_EQ(m.request_goodput.value(), 0.5);
  EXPECT_EQ(m.peak_concurrency, 2);
}

// A: TTFT 0.5, TPOT 0.125, E2EL 0.875. B: 1, none, 1. C: 0.25, 0.125, 1.375.
TEST(LoadMetrics, AGoodRequestMeetsEveryObjective) {
  const auto good = [](const Objectives& goal) {
    MetricsOptions options;
    options.goodput = goal;
    return calculate(worked_example(), 1.0, options).request_goodput.value();
  };
  EXPECT_EQ(good({0.5, {}, {}}), 2);
  EXPECT_EQ(good({{}, 0.12, {}}), 1) << "one token has no time per token";
  EXPECT_EQ(good({{}, {}, 1.0}), 2);
  EXPECT_EQ(good({0.5, 0.2, 1.0}), 1);
}

TEST(LoadMetrics, PercentilesAreNumpys) {
  const std::vector<double> v = {1, 2, 3, 4};
  for (const auto& [p, want] :
       std::vector<std::pair<double, double>>{{0, 1}, {25, 1.75}, {50, 2.5}, {90, 3.7}, {99, 3.97}, {100, 4}})
    EXPECT_NEAR(percentile(v, p), want, 1e-12) << p;
  EXPECT_EQ(percentile({}, 99), 0);
  EXPECT_EQ(percentile(std::vector<double>{7}, 99), 7);
}

TEST(LoadMetrics, TheDeviationIsThePopulations) {
  const Summary s = summarize({1, 2, 3, 4}, {});
  EXPECT_NEAR(s.std, std::sqrt(1.25), 1e-12);  // ddof 1 would give sqrt(1.667)
  EXPECT_EQ(s.min, 1);
  EXPECT_EQ(s.max, 4);
  EXPECT_EQ(summarize({}, {}).mean, 0);
}

TEST(LoadMetrics, GapsOfEventsTokensAndReadsAreThreeThings) {
  // Four tokens: the second event brings two, the third came in the same read as the second.
  RequestRecord r = request(0, {0.1, 0.3, 0.3}, 4, {1, 3, 4});
  r.events[2].new_read = false;
  const Metrics m = calculate({&r, 1}, 1, {});
  EXPECT_EQ(m.itl.count, 2);
  EXPECT_NEAR(m.itl.mean, 0.1, 1e-12);
  EXPECT_EQ(m.token_gap.count, 3);
  EXPECT_NEAR(m.token_gap.mean, 0.2 / 3, 1e-12);
  EXPECT_EQ(m.read_gap.count, 1);
  EXPECT_NEAR(m.read_gap.mean, 0.2, 1e-12);
  EXPECT_EQ(m.events, 2);
  EXPECT_EQ(m.coalesced, 1);
  EXPECT_EQ(m.peak_output_events_per_s, 3);
  EXPECT_EQ(m.peak_output_tokens_per_s.value(), 4);  // a count of events would be under the mean rate
}

TEST(LoadMetrics, TokensOfAnEventAreNeverGuessed) {
  EXPECT_TRUE(tokens_per_event(request(0, {0.1, 0.2}, 5)).empty());
  EXPECT_EQ(tokens_per_event(request(0, {0.1, 0.2}, 2)), (std::vector<std::int64_t>{1, 1}));
  RequestRecord role = request(0, {0.1, 0.2, 0.3, 0.4}, 2);  // a role first, a finish reason last
  role.events.front().content = role.events.back().content = false;
  EXPECT_EQ(tokens_per_event(role), (std::vector<std::int64_t>{0, 1, 1, 0}));
  const Metrics m = calculate({&role, 1}, 1, {});
  EXPECT_NEAR(m.ttft.mean, 0.1, 1e-12);
  EXPECT_NEAR(m.time_to_first_content.mean, 0.2, 1e-12);
  EXPECT_EQ(m.token_gap.count, 1);
}

TEST(LoadMetrics, LengthsAreCheckedAndMissingUsageIsCounted) {
  std::vector<RequestRecord> all = {request(0, {0.1}, 4), request(0, {0.1}, 4), request(0, {0.1}, 4)};
  all[0].output_tokens = 3;
  all[1].output_tokens = -1;
  all[2].prompt_tokens = 99;
  const Metrics m = calculate(all, 1, {});
  EXPECT_EQ(m.length_mismatches, 1);
  EXPECT_EQ(m.unknown_lengths, 1);
  EXPECT_EQ(m.prompt_mismatches, 1);
  EXPECT_EQ(m.total_output, 3 + 1 + 4);
  EXPECT_EQ(m.total_input, 100 + 100 + 99);
}

TEST(LoadMetrics, AnEndingRequestLeavesBeforeTheNextComes) {
  const std::vector<RequestRecord> all = {request(0, {1.0}, 1), request(1, {1.0}, 1)};
  EXPECT_EQ(calculate(all, 2, {}).peak_concurrency, 1);
}

TEST(LoadMetrics, NothingSucceededGivesZeroesNotNans) {
  const RequestRecord failed;
  const Metrics m = calculate({&failed, 1}, 1, {});
  EXPECT_EQ(m.failed, 1);
  EXPECT_EQ(m.ttft.mean, 0);
  EXPECT_EQ(m.output_throughput, 0);
  EXPECT_TRUE(identities({&failed, 1}, m, 1, true).empty());
}

// A closed loop by simulation: `limit` slots, fixed lengths, random times.
std::vector<RequestRecord> closed_loop(std::int64_t n, std::int64_t limit, double& duration) {
  const Random random(7, "closed loop");
  std::vector<double> free_at(static_cast<std::size_t>(limit), 0);
  std::vector<RequestRecord> all;
  std::uint64_t draw = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    auto slot = std::min_element(free_at.begin(), free_at.end());
    std::vector<double> times;
    double t = 0.02 + 0.03 * random.uniform(draw++);
    for (int k = 0; k < 20; ++k, t += 0.001 + 0.002 * random.uniform(draw++)) times.push_back(t);
    all.push_back(request(*slot, times, 20));
    *slot += times.back();
    duration = std::max(duration, *slot);
  }
  return all;
}

bool holds(const std::vector<Identity>& all, const std::string& name) {
  const auto at = std::find_if(all.begin(), all.end(), [&](const Identity& i) { return i.name == name; });
  if (at == all.end()) ADD_FAILURE() << "no identity " << name;
  return at != all.end() && at->holds;
}

TEST(LoadIdentities, HoldForAClosedLoop) {
  double duration = 0;
  const auto all = closed_loop(200, 8, duration);
  const Metrics m = calculate(all, duration, {});
  for (const Identity& i : identities(all, m, 8, true))
    EXPECT_TRUE(i.holds) << i.name << " " << i.left << " " << i.right;
  EXPECT_EQ(identities(all, m, 8, true).size(), 5u);
}

TEST(LoadIdentities, CatchWhatTheyAreFor) {
  double duration = 0;
  const auto all = closed_loop(200, 8, duration);
  const Metrics m = calculate(all, duration, {});
  EXPECT_FALSE(holds(identities(all, m, 7, true), "limit"));  // more at once than allowed
  Metrics doubled = m;
  doubled.output_throughput *= 2;  // tokens counted twice
  EXPECT_FALSE(holds(identities(all, doubled, 8, true), "closed loop"));
  Metrics late = m;
  late.e2el.mean *= 1.01;
  EXPECT_FALSE(holds(identities(all, late, 8, true), "Little"));
  auto swapped = all;
  std::swap(swapped[3].events[4].at, swapped[3].events[5].at);
  EXPECT_FALSE(holds(identities(swapped, calculate(swapped, duration, {}), 8, true), "order"));
}

TEST(LoadForeign, EachToolHasItsOwnNumbers) {
  RequestRecord r = request(0, {0.2, 0.4, 0.6}, 3);
  r.events[0].content = false;  // a role
  r.last_message = 0.7;
  r.done = 0.8;
  std::vector<std::pair<std::string, double>> got;
  for (const ForeignMetric& f : foreign_metrics({&r, 1}, {}))
    got.emplace_back(f.tool + " " + f.name, std::round(f.seconds.mean * 1e6) / 1e6);
  const std::vector<std::pair<std::string, double>> want = {{"sglang bench_serving TTFT", 0.4},
                                                            {"sglang bench_serving TPOT", 0.2},
                                                            {"sglang bench_serving E2E latency", 0.8},
                                                            {"guidellm TPOT", 0.2},
                                                            {"guidellm ITL", 0.1},
                                                            {"aiperf TTFT", 0.4},
                                                            {"aiperf ITL", 0.15},
                                                            {"evalscope perf latency", 0.7},
                                                            {"evalscope perf TPOT", 0.25}};
  EXPECT_EQ(got, want);
}

}  // namespace
}  // namespace moecheck::harness::load
