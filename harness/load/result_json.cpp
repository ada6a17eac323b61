// A run as one JSON object: vLLM's names at the top, so that whatever reads its files reads these.
#include <cmath>
#include <ctime>

#include "harness/json.h"
#include "harness/load/result.h"

namespace moecheck::harness::load {
namespace {

using OrderedJson = nlohmann::ordered_json;

std::string date_of(double unix_seconds) {  // vLLM's format
  const auto t = static_cast<std::time_t>(unix_seconds);
  std::tm parts{};
  ::gmtime_r(&t, &parts);
  char text[32];
  const std::size_t n = std::strftime(text, sizeof text, "%Y%m%d-%H%M%S", &parts);
  return {text, n};
}

std::string percentile_key(double p) {
  const auto whole = static_cast<std::int64_t>(p);
  return static_cast<double>(whole) == p ? std::to_string(whole) : OrderedJson(p).dump();
}

template <class T>
OrderedJson or_null(const std::optional<T>& v) {
  return v ? OrderedJson(*v) : OrderedJson();
}

void put_summary(OrderedJson& j, const std::string& metric, const Summary& s) {
  j["mean_" + metric + "_ms"] = 1e3 * s.mean;
  j["median_" + metric + "_ms"] = 1e3 * s.median;
  j["std_" + metric + "_ms"] = 1e3 * s.std;
  for (const auto& [p, v] : s.percentiles) j["p" + percentile_key(p) + "_" + metric + "_ms"] = 1e3 * v;
}

OrderedJson summary_object(const Summary& s) {
  OrderedJson j = {{"count", s.count},      {"mean_ms", 1e3 * s.mean}, {"median_ms", 1e3 * s.median},
                   {"std_ms", 1e3 * s.std}, {"min_ms", 1e3 * s.min},   {"max_ms", 1e3 * s.max}};
  for (const auto& [p, v] : s.percentiles) j["p" + percentile_key(p) + "_ms"] = 1e3 * v;
  return j;
}

void put_config(OrderedJson& j, const BenchConfig& c, double started) {
  j["date"] = date_of(started);
  j["endpoint_type"] = c.backend;
  j["backend"] = c.backend;
  j["label"] = c.label.empty() ? OrderedJson() : OrderedJson(c.label);
  j["model_id"] = c.model;
  j["tokenizer_id"] = c.model;
  j["num_prompts"] = c.num_prompts;
  j["request_rate"] = std::isinf(c.request_rate) ? OrderedJson("inf") : OrderedJson(c.request_rate);
  j["burstiness"] = std::isinf(c.burstiness) ? OrderedJson("inf") : OrderedJson(c.burstiness);
  j["max_concurrency"] = c.max_concurrency > 0 ? OrderedJson(c.max_concurrency) : OrderedJson();
  if (!c.ramp_up.empty()) {
    j["ramp_up_strategy"] = c.ramp_up;
    j["ramp_up_start_rps"] = c.ramp_start;
    j["ramp_up_end_rps"] = c.ramp_end;
  }
}

// vLLM gives [] and 0 for a failed request in these lists, and so do we: index i is request i.
void put_arrays(OrderedJson& j, const LoadRun& run) {
  OrderedJson input = OrderedJson::array(), output = OrderedJson::array(), ttfts = OrderedJson::array(),
              itls = OrderedJson::array(), latencies = OrderedJson::array(), starts = OrderedJson::array(),
              queues = OrderedJson::array(), errors = OrderedJson::array();
  for (const RequestRecord& r : run.records) {
    OrderedJson gaps = OrderedJson::array();
    for (std::size_t i = 1; r.success && i < r.events.size(); ++i)
      gaps.push_back(r.events[i].at - r.events[i - 1].at);
    input.push_back(r.prompt_length());
    output.push_back(r.success ? r.output_length() : 0);
    ttfts.push_back(r.success ? r.ttft() : 0);
    itls.push_back(std::move(gaps));
    latencies.push_back(r.success ? r.latency() : 0);
    starts.push_back(r.start);
    queues.push_back(r.queue_time());
    errors.push_back(r.error);
  }
  j["input_lens"] = std::move(input);
  j["output_lens"] = std::move(output);
  j["ttfts"] = std::move(ttfts);
  j["itls"] = std::move(itls);
  j["latencies"] = std::move(latencies);
  j["start_times"] = std::move(starts);
  j["queue_times"] = std::move(queues);
  j["errors"] = std::move(errors);
}

// What vLLM has no list for: when it was due, the last line, tokens and reads behind each event.
OrderedJson request_arrays(const LoadRun& run) {
  OrderedJson success = OrderedJson::array(), due = OrderedJson::array(), done = OrderedJson::array(),
              finish = OrderedJson::array(), asked = OrderedJson::array(), tokens = OrderedJson::array(),
              shared = OrderedJson::array(), content = OrderedJson::array();
  for (const RequestRecord& r : run.records) {
    success.push_back(r.success);
    due.push_back(r.due);
    done.push_back(r.done);
    finish.push_back(r.finish_reason);
    asked.push_back(r.asked_output_tokens);
    tokens.push_back(tokens_per_event(r));
    OrderedJson same = OrderedJson::array();  // numbers of events that came in the read of the one before
    double first_content = -1;
    for (std::size_t i = 0; i < r.events.size(); ++i) {
      if (i > 0 && !r.events[i].new_read) same.push_back(i);
      if (r.events[i].content && first_content < 0) first_content = r.events[i].at;
    }
    shared.push_back(std::move(same));
    content.push_back(first_content < 0 ? OrderedJson() : OrderedJson(first_content));
  }
  return {{"success", std::move(success)},
          {"due_times", std::move(due)},
          {"done_times", std::move(done)},
          {"finish_reasons", std::move(finish)},
          {"asked_output_lens", std::move(asked)},
          {"tokens_per_event", std::move(tokens)},
          {"events_sharing_a_read", std::move(shared)},
          {"first_content_times", std::move(content)}};
}

void put_speculation(OrderedJson& j, const CounterDelta& d) {
  if (!d.acceptance_rate()) return;
  j["spec_decode_acceptance_rate"] = *d.acceptance_rate();
  j["spec_decode_acceptance_length"] = or_null(d.acceptance_length());
  j["spec_decode_num_drafts"] = or_null(d.drafts);
  j["spec_decode_draft_tokens"] = or_null(d.draft_tokens);
  j["spec_decode_accepted_tokens"] = or_null(d.accepted_tokens);
  j["spec_decode_per_position_acceptance_rates"] = d.acceptance_per_position();
}

OrderedJson counters_object(const BenchResult& r) {
  if (!r.counters) return {};
  const CounterDelta& d = *r.counters;
  OrderedJson checks = OrderedJson::array();
  for (const CounterCheck& c : r.counter_checks)
    checks.push_back({{"what", c.what}, {"client", c.client}, {"server", c.server}, {"holds", c.holds}});
  return {{"server", name(d.kind)},
          {"restarted", d.restarted},
          {"prompt_tokens", or_null(d.prompt_tokens)},
          {"generation_tokens", or_null(d.generation_tokens)},
          {"requests", or_null(d.requests_succeeded)},
          {"prefix_cache_queries", or_null(d.prefix_queries)},
          {"prefix_cache_hits", or_null(d.prefix_hits)},
          {"prefix_cache_hit_rate", or_null(d.prefix_hit_rate())},
          {"recent_accept_length", or_null(d.gauge_accept_length)},
          {"recent_accept_rate", or_null(d.gauge_accept_rate)},
          {"recent_cache_hit_rate", or_null(d.gauge_cache_hit_rate)},
          {"checks", std::move(checks)}};
}

OrderedJson honesty_object(const Honesty& h) {
  return {{"busy", h.busy},
          {"cpu", h.cpu},
          {"cpu_seconds", h.cpu_seconds},
          {"connections", h.connections},
          {"send_lag", summary_object(h.lag)},
          {"loop_lag", summary_object(h.loop_lag)}};
}

OrderedJson environment_object() {
  const Environment& e = environment();
  return {{"version", e.version}, {"commit", e.commit}, {"compiler", e.compiler}, {"build", e.build},
          {"cpu", e.cpu},         {"os", e.os},         {"device", e.device},     {"threads", e.threads}};
}

OrderedJson asked_object(const BenchConfig& c) {
  return {{"command", c.command},
          {"base_url", c.base_url},
          {"dataset", c.dataset},
          {"load", c.load_kind},
          {"input_len", c.input_len},
          {"output_len", c.output_len},
          {"num_warmups", c.num_warmups},
          {"seed", c.seed},
          {"repeat", c.repeat},
          {"temperature", or_null(c.temperature)},
          {"sampling_seed", or_null(c.sampling_seed)},
          {"ignore_eos", c.ignore_eos}};
}

OrderedJson moecheck_object(const BenchResult& r) {
  const Metrics& m = r.metrics;
  OrderedJson identities = OrderedJson::array(), foreign = OrderedJson::array(),
              failures = OrderedJson::array();
  for (const FailureGroup& f : r.failures)
    failures.push_back({{"reason", f.reason}, {"count", f.count}, {"first_request", f.first}});
  for (const Identity& i : r.identities)
    identities.push_back(
        {{"name", i.name}, {"formula", i.formula}, {"left", i.left}, {"right", i.right}, {"holds", i.holds}});
  for (const ForeignMetric& f : r.foreign)
    foreign.push_back({{"tool", f.tool},
                       {"name", f.name},
                       {"definition", f.definition},
                       {"statistics", summary_object(f.seconds)}});
  return {{"schema", "moecheck.bench_serve/1"},
          {"asked", asked_object(r.config)},
          {"valid", r.invalid.empty()},
          {"invalid", r.invalid},
          {"warnings", r.warnings},
          {"failures", std::move(failures)},
          {"mean_concurrency", m.mean_concurrency},
          {"peak_output_tokens_per_s", or_null(m.peak_output_tokens_per_s)},
          {"time_to_first_content", summary_object(m.time_to_first_content)},
          {"token_gap", summary_object(m.token_gap)},
          {"read_gap", summary_object(m.read_gap)},
          {"events", m.events},
          {"events_sharing_a_read", m.coalesced},
          {"length_mismatches", m.length_mismatches},
          {"prompt_mismatches", m.prompt_mismatches},
          {"unknown_lengths", m.unknown_lengths},
          {"missing_done", m.missing_done},
          {"cached_tokens", m.cached_tokens},
          {"identities", std::move(identities)},
          {"other_tools", std::move(foreign)},
          {"counters", counters_object(r)},
          {"client", honesty_object(r.run.honesty)},
          {"environment", environment_object()},
          {"requests", request_arrays(r.run)}};
}

}  // namespace

std::string to_json(const BenchResult& r, bool texts) {
  const Metrics& m = r.metrics;
  OrderedJson j;
  put_config(j, r.config, r.run.started_unix);
  j["duration"] = m.duration;
  j["completed"] = m.completed;
  j["failed"] = m.failed;
  j["total_input_tokens"] = m.total_input;
  j["total_output_tokens"] = m.total_output;
  j["request_throughput"] = m.request_throughput;
  j["request_goodput"] = or_null(m.request_goodput);
  j["output_throughput"] = m.output_throughput;
  j["total_token_throughput"] = m.total_token_throughput;
  j["max_output_tokens_per_s"] = m.peak_output_events_per_s;
  j["max_concurrent_requests"] = m.peak_concurrency;
  put_summary(j, "ttft", m.ttft);
  put_summary(j, "tpot", m.tpot);
  put_summary(j, "itl", m.itl);
  put_summary(j, "e2el", m.e2el);
  if (r.config.max_concurrency > 0) put_summary(j, "client_queue_time", m.queue);
  if (r.config.max_concurrency > 0 && !std::isinf(r.config.request_rate))
    put_summary(j, "e2el_including_client_queue", m.e2el_with_queue);
  if (r.counters) put_speculation(j, *r.counters);
  put_arrays(j, r.run);
  if (texts) {
    OrderedJson all = OrderedJson::array();
    for (const RequestRecord& x : r.run.records) all.push_back(x.text);
    j["generated_texts"] = std::move(all);
  }
  j["moecheck"] = moecheck_object(r);
  // A server's text may be cut inside a character.
  return j.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

}  // namespace moecheck::harness::load
