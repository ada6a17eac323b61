#pragma once
// The score functions of gating.h with the error of an honest fp32 implementation, in closed form: internal
// to the reference.
#include <algorithm>
#include <cstdint>
#include <limits>

#include "reference/gating.h"

namespace moecheck::reference {

// Growth of exp's error with |x|, in units of u. A bias added to the logits is one more rounding of x: 1 in
// `proven` where x itself is the argument.
struct ArgumentError {
  double proven = 2.5, sigma = 1;
};

Bounded sigmoid_score(double x, ScoreMath math, ArgumentError arg = {});
// Scores of one row, x [n] -> scores [n].
void sigmoid_scores(const double* x, std::int64_t n, ScoreMath math, ArgumentError arg, Bounded* scores);
// `sums`: each x is a logit plus a bias, rounded. That error is one of x, which may be far larger than x - max.
void softmax_scores(const double* x, std::int64_t n, bool sums, Bounded* scores);
void sqrt_softplus_scores(const double* x, std::int64_t n, ScoreMath math, ArgumentError arg,
                          Bounded* scores);

// round_to(), quick for what scores are.
double round_score(DType dtype, double v);
// The two-neighbour rule; an interval that rounds to one number is that number, exactly.
Bounded round_score(DType dtype, const Bounded& b);
// value +- proven, a sum of two that the implementation adds in fp32 and rounds to `dtype` where that is
// narrower. Exact terms (proven == 0) have one right sum, which every IEEE implementation finds. A narrow sum
// is rounded once by some and twice (fp32 first) by others; the u covers both.
Bounded rounded_sum(DType dtype, double value, double sigma, double proven);
// The dtype of a sum: the same, or f32 where they differ (bf16 + f16 promotes too).
inline DType wider(DType a, DType b) { return a == b ? a : DType::kF32; }

// Which of two numbers an honest implementation finds larger, ties apart.
inline Order order_by_value(const Bounded& a, const Bounded& b) {
  const double gap = a.value - b.value, bound = a.proven + b.proven;
  return gap > bound ? Order::kBefore : -gap > bound ? Order::kAfter : Order::kUndecided;
}

// The two largest numbers of a sequence, equal ones counted twice.
struct TopTwo {
  double first = -std::numeric_limits<double>::infinity(), second = first;
  void add(double v) {
    second = std::max(second, std::min(first, v));
    first = std::max(first, v);
  }
  double sum() const { return first + second; }
};

}  // namespace moecheck::reference
