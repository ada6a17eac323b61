#pragma once
// One row of a gate, from numbers written in a test.
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "reference/gating.h"

namespace moecheck::tests {

using namespace reference;  // NOLINT: tests of the reference

inline std::vector<std::byte> packed(DType dtype, const std::vector<double>& values) {
  std::vector<std::byte> bytes(values.size() * static_cast<std::size_t>(size_bytes(dtype)));
  for (std::size_t i = 0; i < values.size(); ++i) {
    store(dtype, bytes.data(), static_cast<std::int64_t>(i), values[i]);
  }
  return bytes;
}

// A gate run on one row of logits (and a bias, empty for none); has_bias follows from that.
struct GateRun {
  Gating gate;
  GatingRow row;
  std::vector<std::int64_t> ids;
  std::vector<Bounded> weights;

  GateRun(GatingOptions options, const std::vector<double>& logits, const std::vector<double>& bias = {})
      : gate(with_bias(options, !bias.empty())) {
    const auto& o = gate.options();
    const auto l = packed(o.logits_dtype, logits), b = packed(o.bias_dtype, bias);
    const auto columns = static_cast<std::int64_t>(logits.size());
    gate.scores({l.data(), o.logits_dtype, Shape(1, columns)},
                {bias.empty() ? nullptr : b.data(), o.bias_dtype, Shape(o.experts)}, 0, row);
    gate.select(row, ids);
    gate.weights(row, ids, weights);
  }

  std::vector<double> values() const {
    std::vector<double> v;
    for (const auto& w : weights) v.push_back(w.value);
    return v;
  }

 private:
  static GatingOptions with_bias(GatingOptions o, bool has_bias) {
    o.has_bias = has_bias;
    return o;
  }
};

inline GatingOptions sizes(std::int64_t experts, std::int64_t groups, std::int64_t topk_group,
                           std::int64_t topk) {
  GatingOptions o;
  o.experts = experts;
  o.groups = groups;
  o.topk_group = topk_group;
  o.topk = topk;
  return o;
}

// Decimals as the hand computation gives them.
inline std::vector<std::string> six_decimals(const std::vector<double>& values) {
  std::vector<std::string> out;
  for (double v : values) {
    char text[64];
    std::snprintf(text, sizeof text, "%.6f", v);
    out.emplace_back(text);
  }
  return out;
}

inline std::vector<double> normal(std::size_t n, std::uint32_t seed, double mean = 0, double deviation = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> distribution(mean, deviation);
  std::vector<double> v(n);
  for (auto& x : v) x = static_cast<float>(distribution(engine));
  return v;
}

// The logit whose sigmoid is s, for vectors given as scores.
inline double logit(double s) { return std::log(s / (1 - s)); }

}  // namespace moecheck::tests
