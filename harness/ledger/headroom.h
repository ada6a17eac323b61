#pragma once
// How close passing checks come to their bounds, kept per commit: drift shows
// here while everything still passes.
//
//   headroom of a check = max over its elements of error / bound          (0:
//   exact, 1: at the bound; on a pass at most 1) max                 = the
//   largest headroom of a group's passing cases q99                 = the
//   smallest headroom that 99% of them do not exceed (nearest rank: number
//   ceil(0.99 n) of n) row_error           = the largest ||got - expected|| /
//   ||expected|| of a row of any of them
//
// The maximum is what fails first, and is a single element: q99 shows that many
// cases moved where the maximum, of one odd case, did not. An output of 16 or 8
// bits is rounded once at the end, which alone brings the best implementation
// to its bound: there the maximum cannot grow, and row_error, which averages
// the rounding, is compared in its place.
#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/record.h"

namespace moecheck::harness::ledger {

// What is compared with what: about 50 groups per implementation in the quick
// suite.
struct HeadroomKey {
  std::string implementation, operator_name, tier;
  std::string dtype;   // the case's field dtype; empty where its operator has none
  std::string device;  // the GPU of the machine, or empty
  auto operator<=>(const HeadroomKey&) const = default;
};
std::string key_text(const HeadroomKey& key);  // "cpu gating realistic bf16"

// One line of the ledger: a group at a commit. Schema moecheck.headroom/1, in
// reports/README.md.
struct Headroom {
  HeadroomKey key;
  std::string commit, compiler, cpu;
  std::int64_t cases = 0;   // that passed (PASS, UNDECIDED) and compared elements
  std::int64_t failed = 0;  // that did neither pass nor skip
  std::string case_set;     // 16 hexadecimal digits of the passing cases' lines:
                            // equal for equal sets
  double max = 0, q99 = 0, row_error = 0;
  std::string worst;  // the case line of the maximum
  friend bool operator==(const Headroom&, const Headroom&) = default;
};

// The groups of the records, in the order in which they first name them. Of
// several records of a case and implementation the last counts. Throws
// UsageError where they are of more than one commit, or a case line cannot be
// read.
std::vector<Headroom> measure_headroom(std::span<const Record> records);

std::string to_json(const Headroom& h);              // one line, no newline
Headroom headroom_from_json(std::string_view line);  // throws UsageError

// A ledger, oldest first. Throws UsageError with path and line, for a torn last
// line too.
std::vector<Headroom> read_ledger(const std::string& path);

// Adds lines, in one step that other processes see whole or not at all. A line
// of the same commit and group is replaced where it stands. The file may be
// missing. Throws UsageError, also for a commit that is not known.
void append_ledger(const std::string& path, std::span<const Headroom> lines);

struct DriftRule {
  double threshold = 1.5;       // a figure that grew by more than this factor drifted
  double floor = 0.05;          // headroom below this is none to worry about, whatever
                                // it was before
  std::int64_t min_cases = 10;  // fewer say too little: their maximum is a few elements' luck
};

struct Drift {
  Headroom now;
  std::optional<Headroom> before;
  std::string not_compared;          // why; empty where they were
  std::vector<std::string> figures;  // that drifted: "max", "q99", "row_error"
  bool drifted() const { return !figures.empty(); }
};

// Each group beside its line of the commit `against` (the beginning of its name
// is enough), or beside its last line of another commit where `against` is
// "last". Throws UsageError where the ledger has no such commit, or more than
// one.
std::vector<Drift> compare_headroom(std::span<const Headroom> now, std::span<const Headroom> ledger,
                                    const std::string& against, const DriftRule& rule);

std::string drift_text(const Drift& d);  // for people: both values and the worst
                                         // cases; ends with a newline

}  // namespace moecheck::harness::ledger
