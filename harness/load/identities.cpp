// Checks on a finished run, and what other tools would have called its numbers.
#include <algorithm>
#include <cmath>

#include "harness/load/metrics.h"

namespace moecheck::harness::load {
namespace {

bool near(double a, double b, double relative) {
  return std::abs(a - b) <= relative * std::max({std::abs(a), std::abs(b), 1e-9});
}

// Time-weighted mean of how many requests ran, by a sweep over the records: a way to Little's left side that
// does not use E2EL's mean.
double swept_concurrency(std::span<const RequestRecord> records, double duration) {
  std::vector<std::pair<double, int>> steps;
  for (const RequestRecord& r : records) {
    if (!r.success) continue;
    steps.emplace_back(r.start, 1);
    steps.emplace_back(r.start + r.latency(), -1);
  }
  std::sort(steps.begin(), steps.end());
  double area = 0, last = 0;
  int now = 0;
  for (const auto& [time, step] : steps) {
    area += (time - last) * now;
    last = time;
    now += step;
  }
  return duration > 0 ? area / duration : 0;
}

// MC slots, each taken from start to end: E2EL, and what passes after the last event until the answer is complete
// (usage, [DONE]). Start-up and the last requests run with fewer than MC: the left side may be lower by their share.
Identity closed_loop_identity(std::span<const RequestRecord> records, const Metrics& m,
                              std::int64_t max_concurrency) {
  double tail = 0;
  bool fixed = true;
  for (const RequestRecord& r : records) {
    tail += std::max(0.0, r.end - r.start - r.latency());
    fixed = fixed && r.output_length() == records.front().output_length();
  }
  const auto n = static_cast<double>(m.completed);
  tail /= n;
  const double length = static_cast<double>(m.total_output) / n;
  const bool by_parts = fixed && m.tpot.count == m.completed;
  const double e2el = by_parts ? m.ttft.mean + (length - 1) * m.tpot.mean : m.e2el.mean;
  const double full = static_cast<double>(std::min(max_concurrency, m.completed)) * length / (e2el + tail);
  const double edge = std::min(0.8, 2 * (m.e2el.max + tail) / m.duration);
  return {"closed loop",
          by_parts ? "output tok/s ~= MC * OSL / (TTFT + (OSL - 1) * TPOT + tail)"
                   : "output tok/s ~= MC * mean OSL / (mean E2EL + tail)",
          m.output_throughput, full,
          m.output_throughput <= 1.1 * full && m.output_throughput >= full * (0.8 - edge)};
}

}  // namespace

std::vector<Identity> identities(std::span<const RequestRecord> records, const Metrics& m,
                                 std::int64_t max_concurrency, bool closed_loop) {
  std::vector<Identity> out;
  const auto equal = [&](std::string name, std::string formula, double left, double right, double relative) {
    out.push_back({std::move(name), std::move(formula), left, right, near(left, right, relative)});
  };
  if (m.completed == 0) return out;
  equal("Little", "mean E2EL * request throughput = mean concurrency", m.e2el.mean * m.request_throughput,
        swept_concurrency(records, m.duration), 1e-6);
  double gaps = 0, spans = 0;
  for (const RequestRecord& r : records) {
    if (!r.success) continue;
    spans += r.latency() - r.ttft();
    for (std::size_t i = 1; i < r.events.size(); ++i) gaps += r.events[i].at - r.events[i - 1].at;
  }
  equal("gaps", "sum of ITL = sum of (E2EL - TTFT)", gaps, spans, 1e-9);
  const bool ordered = std::all_of(records.begin(), records.end(), [](const RequestRecord& r) {
    return std::is_sorted(r.events.begin(), r.events.end(),
                          [](const Event& a, const Event& b) { return a.at < b.at; });
  });
  out.push_back({"order", "events of a request are in order of time", ordered ? 1.0 : 0.0, 1, ordered});
  if (max_concurrency > 0) {
    const auto peak = static_cast<double>(m.peak_concurrency), limit = static_cast<double>(max_concurrency);
    out.push_back({"limit", "peak concurrency <= max concurrency", peak, limit, peak <= limit});
  }
  if (closed_loop && max_concurrency > 0 && m.failed == 0)
    out.push_back(closed_loop_identity(records, m, max_concurrency));
  return out;
}

std::vector<ForeignMetric> foreign_metrics(std::span<const RequestRecord> records,
                                           std::span<const double> percentiles) {
  std::vector<double> content_ttft, sglang_tpot, sglang_latency, guidellm_tpot, per_request_itl, aiperf_itl,
      evalscope_latency, evalscope_tpot;
  for (const RequestRecord& r : records) {
    if (!r.success || r.events.empty()) continue;
    const auto n = static_cast<double>(r.output_length());
    const auto content =
        std::find_if(r.events.begin(), r.events.end(), [](const Event& e) { return e.content; });
    const double last_line = std::max({r.done, r.last_message, r.latency()});
    const double last_message = std::max(r.last_message, r.latency());
    sglang_latency.push_back(last_line);
    evalscope_latency.push_back(last_message);
    if (n > 1) evalscope_tpot.push_back((last_message - r.ttft()) / (n - 1));
    if (content == r.events.end()) continue;
    const double first = content->at;
    content_ttft.push_back(first);
    guidellm_tpot.push_back(r.latency() / n);
    if (n <= 1) continue;
    sglang_tpot.push_back((last_line - first) / (n - 1));
    per_request_itl.push_back((r.latency() - first) / (n - 1));
    aiperf_itl.push_back((last_message - first) / (n - 1));
  }
  std::vector<ForeignMetric> out;
  const auto add = [&](std::string tool, std::string name, std::string definition,
                       std::vector<double>& values) {
    out.push_back(
        {std::move(tool), std::move(name), std::move(definition), summarize(std::move(values), percentiles)});
  };
  std::vector<double> aiperf_ttft = content_ttft;
  add("sglang bench_serving", "TTFT", "first non-empty text - start", content_ttft);
  add("sglang bench_serving", "TPOT", "(last line - first text) / (n - 1)", sglang_tpot);
  add("sglang bench_serving", "E2E latency", "last line, [DONE] included - start", sglang_latency);
  add("guidellm", "TPOT", "(last token - start) / n, the first token included", guidellm_tpot);
  add("guidellm", "ITL", "(last token - first token) / (n - 1), one per request", per_request_itl);
  add("aiperf", "TTFT", "first non-empty content - start", aiperf_ttft);
  add("aiperf", "ITL", "(last response - first content) / (n - 1), one per request", aiperf_itl);
  add("evalscope perf", "latency", "last message, usage included - start", evalscope_latency);
  add("evalscope perf", "TPOT", "(last message - first event) / (n - 1)", evalscope_tpot);
  return out;
}

}  // namespace moecheck::harness::load
