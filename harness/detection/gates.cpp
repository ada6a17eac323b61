#include "harness/detection/gates.h"

#include <algorithm>
#include <cmath>

namespace moecheck::harness::detection {
namespace {

// torch.isclose(a, b): the relative part is of b. False for NaN; infinities are close to themselves.
bool is_close(double a, double b, double atol, double rtol) {
  return a == b || std::fabs(a - b) <= atol + rtol * std::fabs(b);
}

struct Sums {
  double dot = 0, expected2 = 0, got2 = 0, difference2 = 0;
};

Sums sums(const Compared& c) {
  Sums s;
  for (std::size_t i = 0; i < c.expected.size(); ++i) {
    const double e = c.expected[i], g = c.got[i];
    s.dot += e * g, s.expected2 += e * e, s.got2 += g * g, s.difference2 += (e - g) * (e - g);
  }
  return s;
}

//   all |got - expected| <= 2e-2
bool allclose(const Compared& c) {
  for (std::size_t i = 0; i < c.expected.size(); ++i)
    if (!is_close(c.got[i], c.expected[i], 2e-2, 0)) return false;
  return true;
}

//   share of |expected - got| <= 0.1 + 0.85 |got|  is at least 0.8; no NaN or Inf.
// The kernel is isclose's second argument, so that the tolerance grows with what is wrong.
bool match_ratio(const Compared& c) {
  std::size_t close = 0;
  for (std::size_t i = 0; i < c.expected.size(); ++i) {
    if (!std::isfinite(c.got[i])) return false;
    close += is_close(c.expected[i], c.got[i], 0.1, 0.85);
  }
  return static_cast<double>(close) >= 0.8 * static_cast<double>(c.expected.size());
}

//   1 - 2<x,y> / (<x,x> + <y,y>) < 1e-3; 0 for two zero tensors.
bool calc_diff(const Compared& c) {
  const Sums s = sums(c);
  const double denominator = s.expected2 + s.got2;
  return denominator == 0 || 1 - 2 * s.dot / denominator < 1e-3;
}

//   sum (got - expected)^2 / sum got^2 <= 5e-4; no NaN. 0/0, of two zero tensors, is no error.
bool nmse(const Compared& c) {
  if (std::any_of(c.got.begin(), c.got.end(), [](double g) { return !std::isfinite(g); })) return false;
  const Sums s = sums(c);
  return !(s.difference2 / s.got2 > 5e-4);
}

//   <x,y> / (|x| |y|) > 0.99; torch keeps the denominator from being less than 1e-8.
bool cosine(const Compared& c) {
  const Sums s = sums(c);
  return s.dot / std::max(1e-8, std::sqrt(s.expected2 * s.got2)) > 0.99;
}

template <class T>
std::vector<T> rows_sorted(std::vector<T> values, std::int64_t columns) {
  for (auto row = values.begin(); row != values.end(); row += columns) std::sort(row, row + columns);
  return values;
}

//   the ids of a row, sorted, are equal; its weights, sorted on their own, are within 1e-3 + 1e-2 |got|.
bool sorted_weights(const Compared& c) {
  if (rows_sorted(c.expected_ids, c.columns) != rows_sorted(c.got_ids, c.columns)) return false;
  // NaN has no place in an order, and is close to nothing.
  if (std::any_of(c.got.begin(), c.got.end(), [](double g) { return std::isnan(g); })) return false;
  const std::vector<double> expected = rows_sorted(c.expected, c.columns),
                            got = rows_sorted(c.got, c.columns);
  for (std::size_t i = 0; i < got.size(); ++i)
    if (!is_close(expected[i], got[i], 1e-3, 1e-2)) return false;
  return true;
}

constexpr Gate kGates[] = {
    {"allclose", "all |got - ref| <= 2e-2", "vLLM tests/kernels/moe/test_moe.py: atol=2e-2, rtol=0",
     allclose},
    {"match_ratio", "|ref - got| <= 0.1 + 0.85 |got| for at least 80% of the elements",
     "FlashInfer tests/moe/trtllm_gen_fused_moe_utils.py check_accuracy: percent is 0.79 to 0.925 there",
     match_ratio},
    {"calc_diff", "1 - 2<x,y>/(<x,x> + <y,y>) < 1e-3", "DeepGEMM deep_gemm/testing/numeric.py calc_diff, FP8",
     calc_diff},
    {"nmse", "sum (got - ref)^2 / sum got^2 <= 5e-4",
     "ggml tests/test-backend-ops.cpp nmse, quantized mul_mat", nmse},
    {"cosine", "<x,y>/(|x||y|) > 0.99", "FlashInfer tests/model_optimizations/test_dsv3_router_gemm.py",
     cosine},
    {"sorted_weights", "sorted ids equal, sorted weights within 1e-3 + 1e-2 |got|",
     "sglang sgl-kernel/tests/test_moe_fused_gate.py: ids and weights are sorted independently",
     sorted_weights, true},
};

}  // namespace

std::span<const Gate> gates() { return kGates; }

}  // namespace moecheck::harness::detection
