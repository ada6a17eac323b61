#include "harness/load/run.h"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace moecheck::harness::load {
namespace {

using http::Nanoseconds;

constexpr Nanoseconds kTick = 5'000'000;  // of the loop's own clock, ns

double seconds(Nanoseconds t) { return static_cast<double>(t) * 1e-9; }

double thread_cpu_seconds() {
  timespec t{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

std::string body_of(const Target& target, const LoadRequest& r) {
  http::Generate g;
  g.api = target.api;
  g.model = target.model;
  g.token_ids = r.prompt_ids;
  g.text = r.prompt;
  if (target.api == http::Api::kChat) g.messages = {{"user", r.prompt}};
  g.max_tokens = static_cast<int>(r.max_tokens);
  g.temperature = target.temperature;
  g.seed = target.seed;
  g.stream = true;
  g.include_usage = true;
  g.continuous_usage = target.continuous_usage;
  g.ignore_eos = target.ignore_eos;
  g.extra_body = target.extra_body;
  return http::request_body(g);
}

class Runner {
 public:
  Runner(const Target& target, const std::vector<LoadRequest>& requests, const std::vector<double>& due,
         const LoadOptions& options)
      : target_(target), requests_(requests), due_(due), options_(options) {
    bodies_.reserve(requests.size());  // made before the clock starts
    for (const LoadRequest& r : requests) bodies_.push_back(body_of(target, r));
    run_.records.resize(requests.size());
    for (std::size_t i = 0; i < requests.size(); ++i) prepare(i);
  }

  LoadRun run() {
    run_.started_unix =
        std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    const double cpu_before = thread_cpu_seconds();
    const Nanoseconds idle_before = client_.counters().idle;
    start_ = slot_free_ = http::now();
    tick(start_ + kTick);
    pump();
    while (finished_ < requests_.size()) client_.poll(http::kSecond);
    run_.duration = seconds(last_ - start_);
    Honesty& h = run_.honesty;
    const double wall = seconds(http::now() - start_);
    h.cpu_seconds = thread_cpu_seconds() - cpu_before;
    h.cpu = h.cpu_seconds / wall;
    h.busy = std::max(0.0, 1 - seconds(client_.counters().idle - idle_before) / wall);
    h.connections = static_cast<std::int64_t>(client_.counters().connections);
    const double percentiles[] = {50, 99};
    h.lag = summarize(std::move(lags_), percentiles);
    h.loop_lag = summarize(std::move(loop_lags_), percentiles);
    return std::move(run_);
  }

 private:
  void prepare(std::size_t i) {
    RequestRecord& r = run_.records[i];
    r.index = static_cast<std::int64_t>(i);
    r.due = due_[i];
    r.asked_prompt_tokens = target_.api == http::Api::kChat ? -1 : requests_[i].prompt_tokens();
    r.asked_output_tokens = requests_[i].max_tokens;
    r.events.reserve(static_cast<std::size_t>(std::min<std::int64_t>(r.asked_output_tokens + 2, 1 << 16)));
  }

  Nanoseconds due_time(std::size_t i) const { return start_ + std::llround(due_[i] * 1e9); }

  // Sends what is due as far as there are slots, and sets an alarm for the next.
  void pump() {
    while (next_ < requests_.size()) {
      if (options_.max_concurrency > 0 && active_ >= options_.max_concurrency) return;  // done() pumps again
      const Nanoseconds now = http::now(), due = due_time(next_);
      if (due > now) {
        if (alarm_ == 0)
          alarm_ = client_.at(due, [this] {
            alarm_ = 0;
            pump();
          });
        return;
      }
      lags_.push_back(seconds(now - std::max(due, slot_free_)));
      send(next_++, now);
    }
  }

  void send(std::size_t i, Nanoseconds now) {
    ++active_;
    run_.records[i].start = seconds(now - start_);
    http::generate(
        client_, target_.endpoint, target_.api, true, std::move(bodies_[i]), target_.limits,
        [this, i, now](http::Generation&& g) { done(i, now, std::move(g)); },
        [this, i, now](const http::Chunk& c) { chunk(run_.records[i], now, c); });
  }

  void chunk(RequestRecord& r, Nanoseconds sent, const http::Chunk& c) {
    const double at = seconds(c.time - sent);
    const bool new_read = r.last_message != at || r.events.empty();
    r.last_message = at;
    if (!c.has_choice) return;
    Event e{at, -1, !c.text.empty() || !c.reasoning.empty(), new_read};
    if (c.tokens >= 0) {
      const std::int64_t before = r.events.empty() ? 0 : std::max(0, r.events.back().tokens);
      e.tokens = static_cast<std::int32_t>(before + c.tokens);
    }
    r.events.push_back(e);
  }

  void done(std::size_t i, Nanoseconds sent, http::Generation&& g) {
    RequestRecord& r = run_.records[i];
    last_ = std::max(last_, http::now());
    r.end = seconds(last_ - start_);
    r.success = !g.error && !r.events.empty();
    if (g.error)
      r.error = fmt::format("{}: {}", http::name(g.error.kind), g.error.message);
    else if (r.events.empty())
      r.error = "no event with a choice";
    r.http_status = g.error ? g.error.status : 200;
    r.finish_reason = std::move(g.finish_reason);
    r.missing_done = g.missing_done;
    r.prompt_tokens = g.usage.prompt_tokens;
    r.output_tokens = g.usage.completion_tokens;
    r.cached_tokens = g.usage.cached_tokens;
    if (!g.timing.reads.empty()) r.done = seconds(g.timing.reads.back().time - sent);
    if (options_.keep_text) r.text = g.reasoning + g.text;
    failed_ += r.success ? 0 : 1;
    ++finished_;
    --active_;
    slot_free_ = last_;
    pump();
  }

  void tick(Nanoseconds due) {
    client_.at(due, [this, due] {
      const Nanoseconds now = http::now();
      loop_lags_.push_back(seconds(now - due));
      if (finished_ >= requests_.size()) return;
      if (options_.on_progress && now - shown_ > http::kSecond / 10) {
        shown_ = now;
        options_.on_progress(static_cast<std::int64_t>(finished_), failed_);
      }
      tick(std::max(due + kTick, now));
    });
  }

  const Target& target_;
  const std::vector<LoadRequest>& requests_;
  const std::vector<double>& due_;
  const LoadOptions& options_;
  http::Client client_;
  std::vector<std::string> bodies_;
  std::vector<double> lags_, loop_lags_;
  LoadRun run_;
  http::Client::Id alarm_ = 0;
  std::size_t next_ = 0, finished_ = 0;
  std::int64_t active_ = 0, failed_ = 0;
  Nanoseconds start_ = 0, slot_free_ = 0, last_ = 0, shown_ = 0;
};

double p99(const Summary& s) {
  for (const auto& [p, value] : s.percentiles)
    if (p == 99) return value;
  return s.max;
}

}  // namespace

LoadRun run_load(const Target& target, const std::vector<LoadRequest>& requests,
                 const std::vector<double>& due, const LoadOptions& options) {
  return Runner(target, requests, due, options).run();
}

std::vector<std::string> judge_honesty(const Honesty& h, const Metrics& m) {
  std::vector<std::string> out;
  const double allowed = std::max(0.005, 0.05 * m.ttft.median);
  if (h.busy > 0.9)
    out.push_back(
        fmt::format("the client was busy {:.0f}% of the time (it used {:.0f}% of a core): send less, or from "
                    "more machines",
                    100 * h.busy, 100 * h.cpu));
  if (p99(h.lag) > allowed)
    out.push_back(
        fmt::format("1% of the requests went out more than {:.1f} ms late ({:.1f} ms allowed): the client "
                    "could not keep the schedule",
                    1e3 * p99(h.lag), 1e3 * allowed));
  if (p99(h.loop_lag) > allowed)
    out.push_back(
        fmt::format("1% of the arrivals may have been seen more than {:.1f} ms late ({:.1f} ms allowed): the "
                    "client's machine is too busy",
                    1e3 * p99(h.loop_lag), 1e3 * allowed));
  return out;
}

std::optional<Counters> scrape(const http::Endpoint& endpoint) {
  http::Limits limits;
  limits.connect_s = 2;
  limits.total_s = 5;
  const http::Response r = http::get(endpoint.root + "/metrics", endpoint.headers(false), limits);
  if (r.failure != http::Failure::kNone || r.status != 200) return {};
  Counters c = read_counters(r.body);
  if (c.kind == ServerKind::kUnknown) return {};
  return c;
}

}  // namespace moecheck::harness::load
