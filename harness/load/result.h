#pragma once
// A finished load run as people and programs read it: the table of `vllm bench serve`, word for word, with what
// that table hides below it; and one JSON object with vLLM's field names, our own under the key "moecheck".
//
// Schema moecheck.bench_serve/1. vLLM's own result files are read too: what they lack is then absent.
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "harness/load/failures.h"
#include "harness/load/metrics.h"
#include "harness/load/prometheus.h"
#include "harness/load/run.h"
#include "harness/record.h"

namespace moecheck::harness::load {

// What was asked for.
struct BenchConfig {
  std::string backend = "openai";  // vLLM's word: openai (completions) or openai-chat
  std::string model, base_url, label;
  std::string dataset;    // random, prefix_repetition, trace, gsm8k, custom
  std::string load_kind;  // one line for people: "random token ids", "5-shot prompts of ..."
  std::int64_t num_prompts = 0, num_warmups = 0;
  std::int64_t input_len = 0, output_len = 0;  // as asked; 0: of the load itself
  double request_rate = std::numeric_limits<double>::infinity(), burstiness = 1;
  std::string ramp_up;
  double ramp_start = 0, ramp_end = 0;
  std::int64_t max_concurrency = 0;  // 0: no limit
  std::uint64_t seed = 0;
  std::int64_t repeat = 0;  // of the same point, from 0
  std::optional<double> temperature;
  std::optional<std::int64_t> sampling_seed;
  bool ignore_eos = false;
  std::vector<std::string> percentile_metrics = {"ttft", "tpot", "itl"};
  std::string command;  // that was run
};

struct BenchResult {
  BenchConfig config;
  LoadRun run;
  Metrics metrics;
  std::vector<Identity> identities;
  std::vector<ForeignMetric> foreign;
  std::vector<FailureGroup> failures;  // at most 5
  std::optional<CounterDelta> counters;
  std::vector<CounterCheck> counter_checks;
  std::vector<std::string> invalid;   // why the numbers must not be used; empty: valid
  std::vector<std::string> warnings;  // what a reader must know
};

// Everything from a run and the server's counters around it.
BenchResult judge_run(BenchConfig config, LoadRun run, const MetricsOptions& options,
                      const std::optional<Counters>& before, const std::optional<Counters>& after);

std::string table(const BenchResult& result);
std::string definitions(const BenchResult& result);  // the foreign metrics, one line each with its definition
// `texts`: the answers too, where the run kept them.
std::string to_json(const BenchResult& result, bool texts);

// ---- Reading back

struct SavedStatistic {
  std::string metric, statistic;  // "ttft", "p99"
  double milliseconds = 0;
};

// A saved run: the numbers a report compares, from vLLM's keys, and where it was made.
struct SavedBench {
  std::string path, date, backend, model, label, base_url, dataset, load_kind, command;
  std::int64_t num_prompts = 0, max_concurrency = 0, input_len = 0, output_len = 0, repeat = 0;
  double request_rate = std::numeric_limits<double>::infinity();
  std::int64_t completed = 0, failed = 0;
  double duration = 0, request_throughput = 0, output_throughput = 0, total_token_throughput = 0;
  std::optional<double> acceptance_rate, acceptance_length;
  std::vector<SavedStatistic> statistics;
  std::vector<double> ttfts, e2els, tpots;  // seconds, per success; empty where the file has none
  std::vector<double> itls;                 // pooled
  bool ours = false;                        // with the checks of moecheck
  std::vector<std::string> invalid, warnings;
  Environment env;  // of the client

  std::optional<double> statistic(std::string_view metric, std::string_view which) const;
};
// Of a .json file (one object, or one per line) or every .json file of a folder that is a benchmark's. Throws
// UsageError naming the file and what is missing.
std::vector<SavedBench> read_benches(const std::string& path);

}  // namespace moecheck::harness::load
