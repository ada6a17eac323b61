#pragma once
// Records, counted: what the console summary and the HTML report show of many of them.
#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/record.h"

namespace moecheck::harness::report {

inline constexpr std::size_t kVerdicts = 10;
// In the order in which people want to see them: the good, the bad, the open, the absent.
inline constexpr std::array<Verdict, kVerdicts> kReadingOrder = {
    Verdict::kPass,  Verdict::kFail,    Verdict::kSuspect,   Verdict::kMistrusted, Verdict::kOracle,
    Verdict::kCrash, Verdict::kTimeout, Verdict::kUndecided, Verdict::kSkip,       Verdict::kWaived};

struct Tally {
  std::array<std::int64_t, kVerdicts> counts{};

  void add(Verdict v) { ++counts[static_cast<std::size_t>(v)]; }
  std::int64_t operator[](Verdict v) const { return counts[static_cast<std::size_t>(v)]; }
  std::int64_t total() const;
  std::int64_t failures() const;
  Verdict worst() const;  // SKIP when empty
};

// The checks of one operator and implementation on one configuration.
struct Cell {
  std::string model, policy;
  Tally tally;
  std::vector<const Record*> records;
};

// The checks of one implementation of one operator. The records must outlive it.
struct Group {
  std::string operator_name, implementation;
  Tally tally;
  std::int64_t elements = 0, undecided = 0;
  double headroom = 0;  // the largest
  double run_seconds = 0;
  std::int64_t cases = 0,
               failed_cases = 0;  // different case lines that ran: a repeated one is no new evidence
  std::vector<const Record*> records;
  std::vector<Cell> cells;
};

// In the order in which the records first name them.
std::vector<Group> group_records(std::span<const Record> records);

// Different case lines that ran (neither SKIP nor WAIVED), and how many of them failed.
struct Evidence {
  std::int64_t cases = 0, failed = 0;
};
Evidence evidence(std::span<const Record* const> records);
// "0 failures in 1,200 cases bounds the failure rate by 3/1200 = 0.25% at 95%", or how many failed, or that
// nothing ran. From (1 - p)^N = 5%: p is about 3 / N. Under 30 cases the exact 1 - 5%^(1/N) is given.
std::string evidence_text(const Evidence& e);

// How often each kernel of an implementation ran, over all records; see kernel_use.h.
struct Kernels {
  std::string implementation;
  KernelUse use;
};
// Implementations without a choice among kernels are left out. Names begin with the operator: "gating: cuda wave 32 ...".
std::vector<Kernels> kernels(std::span<const Record> records);

// The worst element where it is part of what went wrong; nullptr where only a clause broke or the run died.
const Element* wrong_element(const Judgement& j);

// What became of a promise. The runner writes a clause that was not checked as SKIP, with a detail that
// starts with "not promised: " where the implementation never made the promise.
enum class ClauseState : std::uint8_t { kKept, kBroken, kNotPromised, kNotAsked };
ClauseState clause_state(const ClauseResult& clause);
inline constexpr std::string_view kNotPromisedPrefix = "not promised: ";

// Texts and how often each occurs, the most frequent first.
struct Reason {
  std::string text;
  std::int64_t count = 0;
};
class Reasons {
 public:
  void add(const std::string& text) { ++counts_[text]; }
  bool empty() const { return counts_.empty(); }
  std::vector<Reason> sorted() const;

 private:
  std::map<std::string, std::int64_t> counts_;
};

}  // namespace moecheck::harness::report
