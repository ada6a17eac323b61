#include "harness/load/calibrate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <tuple>

#include "harness/load/run.h"
#include "harness/serve/scripted_engine.h"
#include "harness/serve/server.h"

namespace moecheck::harness::load {
namespace {

constexpr double kPercentiles[] = {1, 99};

// A served scripted engine and how to reach it.
class Peer {
 public:
  explicit Peer(const ScriptedOptions& options)
      : engine_(make_scripted_engine(options)), server_(*engine_, server_options()) {
    server_.start();
    target_.endpoint = http::parse_endpoint(fmt::format("http://127.0.0.1:{}", server_.port()));
    target_.model = "scripted";
  }
  ~Peer() { server_.stop_at_once(); }
  const Target& target() const { return target_; }

 private:
  static ServerOptions server_options() {
    ServerOptions o;
    o.max_queue = 100'000;
    return o;
  }
  std::unique_ptr<Engine> engine_;
  Server server_;
  Target target_;
};

// `rate`: requests per second, evenly spaced; infinite: a new one whenever one ends.
LoadRun run_evenly(const Target& target, std::int64_t requests, std::int64_t tokens, std::int64_t concurrency,
                   double rate) {
  const auto vocabulary = make_vocabulary(256, 0, {});
  const auto load = random_load({requests, 16, tokens, 0, 0, 0, 0}, vocabulary);
  LoadOptions options;
  options.max_concurrency = concurrency;
  Arrivals arrivals;
  arrivals.request_rate = rate;
  arrivals.burstiness = INFINITY;
  return run_load(target, load, arrival_times(arrivals, requests), options);
}

LoadRun run_closed(const Target& target, std::int64_t requests, std::int64_t tokens,
                   std::int64_t concurrency) {
  return run_evenly(target, requests, tokens, concurrency, INFINITY);
}

std::int64_t failures(const LoadRun& run) {
  return std::count_if(run.records.begin(), run.records.end(),
                       [](const RequestRecord& r) { return !r.success; });
}

double p(const Summary& s, double which) {
  for (const auto& [percent, value] : s.percentiles)
    if (percent == which) return value;
  return 0;
}

CalibrationPoint measure(double first_ms, double gap_ms, std::int64_t concurrency, double seconds,
                         Calibration& all) {
  ScriptedOptions engine;
  engine.first_token_ms = first_ms;
  engine.per_token_ms = gap_ms;
  const Peer peer(engine);
  CalibrationPoint out;
  out.concurrency = concurrency;
  out.tokens = 32;
  out.first_ms = first_ms;
  out.gap_ms = gap_ms;
  const double one = 1e-3 * (first_ms + gap_ms * static_cast<double>(out.tokens - 1));
  out.requests = concurrency * std::max<std::int64_t>(2, std::lround(seconds / one));
  (void)run_closed(peer.target(), concurrency, 2, concurrency);  // opens the connections
  // Not in step: a burst of requests would measure how long a burst takes.
  const double rate = 0.9 * static_cast<double>(concurrency) / one;
  const LoadRun run = run_evenly(peer.target(), out.requests, out.tokens, 2 * concurrency, rate);
  std::vector<double> ttft, itl;
  for (const RequestRecord& r : run.records) {
    if (!r.success) continue;
    ttft.push_back(r.ttft() - 1e-3 * first_ms);
    for (std::size_t i = 1; i < r.events.size(); ++i)
      itl.push_back(r.events[i].at - r.events[i - 1].at - 1e-3 * gap_ms);
  }
  out.ttft_error = summarize(std::move(ttft), kPercentiles);
  out.itl_error = summarize(std::move(itl), kPercentiles);
  out.holds = failures(run) == 0 && std::abs(out.ttft_error.median) <= 0.5e-3 &&
              std::abs(out.itl_error.median) <= 0.5e-3 && p(out.ttft_error, 99) <= 5e-3 &&
              p(out.ttft_error, 1) >= -5e-3;
  if (!out.holds)
    all.broken.push_back(
        fmt::format("at {} at once, {} ms and {} ms set: TTFT is off by {:.3f} ms (99%: {:.3f}), ITL by "
                    "{:.3f} ms, {} of {} failed",
                    concurrency, first_ms, gap_ms, 1e3 * out.ttft_error.median, 1e3 * p(out.ttft_error, 99),
                    1e3 * out.itl_error.median, failures(run), out.requests));
  return out;
}

void flood(double seconds, Calibration& all) {
  const Peer peer({});
  const LoadRun probe = run_closed(peer.target(), 2000, 4, 32);
  const auto requests = std::max<std::int64_t>(2000, std::lround(seconds * 2000 / probe.duration));
  const LoadRun few = run_closed(peer.target(), requests, 4, 32);
  all.requests_per_second = static_cast<double>(requests) / few.duration;
  all.cpu_us_per_request = 1e6 * few.honesty.cpu_seconds / static_cast<double>(requests);
  const LoadRun many = run_closed(peer.target(), std::max<std::int64_t>(64, requests / 20), 256, 32);
  double events = 0;
  for (const RequestRecord& r : many.records) events += static_cast<double>(r.events.size());
  all.events_per_second = events / many.duration;
  all.cpu_us_per_event = events > 0 ? 1e6 * many.honesty.cpu_seconds / events : 0;
  if (failures(few) + failures(many) > 0)
    all.broken.push_back(fmt::format("{} requests failed without any delay", failures(few) + failures(many)));
}

}  // namespace

Calibration calibrate(double seconds) {
  Calibration out;
  for (const auto& [first, gap, concurrency] :
       {std::tuple(20.0, 5.0, 1), std::tuple(20.0, 5.0, 16), std::tuple(50.0, 10.0, 128)})
    out.points.push_back(measure(first, gap, concurrency, seconds / 5, out));
  flood(seconds / 5, out);
  return out;
}

}  // namespace moecheck::harness::load
