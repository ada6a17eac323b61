#pragma once
// One JSON line per check: what reports, JUnit and later comparisons read, and all they read.
//
// Schema moecheck.record/1, documented in reports/README.md. Unknown keys are ignored on reading; a line of another schema is
// refused with its line number. Numbers that are not finite are written as strings ("inf", "nan").
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harness/kernel_use.h"
#include "harness/verdict.h"

namespace moecheck::harness {

struct Environment {
  std::string version, commit, compiler, build;  // of moecheck
  std::string cpu, os, device;                   // of the machine; device is the GPU's name, or empty
  int threads = 0;                               // hardware threads
};

const Environment& environment();

// What a waiver made of a failure; see ledger/waivers.h. All else of the failure stays in the record.
struct WaivedFailure {
  Verdict verdict = Verdict::kFail;  // without the waiver
  std::string reason;                // the same
  std::vector<std::string> issues;   // "owner/repo#123" or an address
};

struct Record {
  std::string case_line;  // the repro
  std::string operator_name, implementation, model, policy,
      tier;  // tier: the data of the case (realistic, integers, ...)
  std::string suite;
  std::string argument;  // what --impl takes, where it is not the implementation's name
  Judgement result;
  std::optional<WaivedFailure> waived;  // where the verdict is WAIVED
  double seconds = 0;      // generating, reference, runs and judging
  double run_seconds = 0;  // of the implementation's first run alone
  KernelUse kernels;       // of all its runs in the check
  std::string shrunk;      // the smallest case with the same failure, where one was searched
  Environment env;
};

std::string to_json(const Record& record);       // one line, no newline
Record record_from_json(std::string_view line);  // throws UsageError
std::vector<Record> read_records(
    const std::string& path);  // a .jsonl file; throws UsageError with path and line

}  // namespace moecheck::harness
