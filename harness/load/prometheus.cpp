#include "harness/load/prometheus.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

namespace moecheck::harness::load {
namespace {

bool is_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == ':';
}

std::string_view skip_blanks(std::string_view s) {
  while (!s.empty() && (s.front() == ' ' || s.front() == '\t')) s.remove_prefix(1);
  return s;
}

std::string_view take_name(std::string_view& s) {
  std::size_t n = 0;
  while (n < s.size() && is_name(s[n])) ++n;
  const std::string_view out = s.substr(0, n);
  s.remove_prefix(n);
  return out;
}

// "{a="x",b="y"}" off the front. False: no valid label set.
bool take_labels(std::string_view& s, std::vector<std::pair<std::string, std::string>>& out) {
  s.remove_prefix(1);
  for (;;) {
    s = skip_blanks(s);
    if (!s.empty() && s.front() == '}') {
      s.remove_prefix(1);
      return true;
    }
    const std::string_view key = take_name(s);
    s = skip_blanks(s);
    if (key.empty() || !s.starts_with('=')) return false;
    s = skip_blanks(s.substr(1));
    if (!s.starts_with('"')) return false;
    s.remove_prefix(1);
    std::string value;
    while (!s.empty() && s.front() != '"') {
      char c = s.front();
      s.remove_prefix(1);
      if (c == '\\' && !s.empty()) {
        c = s.front() == 'n' ? '\n' : s.front();
        s.remove_prefix(1);
      }
      value += c;
    }
    if (s.empty()) return false;
    s.remove_prefix(1);
    out.emplace_back(key, std::move(value));
    s = skip_blanks(s);
    if (s.starts_with(',')) s.remove_prefix(1);
  }
}

bool read_value(std::string_view text, double& out) {
  const std::string_view word = text.substr(0, std::min(text.find(' '), text.find('\t')));
  if (word == "+Inf" || word == "Inf") {
    out = INFINITY;
    return true;
  }
  const std::string_view digits = word.starts_with('+') ? word.substr(1) : word;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), out);
  return error == std::errc() && end == digits.data() + digits.size();  // takes nan, inf too
}

bool parse_line(std::string_view line, Sample& sample) {
  line = skip_blanks(line);
  if (line.empty() || line.front() == '#') return false;
  sample = {};
  sample.name = take_name(line);
  if (sample.name.empty()) return false;
  line = skip_blanks(line);
  if (line.starts_with('{') && !take_labels(line, sample.labels)) return false;
  return read_value(skip_blanks(line), sample.value);
}

class Reader {
 public:
  explicit Reader(std::string_view text) : samples_(parse_prometheus(text)) {}

  // Sum over the series of one of these names (older and newer spellings), the first that exists.
  std::optional<double> sum(std::initializer_list<std::string_view> names) const {
    for (const std::string_view n : names) {
      std::optional<double> total;
      for (const Sample& s : samples_)
        if (s.name == n) total = total.value_or(0) + s.value;
      if (total) return total;
    }
    return {};
  }
  std::optional<double> mean(std::string_view n) const {  // gauges of several ranks
    double total = 0;
    int count = 0;
    for (const Sample& s : samples_)
      if (s.name == n) total += s.value, ++count;
    return count == 0 ? std::optional<double>() : total / count;
  }
  std::vector<double> by_position(std::string_view n) const {
    std::vector<double> out;
    for (const Sample& s : samples_) {
      if (s.name != n) continue;
      for (const auto& [key, value] : s.labels) {
        std::size_t position = 0;
        const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), position);
        if (key != "position" || error != std::errc() || end != value.data() + value.size() ||
            position > 1000)
          continue;
        if (position >= out.size()) out.resize(position + 1);
        out[position] += s.value;
      }
    }
    return out;
  }
  bool any_with_prefix(std::string_view prefix) const {
    return std::any_of(samples_.begin(), samples_.end(),
                       [&](const Sample& s) { return s.name.starts_with(prefix); });
  }

 private:
  std::vector<Sample> samples_;
};

std::string prefixed(std::string_view prefix, std::string_view name) {
  return std::string(prefix) + std::string(name);
}

void read_speculation(const Reader& r, std::string_view prefix, Counters& c) {
  const auto counter = [&](std::string_view n) {
    return r.sum({prefixed(prefix, n) + "_total", prefixed(prefix, n)});
  };
  c.drafts = counter("spec_decode_num_drafts");
  c.draft_tokens = counter("spec_decode_num_draft_tokens");
  c.accepted_tokens = counter("spec_decode_num_accepted_tokens");
  c.accepted_per_position = r.by_position(prefixed(prefix, "spec_decode_num_accepted_tokens_per_pos_total"));
}

std::optional<double> minus(std::optional<double> after, std::optional<double> before, bool& went_down) {
  if (!after) return {};
  const double d = *after - before.value_or(0);  // a series appears with its first count
  if (d < 0) went_down = true;
  return d;
}

}  // namespace

std::vector<Sample> parse_prometheus(std::string_view text) {
  std::vector<Sample> out;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    text.remove_prefix(std::min(end + 1, text.size()));
    Sample s;
    if (parse_line(line, s)) out.push_back(std::move(s));
  }
  return out;
}

std::string_view name(ServerKind kind) {
  constexpr std::string_view kNames[] = {"unknown", "vllm", "sglang", "llama.cpp"};
  return kNames[static_cast<std::size_t>(kind)];
}

Counters read_counters(std::string_view text) {
  const Reader r(text);
  Counters c;
  c.process_start = r.sum({"process_start_time_seconds"});
  if (r.any_with_prefix("vllm:")) {
    c.kind = ServerKind::kVllm;
    c.prompt_tokens = r.sum({"vllm:prompt_tokens_total"});
    c.generation_tokens = r.sum({"vllm:generation_tokens_total"});
    c.requests_succeeded = r.sum({"vllm:request_success_total"});
    c.prefix_queries = r.sum({"vllm:prefix_cache_queries_total", "vllm:prefix_cache_queries"});
    c.prefix_hits = r.sum({"vllm:prefix_cache_hits_total", "vllm:prefix_cache_hits"});
    read_speculation(r, "vllm:", c);
  } else if (r.any_with_prefix("sglang:")) {
    c.kind = ServerKind::kSglang;
    c.prompt_tokens = r.sum({"sglang:prompt_tokens_total"});
    c.generation_tokens = r.sum({"sglang:generation_tokens_total"});
    c.requests_succeeded = r.sum({"sglang:num_requests_total"});
    c.prefix_hits = r.sum({"sglang:cached_tokens_total"});
    c.prefix_queries = c.prefix_hits ? c.prompt_tokens : std::nullopt;
    c.gauge_accept_length = r.mean("sglang:spec_accept_length");
    c.gauge_accept_rate = r.mean("sglang:spec_accept_rate");
    c.gauge_cache_hit_rate = r.mean("sglang:cache_hit_rate");
  } else if (r.any_with_prefix("llamacpp:")) {
    c.kind = ServerKind::kLlamaCpp;
    c.prompt_tokens = r.sum({"llamacpp:prompt_tokens_total"});
    c.generation_tokens = r.sum({"llamacpp:tokens_predicted_total"});
    read_speculation(r, "llamacpp:", c);
  }
  return c;
}

CounterDelta difference(const Counters& before, const Counters& after) {
  CounterDelta d;
  d.kind = after.kind;
  d.restarted =
      before.kind != after.kind || (before.process_start && before.process_start != after.process_start);
  const auto sub = [&](std::optional<double> Counters::*field) {
    return minus(after.*field, before.*field, d.restarted);
  };
  d.prompt_tokens = sub(&Counters::prompt_tokens);
  d.generation_tokens = sub(&Counters::generation_tokens);
  d.requests_succeeded = sub(&Counters::requests_succeeded);
  d.drafts = sub(&Counters::drafts);
  d.draft_tokens = sub(&Counters::draft_tokens);
  d.accepted_tokens = sub(&Counters::accepted_tokens);
  d.prefix_queries = sub(&Counters::prefix_queries);
  d.prefix_hits = sub(&Counters::prefix_hits);
  for (std::size_t i = 0; i < after.accepted_per_position.size(); ++i) {
    const double was = i < before.accepted_per_position.size() ? before.accepted_per_position[i] : 0;
    d.accepted_per_position.push_back(minus(after.accepted_per_position[i], was, d.restarted).value_or(0));
  }
  d.gauge_accept_length = after.gauge_accept_length;
  d.gauge_accept_rate = after.gauge_accept_rate;
  d.gauge_cache_hit_rate = after.gauge_cache_hit_rate;
  return d;
}

std::optional<double> CounterDelta::acceptance_rate() const {
  if (restarted || !accepted_tokens || draft_tokens.value_or(0) <= 0) return {};
  return 100 * *accepted_tokens / *draft_tokens;
}

std::optional<double> CounterDelta::acceptance_length() const {
  if (restarted || !accepted_tokens || drafts.value_or(0) <= 0) return {};
  return 1 + *accepted_tokens / *drafts;
}

std::vector<double> CounterDelta::acceptance_per_position() const {
  std::vector<double> out;
  if (restarted || drafts.value_or(0) <= 0) return out;
  for (const double n : accepted_per_position) out.push_back(n / *drafts);
  return out;
}

std::optional<double> CounterDelta::prefix_hit_rate() const {
  if (restarted || !prefix_hits || prefix_queries.value_or(0) <= 0) return {};
  return *prefix_hits / *prefix_queries;
}

std::vector<CounterCheck> check_counters(const CounterDelta& d, std::int64_t prompt_tokens,
                                         std::int64_t output_tokens, std::int64_t requests) {
  std::vector<CounterCheck> out;
  const auto check = [&](std::string what, std::int64_t client, std::optional<double> server) {
    if (!server) return;
    const auto ours = static_cast<double>(client);
    out.push_back({std::move(what), ours, *server, !d.restarted && ours == *server});
  };
  check("prompt tokens", prompt_tokens, d.prompt_tokens);
  check("output tokens", output_tokens, d.generation_tokens);
  check("requests", requests, d.requests_succeeded);
  return out;
}

}  // namespace moecheck::harness::load
