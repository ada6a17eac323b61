#pragma once
// A server's own counters, from the text that GET /metrics gives: before and after a run, and what the difference
// says. Known names: vLLM (vllm:...), which this project's server uses too, SGLang (sglang:...), llama.cpp (llamacpp:...).
//
// Traps: `_created` series are times and no counts; label values may hold any text, metric names included; a
// time stamp may follow the value; one counter has a series per engine, to be summed; SGLang's acceptance is
// a gauge of the recent past, not to be differenced.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moecheck::harness::load {

struct Sample {
  std::string name;
  std::vector<std::pair<std::string, std::string>> labels;  // unescaped
  double value = 0;
};

// Lines that are no samples (comments, garbage) are skipped. Format: prometheus text exposition 0.0.4.
std::vector<Sample> parse_prometheus(std::string_view text);

enum class ServerKind : std::uint8_t { kUnknown, kVllm, kSglang, kLlamaCpp };
std::string_view name(ServerKind kind);

// Counters of one moment; nullopt where the server has none of that name.
struct Counters {
  ServerKind kind = ServerKind::kUnknown;
  std::optional<double> prompt_tokens, generation_tokens, requests_succeeded;
  std::optional<double> drafts, draft_tokens, accepted_tokens;
  std::vector<double> accepted_per_position;
  std::optional<double> prefix_queries, prefix_hits;  // tokens looked up and found
  std::optional<double> gauge_accept_length, gauge_accept_rate, gauge_cache_hit_rate;  // SGLang, recent past
  std::optional<double> process_start;  // process_start_time_seconds: changed means restarted
};
Counters read_counters(std::string_view metrics_text);

struct CounterDelta {
  ServerKind kind = ServerKind::kUnknown;
  bool restarted = false;  // a counter went down or the process is another: the differences mean nothing
  std::optional<double> prompt_tokens, generation_tokens, requests_succeeded;
  std::optional<double> drafts, draft_tokens, accepted_tokens;
  std::vector<double> accepted_per_position;
  std::optional<double> prefix_queries, prefix_hits;
  std::optional<double> gauge_accept_length, gauge_accept_rate, gauge_cache_hit_rate;  // as they were after

  std::optional<double> acceptance_rate() const;        // percent: 100 accepted / draft tokens
  std::optional<double> acceptance_length() const;      // 1 + accepted / drafts: the bonus token counts
  std::vector<double> acceptance_per_position() const;  // accepted_i / drafts, in [0, 1]
  std::optional<double> prefix_hit_rate() const;        // in [0, 1]
};
CounterDelta difference(const Counters& before, const Counters& after);

// Client sums beside the server's counters. `holds`: within the tolerance, which allows what happened
// on the server beside this run only if the caller says so.
struct CounterCheck {
  std::string what;
  double client = 0, server = 0;
  bool holds = false;
};
std::vector<CounterCheck> check_counters(const CounterDelta& delta, std::int64_t prompt_tokens,
                                         std::int64_t output_tokens, std::int64_t requests);

}  // namespace moecheck::harness::load
