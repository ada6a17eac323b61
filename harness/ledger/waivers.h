#pragma once
// Known failures, each with the issue that will end it.
//
//   {"operator": "gating", "implementation": "gpu-host", "where":
//   "policy=vllm_cuda dtype=f16", "check": "elements",
//    "issue": "vllm-project/vllm#44313", "reason": "...", "added":
//    "2026-11-22", "until": "2027-02-01"}
//
// A failure that a waiver covers becomes WAIVED and keeps all that was found. A
// waiver that is no longer needed is itself a failure, so that the list
// shrinks: an expired waiver would hide the bug when it comes back. The file is
// described in reports/README.md.
#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "harness/case.h"
#include "harness/ledger/issue_reference.h"
#include "harness/record.h"

namespace moecheck::harness::ledger {

using Date = std::chrono::year_month_day;
Date parse_date(std::string_view text);  // "2026-11-22"; throws UsageError
std::string date_text(Date date);
Date today();  // UTC

// What failed of a record, before any waiver: "elements", "crash", "timeout",
// the names of broken clauses and relations, or "run" where it is none of these
// (it threw). Empty where nothing failed, and for ORACLE and MISTRUSTED.
std::vector<std::string> failing_checks(const Record& r);

// The keys of a waiver's line, as written. `case_line` is the key "case".
struct WaiverText {
  std::string operator_name, implementation, case_line, where, check, issue, reason, added, until;
};

class Waiver {
 public:
  // Throws UsageError, which names what is missing or wrong and what to write:
  // without an issue there is no waiver. One of `case_line` and `where` says
  // which cases; `check` and `until` may be empty.
  explicit Waiver(WaiverText text);

  const WaiverText& text() const { return text_; }
  const IssueReference& issue() const { return issue_; }
  std::string pattern() const;      // "gating gpu-host policy=vllm_cuda dtype=f16, check elements"
  bool applies_on(Date day) const;  // up to and on `until`

  bool covers(const Record& r) const;  // whether its operator, implementation and case are meant
  bool covers_check(std::string_view check) const { return text_.check.empty() || text_.check == check; }

  // What a record says of the waiver: that it is still needed, that it is not,
  // or nothing.
  enum class Says : std::uint8_t { kFails, kPasses, kNothing };
  Says says(const Record& r) const;

 private:
  WaiverText text_;
  IssueReference issue_;
  struct Constraint {
    std::string field;
    int index = -1;  // in the schema; -1: model, policy, seed or edit
    Value value;
    std::string text;
  };
  static bool meets(const Case& c, const Constraint& constraint);
  void read_where(const Schema& schema);
  std::vector<Constraint> constraints_;
};

struct WaiverLine {
  std::size_t line = 0;  // in the file, from 1
  Waiver waiver;
};

struct Waivers {
  std::string path;
  std::vector<WaiverLine> lines;

  // Makes a FAIL, SUSPECT, CRASH or TIMEOUT of which every failing check is
  // covered WAIVED. ORACLE and MISTRUSTED are about moecheck itself: no waiver
  // covers them.
  void apply(Record& r, Date day) const;
};

// A line of JSON each; empty lines and lines that start with # are left out.
// Throws UsageError with path and line.
Waivers read_waivers(const std::string& path);

enum class WaiverState : std::uint8_t {
  kOpen,       // a case that it covers fails
  kExpired,    // all that it covers pass: delete it
  kUnused,     // no case that it covers ran
  kOutOfDate,  // `until` is past, and nothing that it covers is known to pass:
               // it waives nothing
};
std::string_view name(WaiverState s);  // "open", "expired", "unused", "out of date"

struct AuditedWaiver {
  const WaiverLine* line = nullptr;
  WaiverState state = WaiverState::kUnused;
  std::int64_t failing = 0, passing = 0;  // cases that it covers, as last seen
};

// What records, waived or not, say of each waiver. Of several records of a case
// and implementation the last counts.
std::vector<AuditedWaiver> audit(const Waivers& waivers, std::span<const Record> records, Date day);

// Sentences for people. `place` is FILE:LINE. Empty where the waiver needs no
// attention.
std::string attention_text(const Waivers& waivers, const AuditedWaiver& audited);

}  // namespace moecheck::harness::ledger
