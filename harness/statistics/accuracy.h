#pragma once
// One run: k right of n.
#include <cstdint>
#include <optional>

namespace moecheck::harness {

struct Interval {
  double low = 0, high = 0;
};

// sqrt(p (1-p) / (n-1)): what lm_eval prints as stderr. NaN for n < 2.
double standard_error(std::int64_t k, std::int64_t n);

// Wilson 1927: the p with |k/n - p| <= z sqrt(p (1-p) / n). Near the nominal coverage also close to 0 and 1.
Interval wilson(std::int64_t k, std::int64_t n, double alpha = 0.05);

// Clopper and Pearson 1934: the p for which neither P(X <= k) nor P(X >= k) is below alpha/2. Never covers too little.
Interval clopper_pearson(std::int64_t k, std::int64_t n, double alpha = 0.05);

// ---- What a printed accuracy says about its sample

// The sample size that a mean and a standard error of 0/1 scores imply: n = 1 + p (1-p) / se^2. nullopt for se <= 0.
std::optional<double> implied_n(double p, double se);

// The same as a range, when both are known to `p_digits` and `se_digits` decimals only. high is inf where se may be 0.
struct Range {
  double low = 0, high = 0;
};
Range implied_n_range(double p, int p_digits, double se, int se_digits);

// The k with k/n equal to p once rounded to `digits` decimals; nullopt: no such k, so p is not an accuracy over n.
std::optional<std::int64_t> on_grid(double p, int digits, std::int64_t n);

}  // namespace moecheck::harness
