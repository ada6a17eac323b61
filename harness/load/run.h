#pragma once
// One load run against a live endpoint: requests sent on an absolute schedule by one thread, each timed event by
// event; and whether that thread could keep up, without which the numbers describe the client.
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "harness/http/openai.h"
#include "harness/load/metrics.h"
#include "harness/load/prometheus.h"
#include "harness/load/workload.h"

namespace moecheck::harness::load {

struct Target {
  http::Endpoint endpoint;
  http::Api api = http::Api::kCompletions;
  std::string model;
  bool ignore_eos = true;                 // servers that do not know the field ignore it: lengths are checked
  std::optional<double> temperature = 0;  // sent explicitly: a server's default may sample
  std::optional<std::int64_t> seed = 0;
  bool continuous_usage = false;  // exact token times from vLLM and from servers that follow it
  std::string extra_body;         // a JSON object merged over each request
  http::Limits limits;            // per request
};

struct LoadOptions {
  std::int64_t max_concurrency = 0;  // requests in flight; 0: no limit
  bool keep_text = false;
  std::function<void(std::int64_t done, std::int64_t failed)> on_progress;  // at most ten times a second
};

// How the client itself did. Lag: how long after it could have been sent (due, and a slot free) a request was. Loop
// lag: how late a timer set every 5 ms fired, which is how late an arrival may be seen.
struct Honesty {
  Summary lag, loop_lag;  // seconds; p50 and p99
  double busy = 0;        // share of the time the thread was not waiting in the kernel
  double cpu = 0;         // share of one core it used; below busy when the machine was short of cores
  double cpu_seconds = 0;
  std::int64_t connections = 0;
  std::vector<std::string>
      broken;  // why the numbers are the client's and not the server's; empty: they stand
};
// The limits: busy at most 90%; 99% of lags and of loop lags at most 5 ms or 5% of the median TTFT, whichever is more.
std::vector<std::string> judge_honesty(const Honesty& honesty, const Metrics& metrics);

struct LoadRun {
  std::vector<RequestRecord> records;  // in order of `requests`
  double duration = 0;                 // seconds, the first request due .. last result
  double started_unix = 0;
  Honesty honesty;
};

// Requests must be in order of `due`, which are seconds from the start, one per request. Nothing is retried: a load
// test counts failures. Throws UsageError for what request_body() refuses.
LoadRun run_load(const Target& target, const std::vector<LoadRequest>& requests,
                 const std::vector<double>& due, const LoadOptions& options);

// GET /metrics of the endpoint; nullopt where it has none.
std::optional<Counters> scrape(const http::Endpoint& endpoint);

}  // namespace moecheck::harness::load
