#include "harness/serve/metrics.h"

#include <fmt/format.h>

#include <algorithm>

namespace moecheck::harness::serve {
namespace {

// vLLM's buckets, and below them some for models as small as ours.
constexpr double kFirstToken[] = {0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.01, 0.02, 0.04, 0.06,
                                  0.08,   0.1,     0.25,   0.5,   0.75,  1,    2.5,  5,    7.5,
                                  10,     20,      40,     80,    160,   640,  2560};
constexpr double kInterToken[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                  0.075,  0.1,     0.15,   0.2,   0.3,    0.4,   0.5,  0.75,  1,
                                  2.5,    5,       7.5,    10,    20,     40,    80};
constexpr double kRequest[] = {0.001, 0.01, 0.1, 0.3, 0.5, 0.8,  1.0,   1.5,   2.0,   2.5,   5.0,  10.0,
                               15.0,  20,   30,  40,  50,  60.0, 120.0, 240.0, 480.0, 960.0, 1920, 7680};

// Backslash, quote and line break, as the format asks for.
std::string label_value(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n')
      out += "\\n";
    else
      out += c;
  }
  return out;
}

void head(std::string& out, std::string_view name, std::string_view type, std::string_view help) {
  fmt::format_to(std::back_inserter(out), "# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
}

}  // namespace

void Histogram::add(double value) {
  const auto at = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  ++counts_[static_cast<std::size_t>(at)];
  sum_ += value;
}

void Histogram::append(std::string& out, std::string_view name, std::string_view help,
                       std::string_view labels) const {
  head(out, name, "histogram", help);
  std::int64_t below = 0;
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    below += counts_[i];
    const std::string le = i < bounds_.size() ? fmt::format("{}", bounds_[i]) : "+Inf";
    fmt::format_to(std::back_inserter(out), "{}_bucket{{{},le=\"{}\"}} {}\n", name, labels, le, below);
  }
  fmt::format_to(std::back_inserter(out), "{}_count{{{}}} {}\n{}_sum{{{}}} {}\n", name, labels, below, name,
                 labels, sum_);
}

Metrics::Metrics(std::string model_name)
    : first_token_seconds(kFirstToken),
      inter_token_seconds(kInterToken),
      request_seconds(kRequest),
      model_name_(std::move(model_name)) {}

std::string Metrics::text(const EngineStatistics& e) const {
  const std::string labels = fmt::format("engine=\"0\",model_name=\"{}\"", label_value(model_name_));
  std::string out;
  const auto value = [&](std::string_view name, std::string_view type, std::string_view help, auto x,
                         std::string_view more = "") {
    if (more.empty()) head(out, name, type, help);
    fmt::format_to(std::back_inserter(out), "{}{{{}{}}} {}\n", name, labels, more, x);
  };
  value("vllm:num_requests_running", "gauge", "Sequences being generated.", e.running);
  value("vllm:num_requests_waiting", "gauge", "Sequences waiting to be generated.", e.waiting);
  value("vllm:kv_cache_usage_perc", "gauge", "Share of the KV cache in use, 1 is all.", e.kv_cache_usage);
  value("vllm:prefix_cache_queries_total", "counter", "Prompt tokens looked up in the prefix cache.",
        e.prefix_cache_queries);
  value("vllm:prefix_cache_hits_total", "counter", "Prompt tokens found in the prefix cache.",
        e.prefix_cache_hits);
  value("vllm:num_preemptions_total", "counter", "Sequences put back to waiting.", e.preemptions);
  value("vllm:prompt_tokens_total", "counter", "Tokens of prompts.", prompt_tokens);
  value("vllm:generation_tokens_total", "counter", "Tokens given to clients.", generation_tokens);

  head(out, "vllm:request_success_total", "counter", "Sequences by how they ended.");
  const auto ended = [&](const char* reason, std::int64_t n) {
    value("vllm:request_success_total", "", "", n, fmt::format(",finished_reason=\"{}\"", reason));
  };
  ended("stop", stopped);
  ended("length", length);
  ended("abort", aborted);
  ended("error", failed);

  first_token_seconds.append(out, "vllm:time_to_first_token_seconds", "Seconds to the first token.", labels);
  inter_token_seconds.append(out, "vllm:inter_token_latency_seconds",
                             "Seconds between updates of a sequence.", labels);
  request_seconds.append(out, "vllm:e2e_request_latency_seconds", "Seconds from request to last token.",
                         labels);

  if (!e.accepted_per_position.empty()) {
    value("vllm:spec_decode_num_drafts_total", "counter", "Drafts.", e.drafts);
    value("vllm:spec_decode_num_draft_tokens_total", "counter", "Tokens drafted.", e.draft_tokens);
    value("vllm:spec_decode_num_accepted_tokens_total", "counter", "Drafted tokens accepted.",
          e.accepted_tokens);
    constexpr const char* kPerPosition = "vllm:spec_decode_num_accepted_tokens_per_pos_total";
    head(out, kPerPosition, "counter", "Drafted tokens accepted, by place in the draft.");
    for (std::size_t i = 0; i < e.accepted_per_position.size(); ++i)
      value(kPerPosition, "", "", e.accepted_per_position[i], fmt::format(",position=\"{}\"", i));
  }
  value("moecheck:http_requests_total", "counter", "HTTP requests.", http_requests);
  value("moecheck:http_refused_total", "counter", "HTTP requests answered with a status of 400 or more.",
        http_refused);
  return out;
}

}  // namespace moecheck::harness::serve
