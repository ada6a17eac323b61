#pragma once
// What a paired comparison may say, and when: exclusive verdicts.
#include <cstdint>
#include <string_view>

#include "harness/statistics/paired.h"

namespace moecheck::harness {

enum class ComparisonVerdict : std::uint8_t {
  kInvalidRun,         // the runs can not be compared; nothing is said about accuracy
  kRegression,         // B is worse (McNemar, one-sided), and not shown to be within the margin
  kWorseWithinMargin,  // B is worse, and by less than the margin: both are proven
  kNoRegression,       // B is not worse than A by the margin (Tango, one-sided)
  kInconclusive,       // none of these is proven: more questions are needed
};
std::string_view name(ComparisonVerdict verdict);  // "NO REGRESSION", ...

struct VerdictInput {
  PairedCounts counts;
  double margin = 0.01;  // fraction
  double alpha = 0.05;
};

struct PairedVerdict {
  ComparisonVerdict verdict = ComparisonVerdict::kInconclusive;
  double worse_p = 1;           // McNemar, one-sided
  double two_sided_p = 1;       // McNemar
  double noninferiority_p = 1;  // Tango at the margin
  double proven_margin = 1;     // what IS proven at alpha
  Interval interval{-1, 1};     // Tango, two-sided, of B - A
  double log_e_value = 0;
  // Questions for a proof of the margin with 80% power at this share of flips and no true difference; 0 when proven. A
  // share of flips of 0 is taken as 1.5/n (half of its 95% upper bound).
  std::int64_t questions_needed = 0;
};
PairedVerdict judge_pairs(const VerdictInput& input);

}  // namespace moecheck::harness
