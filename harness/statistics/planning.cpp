#include "harness/statistics/planning.h"

#include <algorithm>
#include <cmath>

#include "harness/fault.h"
#include "harness/statistics/distributions.h"

namespace moecheck::harness {

double unpaired_detectable(double p, double n, double alpha, double power) {
  return (normal_quantile(1 - alpha / 2) + normal_quantile(power)) * std::sqrt(2 * p * (1 - p) / n);
}

std::optional<double> paired_detectable(double psi, double n, double alpha, double power) {
  const double za = normal_quantile(1 - alpha / 2), zb = normal_quantile(power), root = std::sqrt(n);
  // The excess of d sqrt(n) over what is needed rises with d.
  const auto excess = [&](double d) {
    return d * root - za * std::sqrt(psi) - zb * std::sqrt(std::max(0.0, psi - d * d));
  };
  if (!(psi > 0) || excess(std::min(psi, 1.0)) < 0) return std::nullopt;
  double low = 0, high = psi;
  for (int i = 0; i < 200 && low < high; ++i) {
    const double middle = 0.5 * (low + high);
    if (middle <= low || middle >= high) break;
    (excess(middle) < 0 ? low : high) = middle;
  }
  return high;
}

double provable_margin(double psi, double n, double alpha, double power) {
  return (normal_quantile(1 - alpha) + normal_quantile(power)) * std::sqrt(psi / n);
}

std::int64_t questions_for_margin(double psi, double margin, double alpha, double power) {
  const double z =
      normal_quantile(1 - alpha) + (HARNESS_FAULT(kPlanPowerForgotten) ? 0 : normal_quantile(power));
  return std::max<std::int64_t>(1,
                                static_cast<std::int64_t>(std::ceil(z * z * psi / (margin * margin) - 1e-9)));
}

double noise_discordance(double repeat_sd, double n) { return 2 * n * repeat_sd * repeat_sd; }
double noise_sd(double psi0, double n) { return std::sqrt(psi0 / n); }

double excess_flips_p(std::int64_t flips, std::int64_t n, std::int64_t noise_flips, std::int64_t noise_n) {
  return hypergeometric_upper(flips, n + noise_n, flips + noise_flips, n);
}

}  // namespace moecheck::harness
