#pragma once
// What a check concludes, as data.
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moecheck::harness {

enum class Verdict : std::uint8_t {
  kPass,
  kFail,  // an element is beyond its proven bound, or a clause of the contract is broken
  kSuspect,  // within the proven bound, beyond 6 sigma: no honest implementation is expected there in 1e9 elements
  kUndecided,  // right up to what near-ties of the inputs or the contract leave open; counted, never a failure
  kMistrusted,  // it matched, but the check could not have failed: reference all zero, or bounds as large as the data
  kOracle,  // the reference fails its own judge: a bug of moecheck, not of the implementation
  kSkip,    // not run, with a reason
  kCrash,   // the process that ran it died
  kTimeout,
  kWaived,  // a known failure, with its issue
};

std::string_view name(Verdict v);  // "PASS", "FAIL", ...
bool parse_verdict(std::string_view text, Verdict& v);
// FAIL, SUSPECT, MISTRUSTED, ORACLE, CRASH, TIMEOUT: what makes `check` exit with 1.
bool is_failure(Verdict v);
// The more severe of two: the order a record's overall verdict is taken in.
Verdict worse(Verdict a, Verdict b);

// One element of an output beside what was expected of it.
struct Element {
  std::string output;
  std::vector<std::int64_t> index;  // coordinates in the output
  double expected = 0;              // the reference's value, before rounding to the output's dtype
  double low = 0, high = 0;  // the accepted results: [round(expected - bound), round(expected + bound)]
  double got = 0;
  double error = 0;  // |got - expected|
  double bound = 0;  // the error at which it fails
  double ratio = 0;  // error / bound; Inf where bound is 0 and error is not
  std::string note;  // "id 7 instead of 3", where numbers do not say it
};

// Global figures for readers who know them. They gate nothing.
struct Metrics {
  double max_relative_row = 0;  // largest ||got - expected|| / ||expected|| of a row
  double cosine = 1;
  double nmse = 0;       // ||d||^2 / ||expected||^2
  double calc_diff = 0;  // 1 - 2<x,y> / (|x|^2 + |y|^2), DeepGEMM's
  double bias = 0;       // mean signed error over mean bound: one-sided rounding shows here
};

// One clause of the contract or one metamorphic relation, beside the comparison itself.
struct ClauseResult {
  std::string name;  // "determinism", "token_permutation", ...
  Verdict verdict = Verdict::kPass;
  std::string detail;  // what broke, or why it was not asked
};

// The comparison of one run's outputs with the reference.
struct Judgement {
  Verdict verdict = Verdict::kPass;
  std::string reason;         // one sentence; empty on PASS
  std::string cause;          // the likely cause, where known
  std::int64_t elements = 0;  // compared
  std::int64_t failed = 0;    // beyond the proven bound
  std::int64_t suspect = 0;
  std::int64_t undecided = 0;    // rows or elements left open, by near-ties or by the contract
  double headroom = 0;           // the largest error / bound, on a pass too
  std::optional<Element> worst;  // the element with the largest ratio
  Metrics metrics;
  std::vector<ClauseResult> clauses;

  void raise(Verdict v, std::string why);  // takes the worse verdict; keeps the first reason of that severity
};

}  // namespace moecheck::harness
