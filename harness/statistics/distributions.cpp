#include "harness/statistics/distributions.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

namespace moecheck::harness {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kHalfLog2Pi = 0.91893853320467274178;

// log n! - (Stirling's formula): log(n!) - (n + 1/2) log n + n - log(2 pi)/2, by its asymptotic series; for n <= 15
// from n! itself, which a double holds exactly.
double stirling_error(std::int64_t n) {
  const auto x = static_cast<double>(n);
  if (n == 0) return 0;
  if (n <= 15) {
    double factorial = 1;
    for (std::int64_t i = 2; i <= n; ++i) factorial *= static_cast<double>(i);
    return static_cast<double>(std::log(static_cast<long double>(factorial)) -
                               (static_cast<long double>(x) + 0.5L) * std::log(static_cast<long double>(x)) +
                               static_cast<long double>(x) - 0.918938533204672741780329736405617639861L);
  }
  const double r = 1 / x, r2 = r * r;
  return r * (1.0 / 12 - r2 * (1.0 / 360 - r2 * (1.0 / 1260 - r2 * (1.0 / 1680 - r2 * (1.0 / 1188)))));
}

// x log(x/np) + np - x, without cancellation where x is near np.
double deviance(double x, double np) {
  const double d = x - np;
  if (std::abs(d) < 0.1 * (x + np)) {
    const double v = d / (x + np);
    double sum = d * v, term = 2 * x * v;
    for (int j = 1; j < 1000; ++j) {
      term *= v * v;
      const double next = sum + term / (2 * j + 1);
      if (next == sum) break;
      sum = next;
    }
    return sum;
  }
  return x * std::log(x / np) + np - x;
}

// log of the sum of a run of terms that starts at `log_first` and goes on by ratio(i), i = 1, 2, ... while positive.
template <class Ratio>
double log_sum(double log_first, std::int64_t more, Ratio ratio) {
  double term = 1, sum = 1;
  for (std::int64_t i = 1; i <= more; ++i) {
    term *= ratio(i);
    sum += term;
    if (term < sum * 1e-18) break;
  }
  return log_first + std::log(sum);
}

// log P(X <= k) where k is below the mean: terms fall away downwards.
double log_lower_tail(std::int64_t k, std::int64_t n, double p) {
  const double odds = (1 - p) / p;
  return log_sum(log_binomial_pmf(k, n, p), k, [&](std::int64_t i) {
    return static_cast<double>(k - i + 1) / static_cast<double>(n - k + i) * odds;
  });
}

double log_upper_tail(std::int64_t k, std::int64_t n, double p) {
  const double odds = p / (1 - p);
  return log_sum(log_binomial_pmf(k, n, p), n - k, [&](std::int64_t i) {
    return static_cast<double>(n - k - i + 1) / static_cast<double>(k + i) * odds;
  });
}

}  // namespace

double log_choose(std::int64_t n, std::int64_t k) {
  if (k < 0 || k > n) return -kInfinity;
  // From the pmf at p = k/n, where the saddle-point form has no deviance.
  if (k == 0 || k == n) return 0;
  const auto a = static_cast<double>(k), b = static_cast<double>(n - k), c = static_cast<double>(n);
  return stirling_error(n) - stirling_error(k) - stirling_error(n - k) - a * std::log(a / c) -
         b * std::log(b / c) + 0.5 * std::log(c / (a * b)) - kHalfLog2Pi;
}

double log_binomial_pmf(std::int64_t k, std::int64_t n, double p) {
  if (k < 0 || k > n) return -kInfinity;
  if (p <= 0) return k == 0 ? 0 : -kInfinity;
  if (p >= 1) return k == n ? 0 : -kInfinity;
  const auto x = static_cast<double>(k), y = static_cast<double>(n - k), m = static_cast<double>(n);
  if (k == 0) return m * std::log1p(-p);
  if (k == n) return m * std::log(p);
  return stirling_error(n) - stirling_error(k) - stirling_error(n - k) - deviance(x, m * p) -
         deviance(y, m * (1 - p)) + 0.5 * std::log(m / (x * y)) - kHalfLog2Pi;
}

double log_binomial_cdf(std::int64_t k, std::int64_t n, double p) {
  if (k < 0) return -kInfinity;
  if (k >= n || p <= 0) return 0;
  if (p >= 1) return -kInfinity;
  if (static_cast<double>(k) <= static_cast<double>(n) * p) return log_lower_tail(k, n, p);
  return std::log1p(-std::exp(log_upper_tail(k + 1, n, p)));
}

double binomial_cdf(std::int64_t k, std::int64_t n, double p) {
  if (k >= 0 && k < n && p > 0 && p < 1 && static_cast<double>(k) > static_cast<double>(n) * p)
    return 1 - std::exp(log_upper_tail(k + 1, n, p));
  return std::exp(log_binomial_cdf(k, n, p));
}

double binomial_upper(std::int64_t k, std::int64_t n, double p) {
  if (k <= 0) return 1;
  if (k > n || p <= 0) return 0;
  if (p >= 1) return 1;
  if (static_cast<double>(k) >= static_cast<double>(n) * p) return std::exp(log_upper_tail(k, n, p));
  return 1 - std::exp(log_lower_tail(k - 1, n, p));
}

double normal_cdf(double z) { return 0.5 * std::erfc(-z / std::numbers::sqrt2); }
double normal_upper(double z) { return 0.5 * std::erfc(z / std::numbers::sqrt2); }

double normal_quantile(double p) {
  if (!(p > 0)) return p == 0 ? -kInfinity : std::numeric_limits<double>::quiet_NaN();
  if (p >= 1) return p == 1 ? kInfinity : std::numeric_limits<double>::quiet_NaN();
  if (p > 0.5) return -normal_quantile(1 - p);
  // Newton on log P(Z <= z), which is concave: from the left of the root every step stays left of it.
  double z = -std::sqrt(-2 * std::log(p)) - 1;
  for (int i = 0; i < 100; ++i) {
    const double cdf = normal_cdf(z);
    const double density = std::exp(-0.5 * z * z) / std::sqrt(2 * std::numbers::pi);
    const double step = (cdf == 0 ? 1 : std::log(p / cdf) * cdf / density);
    z += step;
    if (std::abs(step) < 1e-15 * (1 + std::abs(z))) break;
  }
  return z;
}

double hypergeometric_upper(std::int64_t k, std::int64_t total, std::int64_t special, std::int64_t draws) {
  const std::int64_t least = std::max<std::int64_t>(0, draws + special - total),
                     most = std::min(draws, special);
  if (k <= least) return 1;
  if (k > most) return 0;
  const auto log_pmf = [&](std::int64_t i) {
    return log_choose(special, i) + log_choose(total - special, draws - i) - log_choose(total, draws);
  };
  double sum = 0;
  for (std::int64_t i = k; i <= most; ++i) sum += std::exp(log_pmf(i));
  return std::min(1.0, sum);
}

}  // namespace moecheck::harness
