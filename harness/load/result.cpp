// Judging a run, and its table.
#include "harness/load/result.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "harness/text.h"

namespace moecheck::harness::load {
namespace {

constexpr int kWide = 50;

void rule(std::string& out, std::string_view title, char c) {
  fmt::format_to(std::back_inserter(out), "{}\n",
                 title.empty() ? std::string(kWide, c)
                 : c == '='    ? fmt::format("{:=^50}", title)
                               : fmt::format("{:-^50}", title));
}

void line(std::string& out, std::string_view name, std::int64_t n) {
  fmt::format_to(std::back_inserter(out), "{:<40} {:<10}\n", name, n);
}
void line(std::string& out, std::string_view name, double v) {
  fmt::format_to(std::back_inserter(out), "{:<40} {:<10.2f}\n", name, v);
}

std::string percentile_word(double p) {
  return p == std::floor(p) ? fmt::format("{:.0f}", p) : fmt::format("{}", p);
}

void block(std::string& out, std::string_view title, std::string_view name, const Summary& s) {
  rule(out, title, '-');
  line(out, fmt::format("Mean {} (ms):", name), 1e3 * s.mean);
  line(out, fmt::format("Median {} (ms):", name), 1e3 * s.median);
  for (const auto& [p, v] : s.percentiles)
    line(out, fmt::format("P{} {} (ms):", percentile_word(p), name), 1e3 * v);
}

bool wants(const BenchConfig& c, std::string_view metric) {
  return std::find(c.percentile_metrics.begin(), c.percentile_metrics.end(), metric) !=
         c.percentile_metrics.end();
}

void latency_blocks(std::string& out, const BenchResult& r) {
  const Metrics& m = r.metrics;
  if (wants(r.config, "ttft")) block(out, "Time to First Token", "TTFT", m.ttft);
  if (wants(r.config, "tpot")) block(out, "Time per Output Token (excl. 1st token)", "TPOT", m.tpot);
  if (wants(r.config, "itl")) block(out, "Inter-token Latency", "ITL", m.itl);
  if (wants(r.config, "e2el")) block(out, "End-to-end Latency", "E2EL", m.e2el);
  if (r.config.max_concurrency > 0 && !std::isinf(r.config.request_rate)) {
    block(out, "Client-side Queueing", "Client Queue Time", m.queue);
    block(out, "Queue-inclusive End-to-end Latency", "E2EL incl. Client Queue", m.e2el_with_queue);
  }
}

void speculation_block(std::string& out, const CounterDelta& d) {
  if (const auto rate = d.acceptance_rate()) {
    rule(out, "Speculative Decoding", '-');
    line(out, "Acceptance rate (%):", *rate);
    line(out, "Acceptance length:", d.acceptance_length().value_or(0));
    line(out, "Drafts:", std::lround(d.drafts.value_or(0)));
    line(out, "Draft tokens:", std::lround(*d.draft_tokens));
    line(out, "Accepted tokens:", std::lround(*d.accepted_tokens));
    const auto positions = d.acceptance_per_position();
    if (!positions.empty()) out += "Per-position acceptance (%):\n";
    for (std::size_t i = 0; i < positions.size(); ++i)
      line(out, fmt::format("  Position {}:", i), 100 * positions[i]);
  } else if (d.gauge_accept_length) {
    rule(out, "Speculative Decoding", '-');
    line(out, "Acceptance length, recent (gauge):", *d.gauge_accept_length);
  }
}

double p99_of(const Summary& s) {
  for (const auto& [p, v] : s.percentiles)
    if (p == 99) return v;
  return s.max;
}

void truth_block(std::string& out, const BenchResult& r) {
  const Metrics& m = r.metrics;
  rule(out, "What the above hides", '-');
  if (m.events > 0) {
    line(out, "Mean gap between socket reads (ms):", 1e3 * m.read_gap.mean);
    if (m.token_gap.count > 0 && m.exact_token_times == m.completed)
      line(out, "Mean gap between tokens (ms):", 1e3 * m.token_gap.mean);
    line(out, "Events that shared a read (%):",
         100.0 * static_cast<double>(m.coalesced) / static_cast<double>(m.events));
  }
  if (m.time_to_first_content.count > 0 && m.time_to_first_content.mean > 1.0001 * m.ttft.mean)
    line(out, "Mean time to first content (ms):", 1e3 * m.time_to_first_content.mean);
  if (m.peak_output_tokens_per_s && *m.peak_output_tokens_per_s != m.peak_output_events_per_s)
    line(out, "Peak tokens, not events (tok/s):", *m.peak_output_tokens_per_s);
  line(out, "Mean concurrent requests:", m.mean_concurrency);
  if (r.counters && r.counters->prefix_hit_rate())
    line(out, "Prefix cache hits (%):", 100 * *r.counters->prefix_hit_rate());
  const Honesty& h = r.run.honesty;
  line(out, "Client busy (% of one thread):", 100 * h.busy);
  line(out, "Client CPU per request (us):",
       m.completed == 0 ? 0 : 1e6 * h.cpu_seconds / static_cast<double>(m.completed));
  line(out, "P99 send lag (ms):", 1e3 * p99_of(h.lag));
  line(out, "P99 loop lag (ms):", 1e3 * p99_of(h.loop_lag));
}

void add_warnings(BenchResult& r) {
  const Metrics& m = r.metrics;
  const auto say = [&](std::int64_t n, std::string text) {
    if (n > 0) r.warnings.push_back(std::move(text));
  };
  say(m.failed, fmt::format("{} of {} requests failed and are in no latency", grouped(m.failed),
                            grouped(m.completed + m.failed)));
  if (r.config.ignore_eos)
    say(m.length_mismatches,
        fmt::format(
            "{} {} another length than asked although ignore_eos was sent: throughput and TPOT are not "
            "those of this load",
            count(m.length_mismatches, "answer"), m.length_mismatches == 1 ? "has" : "have"));
  say(m.prompt_mismatches, fmt::format("the server counted another number of prompt tokens for {}",
                                       count(m.prompt_mismatches, "request")));
  say(m.unknown_lengths, fmt::format("the server sent no usage for {}: their output counts as 1 token",
                                     count(m.unknown_lengths, "request")));
  say(m.missing_done,
      fmt::format("{} ended without [DONE], which OpenAI's protocol requires: taken as whole, since a "
                  "finish_reason came and HTTP ended in order",
                  count(m.missing_done, "stream")));
  say(m.events > 0 && 2 * m.coalesced > m.events,
      "more than half of the events came in one read with the one before: ITL is about reads, not tokens");
  say(m.completed > 0 && m.token_gap.count > 0 && m.events > 0 && m.exact_token_times == m.completed &&
          m.token_gap.count > 11 * m.events / 10,
      "events carry several tokens: ITL is per event, the gap between tokens is below it");
  if (std::isinf(r.config.request_rate) && r.config.max_concurrency > 0 && r.config.ramp_up.empty())
    r.warnings.push_back(
        "closed loop: a slow server slows the load, so tails are smaller than under independent arrivals");
  if (r.counters && r.counters->restarted)
    r.warnings.push_back("the server restarted during the run, or its counters went back: no counters");
  for (const CounterCheck& c : r.counter_checks)
    if (!c.holds && !(r.counters && r.counters->restarted))
      r.warnings.push_back(
          fmt::format("the server counted {:.0f} {}, the client {:.0f}: something else used the server, or "
                      "one of them miscounts",
                      c.server, c.what, c.client));
}

}  // namespace

BenchResult judge_run(BenchConfig config, LoadRun run, const MetricsOptions& options,
                      const std::optional<Counters>& before, const std::optional<Counters>& after) {
  BenchResult r;
  r.config = std::move(config);
  r.run = std::move(run);
  r.metrics = calculate(r.run.records, r.run.duration, options);
  const bool closed =
      std::isinf(r.config.request_rate) && r.config.ramp_up.empty() && r.config.dataset != "trace";
  r.identities = identities(r.run.records, r.metrics, r.config.max_concurrency, closed);
  r.foreign = foreign_metrics(r.run.records, options.percentiles);
  r.failures = failure_groups(r.run.records);
  r.invalid = judge_honesty(r.run.honesty, r.metrics);
  if (r.metrics.completed == 0) r.invalid.push_back("no request succeeded");
  for (const Identity& i : r.identities)
    if (!i.holds)
      r.invalid.push_back(fmt::format("{} does not hold: {:.6g} against {:.6g}", i.formula, i.left, i.right));
  if (before && after) {
    r.counters = difference(*before, *after);
    // llama.cpp counts prompt tokens that were computed, the others those that were asked.
    const std::int64_t cached = r.counters->kind == ServerKind::kLlamaCpp ? r.metrics.cached_tokens : 0;
    if (r.metrics.unknown_lengths == 0 && r.metrics.failed == 0)
      r.counter_checks = check_counters(*r.counters, r.metrics.total_input - cached, r.metrics.total_output,
                                        r.metrics.completed);
  }
  add_warnings(r);
  return r;
}

std::string table(const BenchResult& r) {
  const Metrics& m = r.metrics;
  std::string out;
  rule(out, " Serving Benchmark Result ", '=');
  line(out, "Successful requests:", m.completed);
  line(out, "Failed requests:", m.failed);
  if (r.config.max_concurrency > 0) line(out, "Maximum request concurrency:", r.config.max_concurrency);
  if (!std::isinf(r.config.request_rate)) line(out, "Request rate configured (RPS):", r.config.request_rate);
  line(out, "Benchmark duration (s):", m.duration);
  line(out, "Total input tokens:", m.total_input);
  line(out, "Total generated tokens:", m.total_output);
  line(out, "Request throughput (req/s):", m.request_throughput);
  if (m.request_goodput) line(out, "Request goodput (req/s):", *m.request_goodput);
  line(out, "Output token throughput (tok/s):", m.output_throughput);
  line(out, "Peak output token throughput (tok/s):", m.peak_output_events_per_s);
  line(out, "Peak concurrent requests:", static_cast<double>(m.peak_concurrency));
  line(out, "Total token throughput (tok/s):", m.total_token_throughput);
  latency_blocks(out, r);
  if (r.counters) speculation_block(out, *r.counters);
  truth_block(out, r);
  rule(out, "", '=');
  for (const std::string& w : r.warnings) out += fmt::format("note: {}\n", printable(w));
  for (const FailureGroup& f : r.failures)
    out += fmt::format("failed: {} x {} (first: request {})\n", grouped(f.count), printable(f.reason, 200),
                       f.first);
  for (const std::string& w : r.invalid) out += fmt::format("INVALID: {}\n", printable(w));
  return out;
}

std::string definitions(const BenchResult& r) {
  std::string out = "The same run in the words of other tools (mean, median in ms):\n";
  for (const ForeignMetric& f : r.foreign)
    out += fmt::format("  {:<20} {:<12} {:>9.2f} {:>9.2f}  {}\n", f.tool, f.name, 1e3 * f.seconds.mean,
                       1e3 * f.seconds.median, f.definition);
  return out;
}

}  // namespace moecheck::harness::load
