#pragma once
// Before a run: how many questions show what. Fractions, not points: 0.01 is one point. z_q is the normal quantile.
#include <cstdint>
#include <optional>

namespace moecheck::harness {

// Two separate runs of n questions each, accuracy near p: the smallest difference found with `power` by a two-sided
// test at alpha. (z_{1-alpha/2} + z_{power}) sqrt(2 p (1-p)/n)
double unpaired_detectable(double p, double n, double alpha = 0.05, double power = 0.8);

// The same questions in both runs, a share psi of which flips: the d with
//   d sqrt(n) = z_{1-alpha/2} sqrt(psi) + z_{power} sqrt(psi - d^2)   (Connor 1987, Biometrics 43:207)
// nullopt where d > psi: not reachable even if every flip is a regression.
std::optional<double> paired_detectable(double psi, double n, double alpha = 0.05, double power = 0.8);

// Non-inferiority: the margin that n questions prove with `power` at one-sided alpha when there is no true difference.
//   (z_{1-alpha} + z_{power}) sqrt(psi/n), and solved for n (rounded up)
double provable_margin(double psi, double n, double alpha = 0.05, double power = 0.8);
std::int64_t questions_for_margin(double psi, double margin, double alpha = 0.05, double power = 0.8);

// ---- The noise floor: a greedy server is not deterministic, since batching changes the order of sums

// Flips between two runs of the SAME engine, from the standard deviation of repeated scores over n questions:
// psi0 = 2 n s^2, since Var(A - A') = 2 s^2 = psi0/n.
double noise_discordance(double repeat_sd, double n);
double noise_sd(double psi0, double n);  // of the difference of two such runs: sqrt(psi0/n)

// Whether A/B flips more than A/A: Fisher's exact test, one-sided, on flips of questions. Small p: the outputs changed
// by more than noise (which says nothing about the direction).
double excess_flips_p(std::int64_t flips, std::int64_t n, std::int64_t noise_flips, std::int64_t noise_n);

}  // namespace moecheck::harness
