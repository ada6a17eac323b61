#pragma once
// Two runs over the same questions: what changed, whether it is worse, and whether the question may be asked at all.
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "harness/statistics/verdict.h"
#include "harness/tasks/sample.h"

namespace moecheck::harness {

struct CompareOptions {
  double margin = 0.01;         // fraction
  double alpha = 0.05;          // one-sided
  std::string filter;           // the primary one; empty: the first of the task
  double max_failed = 0.01;     // of the questions of either run
  double max_truncated = 0.05;  // of the answers of either run
  bool whole_texts = false;     // compare what stands behind a stop string too; scores never depend on it
};

struct FilterComparison {
  std::string filter;
  Accuracy a, b;
  PairedCounts counts;
  PairedVerdict verdict;
  double holm_worse_p = 1;         // worse_p adjusted for the number of filters
  std::int64_t stopped_after = 0;  // questions after which the e-value reached 1/alpha; 0: never
};

// Where two texts part, in characters; -1: they do not.
std::int64_t first_divergence(std::string_view a, std::string_view b);

struct Flip {
  std::int64_t doc_id = 0;
  bool regression = false;
  std::string a_extracted, b_extracted;
  Outcome a_outcome = Outcome::kWrong, b_outcome = Outcome::kWrong;
  std::int64_t divergence = -1;
  std::string a_text, b_text;  // around it
};

struct Agreement {
  std::int64_t compared = 0, identical = 0;
  std::int64_t a_past_stop = 0, b_past_stop = 0;  // texts that go on behind a stop string: compared up to it
  std::int64_t median_divergence = -1;            // of the texts that differ, in characters
  double share() const {
    return compared == 0 ? 0 : static_cast<double>(identical) / static_cast<double>(compared);
  }
};

struct OutcomeChange {  // of one kind of completion, over the pairs
  std::string kind;     // "truncated", "empty", "run on", "invalid"
  std::int64_t a = 0, b = 0;
  double p = 1;  // McNemar, two-sided
};

// A again, and A: what the same engine does twice.
struct NoiseFloor {
  PairedCounts counts;  // primary filter
  Agreement texts;
  double sd = 0;             // of a difference of two such runs of A/B's size, fraction
  double excess_p = 1;       // flips of A/B beyond those of A/A, Fisher
  double excess_text_p = 1;  // the same for texts that differ
};

struct Comparison {
  std::string task, a_model, b_model, a_path, b_path, task_hash;
  std::vector<std::string> until;  // texts are compared up to the first of these
  CompareOptions options;
  std::size_t primary = 0;  // in filters
  std::int64_t pairs = 0;   // answered in both
  Summary a, b;
  std::vector<FilterComparison> filters;
  std::vector<OutcomeChange> changes;
  Agreement texts;
  std::vector<Flip> flips;  // of the primary filter, regressions first, then by document
  std::optional<NoiseFloor> noise;
  std::vector<std::string> invalid;  // why the runs can not be compared
  std::vector<std::string> notes;    // what to know beside the verdict
  ComparisonVerdict verdict = ComparisonVerdict::kInconclusive;
  std::string reason;  // one sentence with the numbers
};

// Texts are compared up to the stop strings of their generation settings (or else of their task): some servers send these
// and what follows them, others do not.
//
// Tasks are compared by their hashes, not by their names: the same questions and prompts under two names get a note.
// Invalid runs (in `invalid`): other questions, prompts or generation settings; too many failures, or other failures in
// B than in A; the same run twice. Truncation above the limit or changed between the arms makes a run invalid too, but
// never hides a regression: an answer that got longer until it was cut is one.
// `again`: a repeat of A. Throws UsageError for a filter that the runs do not have.
Comparison compare_runs(const Run& a, const Run& b, const Run* again, const CompareOptions& options);

std::string comparison_json(const Comparison& c);

}  // namespace moecheck::harness
