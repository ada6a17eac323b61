// Load runs against a server that keeps exact time, and what is written down of them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <thread>

#include "canned_server.h"
#include "harness/case.h"
#include "harness/json.h"
#include "harness/load/result.h"
#include "harness/load/run.h"

namespace moecheck::harness::load {
namespace {

using Json = nlohmann::json;

Target target_of(const CannedServer& server) {
  Target t;
  t.endpoint = http::parse_endpoint(server.url());
  t.model = "m";
  t.limits.total_s = 20;
  return t;
}

std::vector<LoadRequest> load_of(std::int64_t count, std::int64_t output = 4) {
  return random_load({count, 16, output, 0, 0, 0, 0}, make_vocabulary(256, 0, {}));
}

LoadRun closed(const Target& target, const std::vector<LoadRequest>& load, std::int64_t at_once) {
  LoadOptions options;
  options.max_concurrency = at_once;
  return run_load(target, load, std::vector<double>(load.size(), 0.0), options);
}

BenchResult judged(LoadRun run, std::int64_t at_once, std::optional<Counters> before = {},
                   std::optional<Counters> after = {}) {
  BenchConfig c;
  c.model = "m";
  c.max_concurrency = at_once;
  c.num_prompts = std::ssize(run.records);
  c.input_len = 16;
  c.output_len = 4;
  c.ignore_eos = true;
  c.command = "moecheck bench serve --endpoint x";
  return judge_run(c, std::move(run), {{50, 99}, {}}, before, after);
}

bool says(const std::vector<std::string>& all, std::string_view words) {
  return std::any_of(all.begin(), all.end(),
                     [&](const std::string& s) { return s.find(words) != std::string::npos; });
}

TEST(LoadRun, MeasuresTheServersDelays) {
  const CannedServer server({.first_us = 40'000, .gap_us = 10'000});
  const BenchResult r = judged(closed(target_of(server), load_of(24, 8), 6), 6);
  EXPECT_EQ(r.metrics.completed, 24);
  EXPECT_GE(r.metrics.ttft.min, 0.0399);
  EXPECT_LT(r.metrics.ttft.median, 0.050);
  EXPECT_NEAR(r.metrics.tpot.median, 0.010, 0.002);
  EXPECT_EQ(r.metrics.itl.count, 24 * 7);
  EXPECT_LE(r.metrics.peak_concurrency, 6);
  EXPECT_EQ(r.metrics.exact_token_times, 24);
  EXPECT_EQ(r.metrics.length_mismatches + r.metrics.prompt_mismatches + r.metrics.unknown_lengths, 0);
}

TEST(LoadRun, SendsWhatMakesRunsComparable) {
  CannedServer server({});
  server.keep_bodies();
  (void)closed(target_of(server), load_of(2), 1);
  const auto bodies = server.bodies();
  ASSERT_EQ(bodies.size(), 2u);
  const Json j = Json::parse(bodies[0]);
  EXPECT_EQ(j["temperature"], 0);
  EXPECT_EQ(j["seed"], 0);
  EXPECT_EQ(j["ignore_eos"], true);
  EXPECT_EQ(j["max_tokens"], 4);
  EXPECT_EQ(j["stream"], true);
  EXPECT_EQ(j["stream_options"]["include_usage"], true);
  EXPECT_EQ(j["prompt"].get<std::vector<int>>().size(), 16u);  // ids, not text
}

TEST(LoadRun, AnOpenLoopKeepsItsScheduleWhateverTheServerDoes) {
  const CannedServer server({.first_us = 150'000});
  std::vector<double> due;
  for (int i = 0; i < 40; ++i) due.push_back(0.01 * (i + 1));
  const LoadRun run = run_load(target_of(server), load_of(40), due, {});
  for (const RequestRecord& r : run.records) {
    EXPECT_GE(r.start, r.due);
    EXPECT_LT(r.start - r.due, 0.1) << "sent late";
  }
  EXPECT_GE(judged(run, 0).metrics.peak_concurrency, 10) << "150 ms of answers, one every 10 ms";
  EXPECT_NEAR(run.duration, 0.55, 0.1);
}

TEST(LoadRun, WaitingForASlotIsQueueTimeAndNotLatency) {
  const CannedServer server({.first_us = 50'000});
  LoadOptions options;
  options.max_concurrency = 1;
  const LoadRun run = run_load(target_of(server), load_of(4), {0, 0.001, 0.002, 0.003}, options);
  EXPECT_GT(run.records[3].queue_time(), 0.14);
  EXPECT_LT(run.records[3].ttft(), 0.09);
  BenchResult r = judged(run, 1);
  EXPECT_GT(r.metrics.e2el_with_queue.max, 0.19);
  EXPECT_LT(r.run.honesty.lag.median, 0.02) << "a request that waits for a slot is not late";
}

TEST(LoadRun, FailuresAreCountedAndInNoLatency) {
  const CannedServer server({.first_us = 1000, .gap_us = 1000, .fail_every = 5, .cut_every = 7});
  const BenchResult r = judged(closed(target_of(server), load_of(35), 4), 4);
  EXPECT_EQ(r.metrics.failed, 7 + 4);  // 35/5, 35/7 less the one that is both
  EXPECT_EQ(r.metrics.ttft.count, 24);
  EXPECT_TRUE(says(r.warnings, "11 of 35 requests failed"));
  const auto cut = std::find_if(r.run.records.begin(), r.run.records.end(),
                                [](const RequestRecord& x) { return !x.success && x.http_status == 200; });
  ASSERT_NE(cut, r.run.records.end()) << "a stream without its end is no success";
  EXPECT_EQ(std::count_if(r.run.records.begin(), r.run.records.end(),
                          [](const RequestRecord& x) { return x.http_status == 503; }),
            7);
}

// What transformers' server does: counted and said, not a failure. Without HTTP's end too it is one.
TEST(LoadRun, StreamsWithoutDoneAreWholeAndCounted) {
  const CannedServer server({.no_done_every = 3}), torn({.torn_every = 4});
  const BenchResult r = judged(closed(target_of(server), load_of(12), 4), 4);
  EXPECT_EQ(r.metrics.failed, 0);
  EXPECT_EQ(r.metrics.missing_done, 4);
  EXPECT_TRUE(says(r.warnings, "4 streams ended without [DONE]"));
  EXPECT_EQ(Json::parse(to_json(r, false))["moecheck"]["missing_done"], 4);
  const BenchResult t = judged(closed(target_of(torn), load_of(12), 4), 4);
  EXPECT_EQ(t.metrics.failed, 3);
  EXPECT_EQ(t.metrics.missing_done, 0);
  EXPECT_FALSE(says(t.warnings, "[DONE]"));
}

TEST(LoadRun, FailuresAreToldByReason) {
  const CannedServer server({.first_us = 1000, .gap_us = 1000, .fail_every = 3, .cut_every = 8});
  const BenchResult r = judged(closed(target_of(server), load_of(16), 4), 4);
  ASSERT_EQ(r.failures.size(), 2u);
  EXPECT_EQ(r.failures[0].count, 5);
  EXPECT_EQ(r.failures[0].reason, "server-error: status 503: too many here");
  EXPECT_EQ(r.failures[1].count, 2);
  const std::string t = table(r);
  EXPECT_NE(t.find("failed: 5 x server-error: status 503: too many here (first: request "), std::string::npos)
      << t;
  const Json j = Json::parse(to_json(r, false))["moecheck"]["failures"];
  ASSERT_EQ(j.size(), 2u);
  EXPECT_EQ(j[0]["count"], 5);
  EXPECT_EQ(j[0]["reason"], r.failures[0].reason);
  EXPECT_EQ(j[0]["first_request"], r.failures[0].first);
}

TEST(LoadFailures, AreGroupedByWhatStaysTheSame) {
  std::vector<RequestRecord> records;
  const auto add = [&](int status, const std::string& error) {
    RequestRecord r;
    r.index = std::ssize(records);
    r.http_status = status;
    r.success = error.empty();
    r.error = error;
    records.push_back(r);
  };
  add(200, "");
  add(200, "cut-short: the stream ended without [DONE], after 3 chunks");
  add(429, "rate-limited: status 429: request 5f3a-77 waits");
  add(200, "cut-short: the stream ended without [DONE], after 65 chunks");
  add(429, "rate-limited: status 429: request a1b2-8 waits");
  add(200, "cut-short: the stream ended without [DONE], after 4 chunks");
  add(503, "server-error: status 503");
  add(500, "server-error: status 500");
  const auto all = failure_groups(records);
  ASSERT_EQ(all.size(), 4u);
  EXPECT_EQ(all[0].count, 3);
  EXPECT_EQ(all[0].first, 1);
  EXPECT_EQ(all[0].reason, records[1].error);
  EXPECT_EQ(all[1].count, 2);
  EXPECT_EQ(all[2].reason, "server-error: status 503");
  const auto few = failure_groups(records, 3);
  ASSERT_EQ(few.size(), 3u);
  EXPECT_EQ(few[2].reason, "of 2 other kinds");
  EXPECT_EQ(few[2].count, 2);
  EXPECT_TRUE(failure_groups(std::span(records).first(1)).empty());
}

TEST(LoadRun, NothingThereIsInvalidNotACrash) {
  std::string url;
  {
    const CannedServer gone({});
    url = gone.url();
  }
  Target t;
  t.endpoint = http::parse_endpoint(url);
  t.model = "m";
  const BenchResult r = judged(closed(t, load_of(3), 2), 2);
  EXPECT_EQ(r.metrics.failed, 3);
  EXPECT_TRUE(says(r.invalid, "no request succeeded"));
}

TEST(LoadRun, ShortAnswersAndMissingUsageAreNamed) {
  const CannedServer shorter({.short_by = 1}), silent({.usage = false});
  EXPECT_TRUE(
      says(judged(closed(target_of(shorter), load_of(5), 1), 1).warnings, "5 answers have another length"));
  const BenchResult r = judged(closed(target_of(silent), load_of(5), 1), 1);
  EXPECT_TRUE(says(r.warnings, "no usage for 5 requests"));
  EXPECT_EQ(r.metrics.total_output, 5);
}

TEST(LoadRun, ServerCountersAreChecked) {
  for (const std::int64_t extra : {0, 3}) {
    const CannedServer server({.extra_counted = extra});
    const Target t = target_of(server);
    const auto before = scrape(t.endpoint);
    ASSERT_TRUE(before);
    LoadRun run = closed(t, load_of(10), 2);
    const BenchResult r = judged(std::move(run), 2, before, scrape(t.endpoint));
    ASSERT_EQ(r.counter_checks.size(), 3u);
    EXPECT_EQ(says(r.warnings, "the server counted 43 output tokens, the client 40"), extra == 3);
    EXPECT_EQ(says(r.warnings, "the server counted"), extra == 3);
  }
}

TEST(LoadRun, SpeculativeEventsHaveExactTokenTimesWithContinuousUsage) {
  const CannedServer server(
      {.first_us = 1000, .gap_us = 2000, .tokens_per_event = 3, .role = true, .continuous_usage = true});
  const BenchResult r = judged(closed(target_of(server), load_of(6, 9), 2), 2);
  EXPECT_EQ(r.metrics.exact_token_times, 6);
  EXPECT_EQ(r.metrics.token_gap.count, 6 * 6) << "the first event with tokens has no gap before it";
  EXPECT_NEAR(r.metrics.token_gap.mean, 0.002 / 3, 0.0004);
  const CannedServer untold({.first_us = 1000, .gap_us = 2000, .tokens_per_event = 3});
  EXPECT_EQ(judged(closed(target_of(untold), load_of(6, 9), 2), 2).metrics.exact_token_times, 0);
}

TEST(Honesty, AClientThatStallsSaysSo) {
  const CannedServer server({.first_us = 1000});
  std::vector<double> due;
  for (int i = 0; i < 300; ++i) due.push_back(0.002 * i);
  LoadOptions options;
  options.on_progress = [](std::int64_t, std::int64_t) {
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
  };
  const BenchResult r = judged(run_load(target_of(server), load_of(300), due, options), 0);
  EXPECT_TRUE(says(r.invalid, "ms late"));
  EXPECT_NE(table(r).find("INVALID: "), std::string::npos);
}

TEST(Honesty, AClientThatIsTheLimitSaysSo) {
  const CannedServer server({});
  const BenchResult r = judged(closed(target_of(server), load_of(3000), 64), 64);
  EXPECT_EQ(r.metrics.completed, 3000);
  Honesty busy;
  busy.busy = 0.95;
  EXPECT_TRUE(says(judge_honesty(busy, r.metrics), "busy 95%"));
  busy.busy = 0.5;
  EXPECT_TRUE(judge_honesty(busy, r.metrics).empty());
}

// ---- What is written

TEST(LoadResult, TheTableHasVllmsWords) {
  const CannedServer server({.first_us = 2000, .gap_us = 1000});
  const std::string t = table(judged(closed(target_of(server), load_of(6), 2), 2));
  for (const std::string_view line :
       {"============ Serving Benchmark Result ============\n",
        "Successful requests:                     6         \n",
        "Maximum request concurrency:             2         \n",
        "---------------Time to First Token----------------\n",
        "-----Time per Output Token (excl. 1st token)------\n",
        "---------------Inter-token Latency----------------\n",
        "P99 ITL (ms): ", "Total input tokens:                      96        \n",
        "Total generated tokens:                  24        \n",
        "Output token throughput (tok/s): ", "Peak concurrent requests: "})
    EXPECT_NE(t.find(line), std::string::npos) << line << "\n" << t;
}

// Independently of metrics.cpp, from the saved arrays alone.
TEST(LoadResult, TheSavedArraysGiveTheSavedNumbers) {
  const CannedServer server({.first_us = 2000, .gap_us = 1000, .fail_every = 6});
  const BenchResult r = judged(closed(target_of(server), load_of(20), 3), 3);
  const Json j = Json::parse(to_json(r, false));
  double ttft = 0, output = 0, latency = 0;
  int n = 0;
  std::vector<double> gaps;
  for (std::size_t i = 0; i < j["ttfts"].size(); ++i) {
    if (j["errors"][i] != "") continue;
    ++n;
    ttft += j["ttfts"][i].get<double>();
    output += j["output_lens"][i].get<double>();
    double sum = j["ttfts"][i].get<double>();
    for (const auto& gap : j["itls"][i]) gaps.push_back(gap.get<double>()), sum += gap.get<double>();
    EXPECT_NEAR(sum, j["latencies"][i].get<double>(), 1e-9);
    latency += sum;
  }
  std::sort(gaps.begin(), gaps.end());
  EXPECT_EQ(n, j["completed"]);
  EXPECT_EQ(j["failed"], 3);
  EXPECT_NEAR(j["mean_ttft_ms"].get<double>(), 1e3 * ttft / n, 1e-6);
  EXPECT_NEAR(j["mean_e2el_ms"].get<double>(), 1e3 * latency / n, 1e-6);
  EXPECT_NEAR(j["output_throughput"].get<double>(), output / j["duration"].get<double>(), 1e-6);
  const double h = 0.5 * static_cast<double>(gaps.size() - 1);
  EXPECT_NEAR(
      j["median_itl_ms"].get<double>(),
      500 * (gaps[static_cast<std::size_t>(std::floor(h))] + gaps[static_cast<std::size_t>(std::ceil(h))]),
      1e-6);
  for (const char* key : {"date", "endpoint_type", "backend", "model_id", "num_prompts", "request_rate",
                          "burstiness", "max_concurrency", "total_input_tokens", "request_throughput",
                          "total_token_throughput", "std_tpot_ms", "p99_itl_ms", "start_times",
                          "max_output_tokens_per_s", "max_concurrent_requests", "input_lens"})
    EXPECT_TRUE(j.contains(key)) << key;
  EXPECT_EQ(j["request_rate"], "inf");
  EXPECT_EQ(j["moecheck"]["asked"]["command"], "moecheck bench serve --endpoint x");
}

TEST(LoadResult, IsReadBack) {
  const CannedServer server({.first_us = 2000, .gap_us = 1000, .fail_every = 6});
  const BenchResult r = judged(closed(target_of(server), load_of(20), 3), 3);
  const std::string folder =
      std::filesystem::temp_directory_path() / ("bench_read_" + std::to_string(::getpid()));
  std::filesystem::create_directory(folder);
  std::ofstream(folder + "/a.json") << to_json(r, false) << "\n"
                                    << to_json(r, true) << "\n";  // as --append-result leaves it
  std::ofstream(folder + "/other.json") << "{\"x\": 1}";
  std::ofstream(folder + "/vllm.json")
      << R"({"date":"20260101-000000","endpoint_type":"vllm","model_id":"GLM","num_prompts":40,"request_rate":"inf","max_concurrency":4,)"
         R"("duration":10.0,"completed":40,"total_input_tokens":40000,"total_output_tokens":4000,"output_throughput":400.0,)"
         R"("mean_ttft_ms":101.5,"p99_ttft_ms":200,"spec_decode_acceptance_rate":70.0})";
  const auto all = read_benches(folder);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].ttfts.size(), 17u);
  EXPECT_NEAR(all[0].statistic("ttft", "mean").value(), 1e3 * r.metrics.ttft.mean, 1e-9);
  EXPECT_EQ(all[0].itls.size(), 17u * 3);
  EXPECT_EQ(all[0].command, "moecheck bench serve --endpoint x");
  EXPECT_EQ(all[0].max_concurrency, 3);
  EXPECT_EQ(all[2].input_len, 1000);
  EXPECT_EQ(all[2].statistic("ttft", "p99").value(), 200);
  EXPECT_EQ(all[2].acceptance_rate.value(), 70);
  EXPECT_FALSE(all[2].ours);
  EXPECT_THROW((void)read_benches(folder + "/other.json"), UsageError);
  EXPECT_THROW((void)read_benches(folder + "/none.json"), UsageError);
  std::ofstream(folder + "/broken.json") << "{\n  \"completed\": 4,\n  \"duration\" 3\n}\n";
  std::ofstream(folder + "/lines.json") << to_json(r, false) << "\n{\"completed\": 4,\n";
  const auto why = [](const std::string& path) -> std::string {
    try {
      (void)read_benches(path);
    } catch (const UsageError& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_TRUE(why(folder + "/broken.json").starts_with(folder + "/broken.json:3: not JSON: "))
      << why(folder + "/broken.json");
  EXPECT_TRUE(why(folder + "/lines.json").starts_with(folder + "/lines.json:2: not JSON: "))
      << why(folder + "/lines.json");
  EXPECT_EQ(read_benches(folder).size(), 4u) << "in a folder, what is readable counts";
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace moecheck::harness::load
