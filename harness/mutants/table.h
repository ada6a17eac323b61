#pragma once
// What a run of the mutants says: scores with intervals, what killed what, which checks killed nothing.
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "harness/mutants/run.h"
#include "harness/statistics/accuracy.h"

namespace moecheck::harness::mutants {

// killed of asked: equivalent mutants and those that were not run are not asked.
struct Score {
  std::int64_t killed = 0, asked = 0;
  Interval interval() const;  // Wilson, 95%
};
Score score(const std::vector<Result>& results);

// "97.4% (150 of 154; 93.5% to 99.0%)", or "not run" where nothing was asked.
std::string text(const Score& score);

// How often each check was the first to notice a mutant, and how often it noticed one at all where a run looked further
// (Options::exhaustive). Every check that was asked is in it.
inline constexpr const char* kUnitTests = "tests";
struct CheckCount {
  std::string check,
      operators;  // operators: "all", or the operator of a relation; kUnitTests for a unit test
  std::int64_t first = 0, noticed = 0;
};
std::vector<CheckCount> count_checks(const std::vector<Result>& results);

// What `scripts/served_faults.sh` found: does accuracy show the fault? Read from its Markdown table.
struct Served {
  std::string source;                 // the file; empty: not run
  std::map<std::string, bool> shown;  // by fault
};
Served read_served(const std::string& path);  // throws UsageError

struct Campaign {
  std::vector<Result> results;                            // of the CI gate
  std::map<std::string, std::vector<Result>> sanitizers;  // of the sanitizer gate, by sanitizer
  Served served;
  double seconds = 0;  // of the whole run, 0 where it was put together from files
  int jobs = 0;        // 0: nothing was run
};

// Of several results of one mutant at one gate the last stands, but for what an exhaustive run adds to another: who else noticed.
// Faults that are planted no more are left out.
Campaign campaign_of(const std::vector<Result>& results);

std::string summary_text(const Campaign& campaign);    // for the console
std::string table_markdown(const Campaign& campaign);  // for reports/

}  // namespace moecheck::harness::mutants
