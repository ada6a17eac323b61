#pragma once
// Detection limits: the smallest fault that a gate catches, with 95% confidence that it catches at least 95 of 100 such faults.
//
//   caught at m     k of n trials with other data, places and signs, where the exact one-sided bound (Clopper and Pearson) of
//                   k/n is at least 0.95: 59 of 59, 92 of 93, ...
//   limit           the smallest m of a grid from which on all larger m of it are caught too
//
// A gate that also rejects the outputs before anything is wrong with them catches everything: its false alarms are counted.
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/case.h"
#include "harness/detection/faults.h"
#include "harness/implementation.h"

namespace moecheck::harness::detection {

inline constexpr double kPower = 0.95, kConfidence = 0.95;

// The largest number of misses in n trials that still shows kPower at kConfidence; -1 where even none would not.
int allowed_misses(int trials);

struct Limit {
  std::optional<double> smallest;  // nothing: not even the largest magnitude is caught
  std::optional<double> missed;    // the largest magnitude that is not caught; nothing: all of the grid are
};

// Gates are bits of a mask. `probe` says which of the gates `asked` catch the fault of magnitude grid[m] in a trial; gates whose
// limit is known are not asked again. `grid` ascends; at most 32 gates. Throws UsageError for too few trials.
using Probe = std::function<std::uint32_t(std::size_t m, int trial, std::uint32_t asked)>;
std::vector<Limit> search_limits(std::span<const double> grid, int trials, int gates, const Probe& probe);

// ---- Of an implementation's cases

// The columns of the results: what any comparison could see at best ("bits": the output's bits changed), moecheck's own judge
// ("moecheck"), and gates().
struct Column {
  std::string name, formula, source;
};
std::span<const Column> columns();
inline constexpr std::size_t kBits = 0, kOwn = 1, kFirstForeign = 2;

struct ColumnLimit {
  bool asked = false;  // sorted_weights is of gating alone
  Limit limit;
};

struct FamilyLimits {
  Family family = Family::kScaled;
  double largest = 0;                // of the grid
  std::vector<ColumnLimit> columns;  // as columns()
};

struct CaseLimits {
  std::string case_line, implementation, operator_name, tier, dtype, shape, output;
  double rms = 0;    // of the output, in the first trial: absolute tolerances are to be read beside it
  std::string lost;  // why there are no results: a crash, a timeout
  std::vector<int> false_alarms;  // of each column, in `trials` outputs without a fault
  std::vector<FamilyLimits> families;
};

// Trial t of a line has seed line.seed + t. Throws UsageError for a case without an output of real numbers.
CaseLimits limits_of(const Case& c, const Implementation& implementation, int trials);

struct StudyOptions {
  int trials = 59;
  int jobs = 1;
  double timeout_seconds = 600;                                                           // per line
  std::function<void(const CaseLimits&, std::size_t done, std::size_t total)> on_result;  // in order
};
struct StudyItem {
  Case c;
  const Implementation* implementation;
};
// The same results for any number of jobs.
std::vector<CaseLimits> study(const std::vector<StudyItem>& items, const StudyOptions& options);

// Some shapes, dtypes and tiers of each operator with real outputs.
std::vector<std::string> default_lines();

// Where a foreign gate without false alarms catches a smaller fault than moecheck's own judge.
struct Weakness {
  const CaseLimits* at;
  const FamilyLimits* family;
  std::size_t column;
};
std::vector<Weakness> weaker_than_others(std::span<const CaseLimits> results);

}  // namespace moecheck::harness::detection
