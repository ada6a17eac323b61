#pragma once
// From the words of a command line to loads: one Point per (ISL, OSL, MC) and repeat.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "harness/load/result.h"
#include "harness/load/run.h"
#include "harness/load/workload.h"

namespace moecheck::harness::load {

// Named as in `vllm bench serve`, where it has the option.
struct Plan {
  std::string dataset = "random";  // random, prefix_repetition, trace, custom, or a task's name (gsm8k, ...)
  std::string path;                // trace, custom: the file; tasks: the folder of their data
  std::int64_t num_prompts = 1000, num_warmups = -1;  // warm-ups: -1 is one per slot, at most 32
  std::int64_t prompts_per_slot = 0;                  // instead of num_prompts: so many per max_concurrency
  std::int64_t input_len = 1024, output_len = 128, prefix_len = 0;
  std::string range_ratio = "0";  // a number, or {"input": r, "output": r}
  std::int64_t prefixes = 10, repeated_prefix_len = 256, suffix_len = 256;  // prefix_repetition
  double trace_speed = 1, trace_unit = 1e-3;
  int num_fewshot = -1;  // tasks: -1 is the task's own
  Arrivals arrivals;
  std::int64_t max_concurrency = 0;
  std::vector<SweepPoint> sweep;  // empty: one point from the fields above
  std::int64_t repeats = 1;
  std::uint64_t seed = 0;
  std::int64_t vocab_size = 0, first_id = 0;  // 0: from `tokenizer`, or what the server says
  std::string tokenizer;                      // a Hugging Face folder
};

// One run.
struct Point {
  SweepPoint at;
  std::int64_t repeat = 0;
  std::vector<LoadRequest> requests, warm_up;
  std::vector<double> due;
  std::string load_kind;
  bool fixed_lengths = false;  // ignore_eos belongs to this load
};

// Points of a plan in the order they are run: all points once, then again. The same point draws other prompts in each
// repeat, or the prefix cache would serve it. `server_vocab`: what the server says, or nothing. Throws UsageError.
std::vector<std::pair<SweepPoint, std::int64_t>> points_of(const Plan& plan);
Point make_point(const Plan& plan, const SweepPoint& at, std::int64_t repeat, http::Api api,
                 std::optional<std::int64_t> server_vocab);

// vocab_size of the first model of /v1/models, where the server tells (llama.cpp: meta.n_vocab).
std::optional<std::int64_t> ask_vocabulary(const http::Endpoint& endpoint);

// "ttft:600 tpot:150" in ms. Throws UsageError.
Objectives parse_goodput(const std::vector<std::string>& words);
std::vector<double> parse_percentiles(std::string_view text);  // "50,99". Throws UsageError

}  // namespace moecheck::harness::load
