#pragma once
// Many random cases at full speed: generate, reference, run, judge; no clauses, no records but of failures.
#include <cstdint>
#include <string>
#include <vector>

#include "harness/implementation.h"
#include "harness/operator.h"

namespace moecheck::harness {

struct JudgingOptions {
  std::int64_t rows = 1'000'000;  // tokens in all, shared evenly by the lines
  std::int64_t cases = 0;         // cases in all, instead of rows; 0: as rows says
  std::uint64_t first_seed = 1;   // case i of a line has seed first_seed + i
  int jobs = 1;
};

struct JudgingResult {
  std::int64_t cases = 0, rows = 0, undecided = 0;
  double seconds = 0;                 // of the whole run
  double core_seconds = 0;            // summed over the jobs
  std::vector<std::string> failures;  // case lines, at most 100
  std::int64_t failed = 0;
};

// Every line with seed after seed until the rows are done. Throws UsageError for refused or unsupported lines.
JudgingResult judge_many(const std::vector<Case>& cases, const Implementation& implementation,
                         const JudgingOptions& options);

// The quick suite's cases of one operator that `implementation` supports, for other seeds.
std::vector<Case> judging_cases(const Operator& op, const Implementation& implementation);
// One 4-token case of every gating policy and dtype it accepts.
std::vector<Case> judging_cases();

}  // namespace moecheck::harness
