#pragma once
// The distributions that the tests of this folder stand on, each to about 1e-13 relative, in the tails too.
#include <cstdint>

namespace moecheck::harness {

// log C(n, k); -inf outside 0 <= k <= n.
double log_choose(std::int64_t n, std::int64_t k);
// log P(X = k), X ~ Bin(n, p). Loader's saddle-point form (Loader 2000, "Fast and Accurate Computation of Binomial
// Probabilities"), which does not cancel as a difference of lgamma does.
double log_binomial_pmf(std::int64_t k, std::int64_t n, double p);
double binomial_cdf(std::int64_t k, std::int64_t n, double p);      // P(X <= k)
double binomial_upper(std::int64_t k, std::int64_t n, double p);    // P(X >= k)
double log_binomial_cdf(std::int64_t k, std::int64_t n, double p);  // of the above, where it underflows

double normal_cdf(double z);
double normal_upper(double z);     // P(Z >= z), exact far out
double normal_quantile(double p);  // z with P(Z <= z) = p; +-inf at 1 and 0

// P(X >= k) where k of `draws` taken without return from `total` are special, and `special` of the total are:
// Fisher's one-sided test.
double hypergeometric_upper(std::int64_t k, std::int64_t total, std::int64_t special, std::int64_t draws);

}  // namespace moecheck::harness
