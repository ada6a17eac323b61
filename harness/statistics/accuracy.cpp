#include "harness/statistics/accuracy.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "harness/fault.h"
#include "harness/statistics/distributions.h"

namespace moecheck::harness {
namespace {

// The root of a function that rises from below 0 at `low` to above 0 at `high`.
template <class F>
double bisect(double low, double high, F f) {
  for (int i = 0; i < 200; ++i) {
    const double middle = 0.5 * (low + high);
    if (middle <= low || middle >= high) break;
    (f(middle) < 0 ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

}  // namespace

double standard_error(std::int64_t k, std::int64_t n) {
  if (n < 2) return std::numeric_limits<double>::quiet_NaN();
  const double p = static_cast<double>(k) / static_cast<double>(n);
  return std::sqrt(p * (1 - p) / static_cast<double>(n - 1));
}

Interval wilson(std::int64_t k, std::int64_t n, double alpha) {
  if (n <= 0) return {0, 1};
  const double z = normal_quantile(1 - alpha / (HARNESS_FAULT(kWilsonOneSided) ? 1 : 2)), z2 = z * z,
               m = static_cast<double>(n);
  const double p = static_cast<double>(k) / m, middle = (p + z2 / (2 * m)) / (1 + z2 / m);
  const double half =
      z / (1 + z2 / m) * std::sqrt(p * (1 - p) / m + (HARNESS_FAULT(kWilsonIsWald) ? 0 : z2 / (4 * m * m)));
  return {k == 0 ? 0 : std::max(0.0, middle - half), k == n ? 1 : std::min(1.0, middle + half)};
}

Interval clopper_pearson(std::int64_t k, std::int64_t n, double alpha) {
  if (n <= 0) return {0, 1};
  Interval i{0, 1};
  if (k > 0)
    i.low = bisect(0, 1, [&](double p) {
      return binomial_upper(k, n, p) - alpha / (HARNESS_FAULT(kClopperPearsonOneSided) ? 1 : 2);
    });
  if (k < n) i.high = bisect(0, 1, [&](double p) { return alpha / 2 - binomial_cdf(k, n, p); });
  return i;
}

std::optional<double> implied_n(double p, double se) {
  if (!(se > 0) || p < 0 || p > 1) return std::nullopt;
  return 1 + p * (1 - p) / (se * se);
}

Range implied_n_range(double p, int p_digits, double se, int se_digits) {
  const double dp = 0.5 * std::pow(10, -p_digits), ds = 0.5 * std::pow(10, -se_digits);
  const auto spread = [](double q) { return std::clamp(q, 0.0, 1.0) * (1 - std::clamp(q, 0.0, 1.0)); };
  const bool middle = p - dp <= 0.5 && p + dp >= 0.5;
  const double least = std::min(spread(p - dp), spread(p + dp));
  const double most = middle ? 0.25 : std::max(spread(p - dp), spread(p + dp));
  const double small = se - ds;
  return {1 + least / ((se + ds) * (se + ds)),
          small > 0 ? 1 + most / (small * small) : std::numeric_limits<double>::infinity()};
}

std::optional<std::int64_t> on_grid(double p, int digits, std::int64_t n) {
  if (n <= 0) return std::nullopt;
  // A hair wider than half a unit: ties round either way.
  const double m = static_cast<double>(n), half = 0.5 * std::pow(10, -digits) * (1 + 1e-9);
  const auto k = static_cast<std::int64_t>(std::llround(p * m));
  for (std::int64_t i = std::max<std::int64_t>(0, k - 1); i <= std::min(n, k + 1); ++i)
    if (std::abs(static_cast<double>(i) / m - p) <= half) return i;
  return std::nullopt;
}

}  // namespace moecheck::harness
