#include "harness/glm4_moe/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "harness/fault.h"
#include "harness/random.h"

namespace moecheck::harness {
namespace {

double number(float logit) { return std::isnan(logit) ? -INFINITY : static_cast<double>(logit); }

TokenId greedy(std::span<const float> logits) {
  TokenId best = 0;
  for (std::size_t i = 1; i < logits.size(); ++i)
    if (number(logits[i]) > number(logits[static_cast<std::size_t>(best)]) ||
        (HARNESS_FAULT(kServeGreedyTakesLast) && logits[i] == logits[static_cast<std::size_t>(best)]))
      best = static_cast<TokenId>(i);
  return best;
}

// Ids, the likeliest first, the lower id among equals; all, or the first n.
std::vector<TokenId> ranked(std::span<const float> logits, std::int64_t n) {
  std::vector<TokenId> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto count = std::min<std::int64_t>(n, static_cast<std::int64_t>(ids.size()));
  std::partial_sort(ids.begin(), ids.begin() + count, ids.end(), [&](TokenId a, TokenId b) {
    const double x = number(logits[static_cast<std::size_t>(a)]),
                 y = number(logits[static_cast<std::size_t>(b)]);
    return x != y ? x > y : a < b;
  });
  ids.resize(static_cast<std::size_t>(count));
  return ids;
}

}  // namespace

TokenId sample(std::span<const float> logits, const Sampling& s, std::int64_t position) {
  if (s.temperature <= 0) return greedy(logits);
  const auto all = static_cast<std::int64_t>(logits.size());
  const std::vector<TokenId> ids = ranked(logits, s.top_k > 0 ? s.top_k : all);
  const double top = number(logits[static_cast<std::size_t>(ids[0])]);
  if (!std::isfinite(top)) return ids[0];
  std::vector<double> mass;
  for (const TokenId id : ids)
    mass.push_back(std::exp((number(logits[static_cast<std::size_t>(id)]) - top) /
                            (HARNESS_FAULT(kServeTemperatureIgnored) ? 1 : s.temperature)));
  const double total = std::accumulate(mass.begin(), mass.end(), 0.0);
  double kept = 0;
  std::size_t count = 0;
  while (count < mass.size() && (count == 0 || kept < s.top_p * total)) kept += mass[count++];
  double draw = Random(s.seed, "sampling").uniform(static_cast<std::uint64_t>(position)) * kept;
  for (std::size_t i = 0; i < count; ++i) {
    draw -= mass[i];
    if (draw < 0) return ids[i];
  }
  return ids[count - 1];
}

TokenLogprob token_logprob(std::span<const float> logits, TokenId id, int top) {
  double largest = -INFINITY, sum = 0;
  for (const float l : logits) largest = std::max(largest, number(l));
  for (const float l : logits) sum += std::exp(number(l) - largest);
  const auto logprob = [&](TokenId t) {
    const double value = number(logits[static_cast<std::size_t>(t)]) - largest - std::log(sum);
    return std::isfinite(value) ? std::max(value, -9999.0) : -9999.0;
  };
  TokenLogprob result{id, logprob(id), {}};
  if (top > 0)
    for (const TokenId t : ranked(logits, top)) result.top.emplace_back(t, logprob(t));
  return result;
}

}  // namespace moecheck::harness
