#include "harness/load/metrics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "harness/fault.h"

namespace moecheck::harness::load {
namespace {

double median_of_sorted(std::span<const double> sorted) { return percentile(sorted, 50); }

std::vector<const RequestRecord*> successes_of(std::span<const RequestRecord> records) {
  std::vector<const RequestRecord*> out;
  for (const RequestRecord& r : records)
    if (r.success || HARNESS_FAULT(kLoadFailedCounted)) out.push_back(&r);
  return out;
}

// The largest number of [start, end) that overlap. At a tie the one that ends leaves first.
std::int64_t peak_of(std::span<const RequestRecord* const> done) {
  std::vector<std::pair<double, int>> steps;
  steps.reserve(2 * done.size());
  for (const RequestRecord* r : done) {
    steps.emplace_back(r->start, +1);
    steps.emplace_back(r->start + r->latency(), -1);
  }
  std::sort(steps.begin(), steps.end());  // -1 sorts before +1
  std::int64_t now = 0, peak = 0;
  for (const auto& [time, step] : steps) peak = std::max(peak, now += step);
  return peak;
}

// One-second buckets from the first start on.
class Buckets {
 public:
  explicit Buckets(double origin) : origin_(origin) {}
  void add(double time, std::int64_t n) {
    const auto at = static_cast<std::size_t>(std::max(0.0, time - origin_));
    if (at >= counts_.size()) counts_.resize(at + 1);
    counts_[at] += n;
  }
  double peak() const {
    return counts_.empty() ? 0 : static_cast<double>(*std::max_element(counts_.begin(), counts_.end()));
  }

 private:
  double origin_;
  std::vector<std::int64_t> counts_;
};

void add_peaks(std::span<const RequestRecord* const> done, Metrics& m) {
  if (done.empty()) return;
  double first = done.front()->start;
  for (const RequestRecord* r : done) first = std::min(first, r->start);
  Buckets events(first), tokens(first);
  bool all_known = true;
  for (const RequestRecord* r : done) {
    const std::vector<std::int64_t> brought = tokens_per_event(*r);
    all_known = all_known && brought.size() == r->events.size();
    for (std::size_t i = 0; i < r->events.size(); ++i) {
      events.add(r->start + r->events[i].at, 1);
      if (all_known) tokens.add(r->start + r->events[i].at, brought[i]);
    }
  }
  m.peak_output_events_per_s = events.peak();
  if (all_known) m.peak_output_tokens_per_s = tokens.peak();
}

// What is pooled over requests.
struct Pools {
  std::vector<double> ttft, tpot, itl, e2el, queue, e2el_with_queue, content, token_gap, read_gap;
};

void add_gaps(const RequestRecord& r, Pools& pools, Metrics& m) {
  const std::vector<std::int64_t> brought = tokens_per_event(r);
  if (!brought.empty()) ++m.exact_token_times;
  double last_read = r.events.empty() ? 0 : r.events.front().at;
  for (std::size_t i = 1; i < r.events.size(); ++i) {
    const double gap = r.events[i].at - r.events[i - 1].at;
    pools.itl.push_back(gap);
    ++m.events;
    if (r.events[i].new_read) {
      pools.read_gap.push_back(r.events[i].at - last_read);
      last_read = r.events[i].at;
    } else {
      ++m.coalesced;
    }
  }
  // An event without a token (a role, a finish reason) hands its gap on to the next that has some.
  double since = r.events.empty() ? 0 : r.events.front().at;
  bool first = true;
  for (std::size_t i = 0; i < brought.size(); ++i) {
    if (brought[i] <= 0) continue;
    if (!first) {
      const double each = (r.events[i].at - since) / static_cast<double>(brought[i]);
      for (std::int64_t t = 0; t < brought[i]; ++t) pools.token_gap.push_back(each);
    }
    first = false;
    since = r.events[i].at;
  }
}

bool is_good(const RequestRecord& r, double tpot, const Objectives& goal) {
  return (!goal.ttft || r.ttft() <= *goal.ttft) &&
         (HARNESS_FAULT(kLoadGoodputIgnoresTpot) || !goal.tpot || tpot <= *goal.tpot) &&
         (!goal.e2el || r.latency() <= *goal.e2el);
}

// Returns whether the request met the objectives. One token or none counts as TPOT 0 there.
bool add_request(const RequestRecord& r, const Objectives& goal, Pools& pools, Metrics& m) {
  double tpot = 0;
  if (r.output_length() > 1) {
    tpot = (r.latency() - (HARNESS_FAULT(kLoadTpotWithFirstToken) ? 0 : r.ttft())) /
           static_cast<double>(r.output_length() - (HARNESS_FAULT(kLoadTpotOverAllTokens) ? 0 : 1));
    pools.tpot.push_back(tpot);
  }
  pools.ttft.push_back(r.ttft());
  pools.e2el.push_back(r.latency());
  pools.queue.push_back(r.queue_time());
  pools.e2el_with_queue.push_back(r.latency() + r.queue_time());
  const auto content =
      std::find_if(r.events.begin(), r.events.end(), [](const Event& e) { return e.content; });
  if (content != r.events.end()) pools.content.push_back(content->at);
  add_gaps(r, pools, m);
  m.total_input += r.prompt_length();
  m.total_output += r.output_length();
  m.cached_tokens += std::max<std::int64_t>(0, r.cached_tokens);
  m.missing_done += r.missing_done;
  if (r.output_tokens < 0)
    ++m.unknown_lengths;
  else if (r.output_tokens != r.asked_output_tokens)
    ++m.length_mismatches;
  if (r.prompt_tokens >= 0 && r.asked_prompt_tokens >= 0 && r.prompt_tokens != r.asked_prompt_tokens)
    ++m.prompt_mismatches;
  return is_good(r, tpot, goal);
}

}  // namespace

double mean_of(std::span<const double> values) {
  if (values.empty()) return 0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double percentile(std::span<const double> sorted, double p) {
  if (sorted.empty()) return 0;
  const double h = static_cast<double>(sorted.size() - 1) * p / 100;
  const auto below = static_cast<std::size_t>(std::floor(h));
  if (below + 1 >= sorted.size()) return sorted.back();
  if (HARNESS_FAULT(kLoadPercentileNotInterpolated)) return sorted[below];
  return sorted[below] + (h - static_cast<double>(below)) * (sorted[below + 1] - sorted[below]);
}

Summary summarize(std::vector<double> values, std::span<const double> percentiles) {
  Summary s;
  s.count = static_cast<std::int64_t>(values.size());
  std::sort(values.begin(), values.end());
  if (!values.empty()) {
    s.mean = mean_of(values);
    double squares = 0;
    for (const double v : values) squares += (v - s.mean) * (v - s.mean);
    s.std =
        std::sqrt(squares / static_cast<double>(values.size() - (HARNESS_FAULT(kLoadStdOfSample) ? 1 : 0)));
    s.median = median_of_sorted(values);
    s.min = values.front();
    s.max = values.back();
  }
  for (const double p : percentiles) s.percentiles.emplace_back(p, percentile(values, p));
  return s;
}

std::vector<std::int64_t> tokens_per_event(const RequestRecord& r) {
  std::vector<std::int64_t> out;
  // A role or an empty delta without a count brought nothing.
  const auto told = [](const Event& e) { return e.tokens >= 0; };
  if (std::any_of(r.events.begin(), r.events.end(), told) &&
      std::all_of(r.events.begin(), r.events.end(), [&](const Event& e) { return told(e) || !e.content; })) {
    std::int64_t before = 0;
    for (const Event& e : r.events) {
      out.push_back(told(e) ? e.tokens - before : 0);
      if (told(e)) before = e.tokens;
    }
    return out;
  }
  const std::int64_t with_content =
      std::count_if(r.events.begin(), r.events.end(), [](const Event& e) { return e.content; });
  if (r.output_tokens > 0 && with_content == r.output_tokens) {
    for (const Event& e : r.events) out.push_back(e.content || HARNESS_FAULT(kLoadRoleEventIsAToken) ? 1 : 0);
    return out;
  }
  return {};
}

Metrics calculate(std::span<const RequestRecord> records, double duration, const MetricsOptions& options) {
  Metrics m;
  m.duration = duration;
  const std::vector<const RequestRecord*> done = successes_of(records);
  m.completed = static_cast<std::int64_t>(done.size());
  m.failed = static_cast<std::int64_t>(records.size()) - m.completed;
  Pools pools;
  std::int64_t good = 0;
  for (const RequestRecord* r : done) good += add_request(*r, options.goodput, pools, m);
  const auto per_second = [&](double n) { return duration > 0 ? n / duration : 0; };
  m.request_throughput = per_second(static_cast<double>(m.completed));
  m.output_throughput = per_second(static_cast<double>(
      m.total_output + (HARNESS_FAULT(kLoadOutputThroughputWithPrompt) ? m.total_input : 0)));
  m.total_token_throughput = per_second(static_cast<double>(m.total_input + m.total_output));
  if (options.goodput.any()) m.request_goodput = per_second(static_cast<double>(good));
  m.mean_concurrency = per_second(std::accumulate(pools.e2el.begin(), pools.e2el.end(), 0.0));
  m.peak_concurrency = peak_of(done);
  add_peaks(done, m);
  const auto& p = options.percentiles;
  m.ttft = summarize(std::move(pools.ttft), p);
  m.tpot = summarize(std::move(pools.tpot), p);
  m.itl = summarize(std::move(pools.itl), p);
  m.e2el = summarize(std::move(pools.e2el), p);
  m.queue = summarize(std::move(pools.queue), p);
  m.e2el_with_queue = summarize(std::move(pools.e2el_with_queue), p);
  m.time_to_first_content = summarize(std::move(pools.content), p);
  m.token_gap = summarize(std::move(pools.token_gap), p);
  m.read_gap = summarize(std::move(pools.read_gap), p);
  return m;
}

}  // namespace moecheck::harness::load
