#include "reference/gating_scores.h"

#include <bit>
#include <cmath>

namespace moecheck::reference {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kSqrtThird =
    0.57735026918962576;  // a rounding error uniform in +-u has this standard deviation, in u

// Relative errors in units of u = 2^-24 (one ulp is at most 2 u), the same for every score function:
//   exp        8 u + 2.5 u |x|     4 ulp, and an argument x*log2e that is off by u and by log2e's own
//              rounding; __expf's
//                                  documented 2 + 1.17 |x| ulp lie within
//   1/y, a/b   6 u                 3 ulp: hardware reciprocals, or a division
//   sqrt       6 u                 x * rsqrt(x)
// These errors are mostly systematic, so sigma holds them at their typical size without dividing by a square
// root:
//   exp        4 u + u |x|         1/y  3 u
// Arguments are cut off at 200: beyond it a score is 0 or 1 by a margin no error reaches, and Inf * 0 is not
// met. kFloor: a result, or a factor of it, may be flushed to zero or round as a subnormal.
constexpr double kExpUlps = 8, kExpSigma = 4, kRcpUlps = 6, kRcpSigma = 3, kSqrtUlps = 6, kSqrtSigma = 2;
constexpr double kFloor = 2 * kFlushed32;
constexpr double kCutOff = 200;

}  // namespace

// s = 1 / (1 + exp(-x)): exp's error enters times ds/s = 1 - s; then one addition and one reciprocal.
// A double that underflows to 0 (x < -709) is exactly 0 in fp32 too.
Bounded sigmoid_score(double x, ScoreMath math, ArgumentError arg) {
  const double s = 1 / (1 + std::exp(-x));
  if (s == 0) return Bounded::exact(0);
  if (math == ScoreMath::kTanh) return {s, 0x1p-24, 0x1p-23};
  const double a = std::fmin(std::fabs(x), kCutOff), us = kU32 * s;
  return {s, us * (1 + kRcpSigma + (1 - s) * (kExpSigma + arg.sigma * a)) + kFloor,
          us * (1 + kRcpUlps + (1 - s) * (kExpUlps + arg.proven * a)) + kFloor};
}

// p_e = t_e / Z, t_e = exp(x_e - max), Z = sum t. The subtraction is one more rounding of the argument. Z in
// any order: gamma_{E-1}, beside the mean of the terms' own errors weighted by their size. Sums of logit and bias move p_e by
// p_e (d_e - mean of d), |d_e| <= u |x_e|; the maximum cancels.
void softmax_scores(const double* x, std::int64_t n, bool sums, Bounded* p) {
  constexpr ArgumentError arg;
  double top = -kInf, z = 0, weighted = 0, magnitude = 0;
  for (std::int64_t e = 0; e < n; ++e) top = std::fmax(top, x[e]);
  for (std::int64_t e = 0; e < n; ++e) {
    const double d = x[e] - top, t = std::exp(d);
    p[e] = {t, std::fmin(-d, kCutOff), 0};  // sigma holds |d| until the second pass
    z += t;
    weighted += t * p[e].sigma;
    if (sums && t > 0) magnitude += t * std::fabs(x[e]);
  }
  magnitude /= z;
  const double mean = weighted / z, slope = arg.proven + 1, slope_sigma = arg.sigma + 1;
  const double base = 2 * kExpUlps + slope * mean + static_cast<double>(n - 1) + kRcpUlps + 1;
  const double base_sigma =
      2 * kExpSigma + slope_sigma * mean + kSqrtThird * std::sqrt(static_cast<double>(n)) + kRcpSigma + 1;
  for (std::int64_t e = 0; e < n; ++e) {
    const double v = p[e].value / z, a = p[e].sigma, uv = kU32 * v;
    p[e] = v == 0
               ? Bounded::exact(0)
               : Bounded{v, uv * (base_sigma + slope_sigma * a) + kFloor, uv * (base + slope * a) + kFloor};
    if (!sums || x[e] == -kInf) continue;
    const double moved = kU32 * (std::fabs(x[e]) + magnitude);  // of the logarithm of p_e
    if (v == 0) {
      if (top - x[e] <= 2 * moved) p[e] = {0, 1, 1};
      continue;
    }
    p[e].sigma = std::fmin(1, p[e].sigma + v * std::expm1(kSqrtThird * moved));
    p[e].proven = std::fmin(1, p[e].proven + v * std::expm1(moved));
  }
}

void sigmoid_scores(const double* x, std::int64_t n, ScoreMath math, ArgumentError arg, Bounded* scores) {
  for (std::int64_t e = 0; e < n; ++e) scores[e] = sigmoid_score(x[e], math, arg);
}

// s = sqrt(y), y = log1p(exp(x)): exp's error enters as dy = sigmoid(x) * error; 2 ulp for the logarithm. As
// log(1 + exp(x)) or with log2 the sum rounds near 1 and a hardware logarithm is absolute there: 2^-21, and
// its slope times 1 + exp(x)'s u. The root bends at 0, so its bound comes from the interval's ends.
static Bounded sqrt_softplus_score(double x, ScoreMath math, ArgumentError arg) {
  const double t = std::exp(-std::fabs(x));
  const double y = (x > 0 ? x : 0) + std::log1p(t);
  if (y == 0) return Bounded::exact(0);
  const double a = std::fmin(std::fabs(x), kCutOff), slope = x > 0 ? 1 / (1 + t) : t / (1 + t);
  double error = kU32 * (slope * (kExpUlps + arg.proven * a) + 6 * y) + kFloor;
  double sigma = kU32 * (slope * (kExpSigma + arg.sigma * a) + 2 * y) + kFloor;
  if (math == ScoreMath::kLog2) {
    error += 0x1p-21;
    sigma += 0x1p-23;
  }
  const double s = std::sqrt(y);
  double bend = error / (1.8 * s);  // error / (s + sqrt(y - error))
  if (error > 0.25 * y) bend = std::fmax(std::sqrt(y + error) - s, s - std::sqrt(std::fmax(0, y - error)));
  return {s, std::fmin(sigma / (2 * s), s) + kU32 * kSqrtSigma * s, bend + kU32 * kSqrtUlps * s};
}

void sqrt_softplus_scores(const double* x, std::int64_t n, ScoreMath math, ArgumentError arg,
                          Bounded* scores) {
  for (std::int64_t e = 0; e < n; ++e) scores[e] = sqrt_softplus_score(x[e], math, arg);
}

// In a format's normal range the mantissa's low bits round to even in place.
double round_score(DType dtype, double v) {
  if (dtype == DType::kF32) return static_cast<float>(v);
  const bool half = dtype == DType::kF16;
  const double a = std::fabs(v);
  if (!(half || dtype == DType::kBF16) || !(a >= (half ? 0x1p-14 : 0x1p-126) && a < (half ? 65000. : 3e38))) {
    return round_to(dtype, v);
  }
  const int drop = half ? 52 - 10 : 52 - 7;
  auto bits = std::bit_cast<std::uint64_t>(v);
  bits += ((bits >> drop) & 1) + (std::uint64_t{1} << (drop - 1)) - 1;
  return std::bit_cast<double>(bits & ~((std::uint64_t{1} << drop) - 1));
}

Bounded round_score(DType dtype, const Bounded& b) {
  const double low = round_score(dtype, b.value - b.proven);
  if (low == round_score(dtype, b.value + b.proven)) return Bounded::exact(low);
  return round_to(dtype, b, Rounding::kRound);
}

Bounded rounded_sum(DType dtype, double value, double sigma, double proven) {
  const double a = std::fabs(value);
  if (std::isinf(proven)) return {value, kInf, kInf};
  if (proven == 0 && (a >= kFlushed32 || value == 0)) {
    const double f = static_cast<float>(value);
    if (dtype == DType::kF32 || std::isinf(value)) return Bounded::exact(std::isinf(value) ? value : f);
    if (f == value) return Bounded::exact(round_score(dtype, value));
  }
  const Bounded sum{value, sigma + kSqrtThird * kU32 * a,
                    proven + kU32 * a + (a < kFlushed32 ? kFlushed32 : 0)};
  return dtype == DType::kF32 ? sum : round_score(dtype, sum);
}

}  // namespace moecheck::reference
