#pragma once
// The end of a pull request: is the change right, and what does it cost or gain? As Markdown to paste, and as a page with
// plots. Every number, command and environment comes from the files of the two arms.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "harness/load/compare.h"
#include "harness/load/result.h"
#include "harness/tasks/compare.h"
#include "harness/tasks/sample.h"

namespace moecheck::harness {

struct PrArm {
  std::string label;            // "main", "this PR"
  std::optional<Run> accuracy;  // of moecheck eval or lm_eval
  std::vector<load::SavedBench> benches;
};

struct PrInput {
  std::string title = "Accuracy and performance";
  PrArm a, b;                // a: before
  std::optional<Run> again;  // a repeat of a's accuracy run
  CompareOptions compare;
  std::string command;  // that makes this report again
};

// What both forms are made from.
struct PrReport {
  PrInput input;
  std::optional<Comparison> accuracy;
  std::vector<load::SweepRow> sweep;

  bool failed()
      const;  // a regression or an invalid accuracy run, or something worse beyond noise in the sweep
};

// Throws UsageError when there is nothing of both arms to compare.
PrReport make_pr_report(PrInput input);

std::string pr_markdown(const PrReport& report);
std::string pr_html(const PrReport& report);  // no script, nothing loaded

}  // namespace moecheck::harness
