#pragma once
// /metrics in Prometheus' text format under vLLM's names, so that what reads vLLM's reads ours.
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/serve/engine.h"

namespace moecheck::harness::serve {

class Histogram {
 public:
  explicit Histogram(std::span<const double> bounds) : bounds_(bounds), counts_(bounds.size() + 1, 0) {}
  void add(double value);
  // The series of one metric, `labels` without braces.
  void append(std::string& out, std::string_view name, std::string_view help, std::string_view labels) const;

 private:
  std::span<const double> bounds_;
  std::vector<std::int64_t> counts_;  // per bucket, the last beyond all bounds
  double sum_ = 0;
};

// Counts of what clients were given; what only the engine knows comes from its statistics. One thread.
class Metrics {
 public:
  explicit Metrics(std::string model_name);

  Histogram first_token_seconds, inter_token_seconds, request_seconds;
  std::int64_t prompt_tokens = 0, generation_tokens = 0;
  std::int64_t stopped = 0, length = 0, aborted = 0, failed = 0;  // sequences, by how they ended
  std::int64_t http_requests = 0, http_refused = 0;

  std::string text(const EngineStatistics& engine) const;

 private:
  std::string model_name_;
};

}  // namespace moecheck::harness::serve
