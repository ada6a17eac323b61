#pragma once
// Records of a campaign, counted one by one: millions of them are not kept.
#include <map>
#include <string>
#include <utility>

#include "harness/record.h"
#include "harness/report/aggregate.h"

namespace moecheck::harness {

// What `suite` says in records of a campaign. Only cases drawn independently of each other bound a failure rate: those made from
// earlier cases, and those that failed before, do not count for it.
inline constexpr std::string_view kDrawn = "fuzz", kFedBack = "fuzz-feedback", kReplayed = "corpus";

class CampaignTally {
 public:
  void add(const Record& r);

  bool empty() const { return rows_.empty(); }
  std::int64_t records() const { return records_; }
  std::int64_t failures() const { return failures_; }
  bool ran() const { return ran_; }  // something other than SKIP

  // Operator x implementation: records per verdict, the largest error over its bound; and of each implementation how many of the
  // drawn cases failed, or "0 failures in N cases bounds the failure rate by 3/N".
  std::string text() const;

 private:
  struct Row {
    report::Tally tally;
    double headroom = 0;
  };
  std::map<std::pair<std::string, std::string>, Row> rows_;
  std::map<std::string, report::Evidence> drawn_;  // by implementation
  std::int64_t records_ = 0, failures_ = 0;
  bool ran_ = false;
};

}  // namespace moecheck::harness
