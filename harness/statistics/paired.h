#pragma once
// Two runs A and B over the same n questions: only the questions that flip tell them apart.
//
//   d_i = B_i - A_i in {-1, 0, 1}   n10 = regressions (A right, B wrong)   n01 = fixes   psi = (n10 + n01)/n
#include <cstdint>
#include <span>
#include <vector>

#include "harness/statistics/accuracy.h"

namespace moecheck::harness {

struct PairedCounts {
  std::int64_t both = 0, regressions = 0, fixes = 0, neither = 0;

  std::int64_t n() const { return both + regressions + fixes + neither; }
  std::int64_t discordant() const { return regressions + fixes; }
  double discordance() const;     // psi; 0 for n = 0
  double difference() const;      // mean of d: (n01 - n10)/n
  double standard_error() const;  // sqrt((n10 + n01 - (n01 - n10)^2/n) / (n (n-1)))
};
PairedCounts paired_counts(const std::vector<bool>& a, const std::vector<bool>& b);  // equal sizes

// McNemar's exact test: given m = n10 + n01 flips, n10 ~ Bin(m, 1/2) when neither is better.
double mcnemar_two_sided(const PairedCounts& c);  // min(1, 2 P(Bin <= min(n10, n01)))
double mcnemar_worse(const PairedCounts& c);      // P(Bin >= n10): small when B is worse

// Tango 1998 (Statistics in Medicine 17:891): the score statistic of H0 "mean d = D".
//   q = (sqrt(b^2 - 4 a c) - b)/(2 a), a = 2n, b = -n01 - n10 + (2n - n01 + n10) D, c = -n10 D (1 - D)
//   z = (n01 - n10 - n D)/sqrt(n (2 q + D (1 - D)))
// where q is P(A right, B wrong) at its maximum likelihood under H0. Good with few flips, and with none on one side.
double tango_z(const PairedCounts& c, double difference);
// The D that are not rejected at two-sided alpha.
Interval tango_interval(const PairedCounts& c, double alpha = 0.05);
// One-sided: B is not worse than A by `margin` (> 0, a fraction): p of H0 "d <= -margin".
double noninferiority_p(const PairedCounts& c, double margin);
// The smallest margin that is proven at one-sided alpha: minus the lower bound of d; never below 0.
double proven_margin(const PairedCounts& c, double alpha = 0.05);

// Percentile interval of the mean difference over `resamples` resamplings of questions, pairs kept together. The same
// seed gives the same interval everywhere.
Interval paired_bootstrap(const PairedCounts& c, int resamples, std::uint64_t seed, double alpha = 0.05);
// The same for any values, one per question (the average over repeated samples, say).
Interval bootstrap_mean(std::span<const double> values, int resamples, std::uint64_t seed,
                        double alpha = 0.05);

// Standard error of a mean of clustered values: sqrt(sum over clusters (sum_{i in c} (x_i - mean))^2)/n
// (Miller 2024, arXiv 2411.00640). `cluster` names each value's.
double clustered_standard_error(std::span<const double> values, std::span<const std::int64_t> cluster);

// Anytime-valid evidence that a flip is rather a regression than a fix: the likelihood ratio against 1/2 of
// P(regression | flip) mixed uniformly over (1/2, 1),
//   E = 2^(m+1) P(Bin(m+1, 1/2) <= n10) / ((m+1) C(m, n10)),  m = n10 + n01.
// Under H0 P(E ever >= 1/alpha) <= alpha (Ville), so it may be watched while the run goes on. As log E.
double log_e_value(std::int64_t regressions, std::int64_t fixes);

// Holm 1979: p-values adjusted for their number; in the order given.
std::vector<double> holm(std::span<const double> p);

}  // namespace moecheck::harness
