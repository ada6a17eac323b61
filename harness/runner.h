#pragma once
// Runs cases: generate, reference, run, judge, clauses, relations; one Record per (case, implementation).
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "harness/implementation.h"
#include "harness/operator.h"
#include "harness/record.h"

namespace moecheck::harness {

struct CheckOptions {
  bool clauses = true;    // determinism, thread and address independence, guards, inputs unchanged
  bool relations = true;  // metamorphic relations, on cases small enough for them
  int threads = 1;        // for the implementation
  bool relations_of_wrong_outputs =
      false;  // asks them also where the comparison failed, and they say little new
};

// Checks one case with each implementation; data and reference are made once. A refused case gives SKIP records. Never throws for
// what an implementation does.
std::vector<Record> check_case(const Case& c, std::span<const Implementation* const> implementations,
                               const CheckOptions& options);

// A record of this case that holds nothing but its names and the environment; and one without a comparison: why there is none.
Record blank_record(const Case& c, std::string_view implementation);
Record skipped_record(const Case& c, std::string_view implementation, Verdict verdict, std::string why);
// The same, with what --impl takes.
Record blank_record(const Case& c, const Implementation& implementation);
Record skipped_record(const Case& c, const Implementation& implementation, Verdict verdict, std::string why);
// Of a case whose process died: CRASH or TIMEOUT, see workers.h.
Record lost_record(const Case& c, const Implementation& implementation, const std::string& how, bool timeout);

// Judges outputs that someone else computed.
Record judge_outputs(const Case& c, const TensorSet& inputs, const TensorSet& outputs,
                     std::string_view implementation);

// The line of the smallest case that fails as `failing`, the record of c, does. Takes a few seconds at most.
std::string smallest_failing(const Case& c, const Record& failing, const Implementation& implementation,
                             const CheckOptions& options);

struct CampaignOptions {
  CheckOptions check;
  int jobs = 1;                 // worker processes; a crash costs one case, not the run
  double timeout_seconds = 60;  // per case
  bool shrink = true;           // search the smallest failing case of each new failure
  std::string suite;            // written into records
  std::function<void(Record&)>
      amend;  // before anyone sees a record, in any process: waivers. It has no suite yet
  std::function<void(const Record&, std::size_t done, std::size_t total)> on_record;  // in case order
};

// Checks many cases, in order of `cases` whatever the number of jobs. Returns all records.
std::vector<Record> run_campaign(const std::vector<Case>& cases,
                                 std::span<const Implementation* const> implementations,
                                 const CampaignOptions& options);

// The same for cases that come bit by bit: the processes stay between runs, with what implementations set up in them.
class CaseWorkers {
 public:
  CaseWorkers(std::span<const Implementation* const> implementations, const CampaignOptions& options);
  ~CaseWorkers();
  std::vector<Record> run(const std::vector<Case>& cases, std::string_view suite);  // not options.suite

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moecheck::harness
