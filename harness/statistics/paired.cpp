#include "harness/statistics/paired.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numbers>
#include <numeric>

#include "harness/fault.h"
#include "harness/random.h"
#include "harness/statistics/distributions.h"

namespace moecheck::harness {
namespace {

double real(std::int64_t n) { return static_cast<double>(n); }

// numpy's linear rule: x[floor h] and a share of the next, h = (n-1) q.
double quantile(const std::vector<double>& sorted, double q) {
  const double h = real(static_cast<std::int64_t>(sorted.size()) - 1) * q;
  const auto low = static_cast<std::size_t>(h);
  const std::size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (h - std::floor(h)) * (sorted[high] - sorted[low]);
}

Interval percentiles(std::vector<double> means, double alpha) {
  std::sort(means.begin(), means.end());
  return {quantile(means, alpha / 2), quantile(means, 1 - alpha / 2)};
}

}  // namespace

double PairedCounts::discordance() const { return n() == 0 ? 0 : real(discordant()) / real(n()); }
double PairedCounts::difference() const { return n() == 0 ? 0 : real(fixes - regressions) / real(n()); }

double PairedCounts::standard_error() const {
  if (n() < 2) return std::numeric_limits<double>::quiet_NaN();
  const double m = real(n()), d = real(fixes - regressions);
  return std::sqrt((real(discordant()) - d * d / m) /
                   (m * (m - (HARNESS_FAULT(kPairedErrorOfNSquared) ? 0 : 1))));
}

PairedCounts paired_counts(const std::vector<bool>& a, const std::vector<bool>& b) {
  PairedCounts c;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    ++(a[i] ? (b[i] ? c.both : c.regressions) : (b[i] ? c.fixes : c.neither));
  return c;
}

double mcnemar_two_sided(const PairedCounts& c) {
  if (c.discordant() == 0) return 1;
  return std::min(1.0, (HARNESS_FAULT(kMcnemarOneTail) ? 1 : 2) *
                           binomial_cdf(std::min(c.regressions, c.fixes), c.discordant(), 0.5));
}

double mcnemar_worse(const PairedCounts& c) {
  return c.discordant() == 0 ? 1
                             : binomial_upper(HARNESS_FAULT(kMcnemarCountsSwapped) ? c.fixes : c.regressions,
                                              c.discordant(), 0.5);
}

double tango_z(const PairedCounts& p, double difference) {
  const double n = real(p.n()), n10 = real(p.regressions), n01 = real(p.fixes), d = difference;
  if (p.n() == 0) return 0;
  const double a = 2 * n, b = -n01 - n10 + (2 * n - n01 + n10) * d, c = -n10 * d * (1 - d);
  const double root = std::sqrt(std::max(0.0, b * b - 4 * a * c));
  // The larger root; where b > 0 it is taken from the product of both, which does not cancel.
  const double q = b <= 0 ? (root - b) / (2 * a) : (root + b > 0 ? -2 * c / (root + b) : 0);
  const double numerator = n01 - n10 - n * d;
  const double variance = n * (2 * q + d * (1 - d));
  if (variance <= 0) {
    if (numerator == 0) return 0;
    return numerator > 0 ? std::numeric_limits<double>::infinity() : -std::numeric_limits<double>::infinity();
  }
  return numerator / std::sqrt(variance);
}

Interval tango_interval(const PairedCounts& c, double alpha) {
  if (c.n() == 0) return {-1, 1};
  const double z = normal_quantile(1 - alpha / 2), d = c.difference();
  // tango_z falls as D rises: from +z at the lower end to -z at the upper.
  const auto solve = [&](double low, double high, double wanted) {
    for (int i = 0; i < 200; ++i) {
      const double middle = 0.5 * (low + high);
      if (middle <= low || middle >= high) break;
      (tango_z(c, middle) > wanted ? low : high) = middle;
    }
    return 0.5 * (low + high);
  };
  return {tango_z(c, -1) <= z ? -1 : solve(-1, d, z), tango_z(c, 1) >= -z ? 1 : solve(d, 1, -z)};
}

double noninferiority_p(const PairedCounts& c, double margin) {
  return normal_upper(tango_z(c, HARNESS_FAULT(kNoninferiorityWrongSide) ? margin : -margin));
}

double proven_margin(const PairedCounts& c, double alpha) {
  return std::max(0.0, -tango_interval(c, 2 * alpha).low);
}

Interval paired_bootstrap(const PairedCounts& c, int resamples, std::uint64_t seed, double alpha) {
  const std::int64_t n = c.n();
  if (n == 0 || resamples < 1) return {0, 0};
  const Random random(HARNESS_FAULT(kBootstrapIgnoresSeed) ? 0 : seed, "paired_bootstrap");
  std::vector<double> means(static_cast<std::size_t>(resamples));
  std::uint64_t draw = 0;
  for (double& mean : means) {
    std::int64_t sum = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t at = random.integer(draw++, 0, n - 1);
      sum += at < c.regressions ? -1 : at < c.discordant() ? 1 : 0;
    }
    mean = real(sum) / real(n);
  }
  return percentiles(std::move(means), alpha);
}

Interval bootstrap_mean(std::span<const double> values, int resamples, std::uint64_t seed, double alpha) {
  const auto n = static_cast<std::int64_t>(values.size());
  if (n == 0 || resamples < 1) return {0, 0};
  const Random random(seed, "bootstrap_mean");
  std::vector<double> means(static_cast<std::size_t>(resamples));
  std::uint64_t draw = 0;
  for (double& mean : means) {
    double sum = 0;
    for (std::int64_t i = 0; i < n; ++i)
      sum += values[static_cast<std::size_t>(random.integer(draw++, 0, n - 1))];
    mean = sum / real(n);
  }
  return percentiles(std::move(means), alpha);
}

double clustered_standard_error(std::span<const double> values, std::span<const std::int64_t> cluster) {
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  const double n = real(static_cast<std::int64_t>(values.size()));
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  std::map<std::int64_t, double> sums;
  for (std::size_t i = 0; i < values.size(); ++i) sums[cluster[i]] += values[i] - mean;
  double total = 0;
  for (const auto& [id, sum] : sums) total += sum * sum;
  return std::sqrt(total) / n;
}

double log_e_value(std::int64_t regressions, std::int64_t fixes) {
  const std::int64_t m = regressions + fixes;
  return real(m + 1) * std::numbers::ln2 + log_binomial_cdf(regressions, m + 1, 0.5) - std::log(real(m + 1)) -
         log_choose(m, regressions);
}

std::vector<double> holm(std::span<const double> p) {
  std::vector<std::size_t> order(p.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return p[a] < p[b]; });
  std::vector<double> adjusted(p.size());
  double largest = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    largest = std::max(
        largest, std::min(1.0, static_cast<double>(p.size() - (HARNESS_FAULT(kHolmIsBonferroni) ? 0 : i)) *
                                   p[order[i]]));
    adjusted[order[i]] = largest;
  }
  return adjusted;
}

}  // namespace moecheck::harness
