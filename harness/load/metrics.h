#pragma once
// What a load run measured: from the times of each request's events to the numbers of `vllm bench serve`, with
// the same names and definitions (vllm: vllm/benchmarks/serve.py, calculate_metrics), and beside them what those
// numbers hide. Pure functions of records; all times are seconds on one monotonic clock unless a name says _ms.
//
//   TTFT   first event with a non-empty `choices` list - start (its text may be empty)
//   ITL    gaps between the later events: one per EVENT, not per token; pooled over requests
//   E2EL   last such event - start (the usage event and [DONE] do not count)
//   TPOT   (E2EL - TTFT) / (output tokens - 1), requests with more than one output token only
//   start  just before the request is handed to the transport, and after the wait for a free slot
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace moecheck::harness::load {

// One event of a stream with a non-empty `choices` list.
struct Event {
  double at = 0;             // since the request's start
  std::int32_t tokens = -1;  // output tokens so far, where the server says (usage in each event, token ids)
  bool content = false;      // carries text, content or reasoning: a role or an empty delta is no token
  bool new_read = true;      // the first event of its socket read
};

struct RequestRecord {
  std::int64_t index = 0;
  bool success = false;
  std::string error;                      // why it is no success
  std::string finish_reason;              // "stop", "length", ..., empty when the server gave none
  int http_status = 0;                    // 0: no answer came
  double due = 0;                         // when the schedule wanted it sent, since the run's start
  double start = 0;                       // when it was sent, since the run's start
  double end = 0;                         // when the transport was done with it, since the run's start
  double last_message = 0;                // of any data event, usage included, since start; 0: none
  double done = 0;                        // the last byte read, [DONE] as a rule, since start; 0: none came
  bool missing_done = false;              // whole by its finish_reason and HTTP's end, but [DONE] never came
  std::vector<Event> events;              // in order
  std::int64_t asked_prompt_tokens = -1;  // of the prompt as generated; -1 where only a server can count them
  std::int64_t asked_output_tokens = 0;   // max_tokens
  std::int64_t prompt_tokens = -1;        // usage; -1: the server did not say
  std::int64_t output_tokens = -1;        // usage, the largest seen; -1: the server did not say
  std::int64_t cached_tokens = -1;        // usage.prompt_tokens_details; -1: the server did not say
  std::string text;                       // kept only on request

  double ttft() const { return events.empty() ? 0 : events.front().at; }
  double latency() const { return events.empty() ? 0 : events.back().at; }
  double queue_time() const { return start - due; }  // waiting for a free slot, and schedule lag
  // vLLM's rule: usage, else (no tokenizer here) 1.
  std::int64_t output_length() const { return output_tokens > 0 ? output_tokens : 1; }
  std::int64_t prompt_length() const {
    return prompt_tokens >= 0 ? prompt_tokens : asked_prompt_tokens >= 0 ? asked_prompt_tokens : 0;
  }
};

// Population deviation (ddof 0) and numpy's linear percentiles: h = (n-1)p/100, between the neighbours of h.
struct Summary {
  std::int64_t count = 0;
  double mean = 0, median = 0, std = 0, min = 0, max = 0;
  std::vector<std::pair<double, double>> percentiles;  // p, value
};
double mean_of(std::span<const double> values);               // 0 of an empty span
double percentile(std::span<const double> sorted, double p);  // 0 of an empty span, as vLLM prints it
Summary summarize(std::vector<double> values, std::span<const double> percentiles);

// Limits a good request meets (<=), in seconds.
struct Objectives {
  std::optional<double> ttft, tpot, e2el;
  bool any() const { return ttft || tpot || e2el; }
};

struct MetricsOptions {
  std::vector<double> percentiles = {99};
  Objectives goodput;
};

struct Metrics {
  double duration = 0;  // first request due .. last result, failures included
  std::int64_t completed = 0, failed = 0;
  std::int64_t total_input = 0, total_output = 0;
  double request_throughput = 0, output_throughput = 0, total_token_throughput = 0;  // per second
  std::optional<double> request_goodput;
  std::int64_t peak_concurrency = 0;    // over [start, end) of successes; departures first at ties
  double mean_concurrency = 0;          // sum of E2EL / duration
  double peak_output_events_per_s = 0;  // vLLM's max_output_tokens_per_s: one-second buckets of EVENTS
  std::optional<double> peak_output_tokens_per_s;  // the same buckets of tokens, where each event's are known
  Summary ttft, tpot, itl, e2el, queue, e2el_with_queue;
  Summary time_to_first_content;  // first event that carries text
  // Gaps by what ends them. itl above has one per event. token_gap: each gap shared by the tokens it brought,
  // only from requests where these are known. read_gap: between socket reads, whatever number of events each held.
  Summary token_gap, read_gap;
  std::int64_t events = 0,
               coalesced = 0;          // later events, and those that came in one read with the one before
  std::int64_t exact_token_times = 0;  // successes whose tokens per event are known
  std::int64_t length_mismatches = 0;  // successes with another number of output tokens than asked
  std::int64_t prompt_mismatches = 0;  // the server counted another number of prompt tokens
  std::int64_t unknown_lengths = 0;    // successes without usage: their output counts as 1 token
  std::int64_t missing_done = 0;       // successes whose stream ended without [DONE]
  std::int64_t cached_tokens = 0;      // of usage, where the server says
};

Metrics calculate(std::span<const RequestRecord> records, double duration, const MetricsOptions& options);

// Tokens that each event brought, from the server's running counts, or 1 each where the total equals the
// number of events with content; empty where neither is known.
std::vector<std::int64_t> tokens_per_event(const RequestRecord& record);

// ---- Checks that hold for any honest run: a broken one means that the numbers are not what they are called.

struct Identity {
  std::string name, formula;
  double left = 0, right = 0;
  bool holds = false;
};
// max_concurrency 0: open loop without a limit. closed_loop: infinite request rate.
std::vector<Identity> identities(std::span<const RequestRecord> records, const Metrics& metrics,
                                 std::int64_t max_concurrency, bool closed_loop);

// ---- The same words mean other things in other tools. Each with its definition, from the same records.

struct ForeignMetric {
  std::string tool, name, definition;
  Summary seconds;
};
std::vector<ForeignMetric> foreign_metrics(std::span<const RequestRecord> records,
                                           std::span<const double> percentiles);

}  // namespace moecheck::harness::load
