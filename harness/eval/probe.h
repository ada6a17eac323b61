#pragma once
// Is an answer a matter of what runs beside it? The same prompts, greedy, at concurrency 1, at 1 again, and at N: a server
// whose results do not depend on the batch gives the same texts each time. Two runs at 1 tell the noise that is there
// without any batch.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "harness/eval/evaluation.h"
#include "harness/statistics/paired.h"

namespace moecheck::harness::eval {

struct Divergence {
  std::int64_t doc_id = 0;
  std::size_t at = 0;         // first byte that differs, at a character's start
  std::string before;         // what both have in front of it
  std::string first, second;  // how the two go on
  bool first_right = false, second_right = false;
};

struct TextComparison {
  std::int64_t pairs = 0;               // answered by both
  std::int64_t identical = 0;           // in every byte that is compared
  PairedCounts grades;                  // by the task's first filter
  std::vector<Divergence> divergences;  // all, in document order
};

// Samples of two runs over the same prompts; by document, failed ones left out. Texts are compared up to the first of
// `until`, since servers differ in whether they send a stop string and what follows it.
TextComparison compare_texts(const std::vector<Sample>& first, const std::vector<Sample>& second,
                             std::span<const std::string> until = {});

// A few lines: identical texts of all, flips of grades, and the first `shown` divergences.
std::string divergence_text(const TextComparison& comparison, std::string_view first, std::string_view second,
                            std::size_t shown);

}  // namespace moecheck::harness::eval
