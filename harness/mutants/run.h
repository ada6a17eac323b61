#pragma once
// Runs mutants: each in a process of its own, against the suites of its operator or the tests of its subject, cheapest first, until
// something notices.
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "harness/mutants/registry.h"

namespace moecheck::harness::mutants {

// What is asked to notice a mutant.
//   kCi         everything that needs no GPU: comparison, clauses and relations of `check`; of the harness its unit tests
//   kSanitizer  nothing is judged: kernels run on the cases of the quick and adversarial suites, and the process dies or does not.
//               Says something in a build with sanitizers
enum class Gate : std::uint8_t { kCi, kSanitizer };
std::string_view name(Gate gate);
Gate require_gate(const std::string& name);  // throws UsageError

enum class Outcome : std::uint8_t {
  kKilled,
  kSurvived,
  kEquivalent,  // survived, as it must: the fault's list says why
  kNotRun,
};
std::string_view name(Outcome outcome);

struct Result {
  Mutant mutant;
  Gate gate = Gate::kCi;
  std::string sanitizer;  // of the build it ran in: sanitizer_of_build()
  Outcome outcome = Outcome::kNotRun;
  std::string
      killer;  // "comparison", a clause, a relation, a test, "crash", "sanitizer", "timeout"; empty where nothing did
  std::string suite;   // where it was killed: "quick", "quick, all clauses", "adversarial", "models", "tests"
  std::string repro;   // the command that shows it
  std::string detail;  // how its process ended; why it was not run
  double seconds = 0;  // to the kill, or of all that was asked
  std::int64_t asked = 0;  // cases, up to the kill; of the harness 0
  // With Options::exhaustive: every check that noticed it, the killer first, and the unit tests that ran and did not.
  std::vector<std::string> noticed, silent;
};

struct Options {
  Gate gate = Gate::kCi;
  int jobs = 1;
  double timeout_seconds = 300;  // per mutant
  std::string tests = {};  // moecheck_tests of a build with faults; empty: the harness's are not run
  std::string why_no_tests = {};  // what their results then say
  // Goes on after the first kill, to say which other checks would have noticed: kernels to the end of the suite with every clause
  // and relation, the harness to the end of its tests.
  bool exhaustive = false;
  std::function<void(const Result&, std::size_t done, std::size_t total)> on_result = {};  // in order
};

// Results in the order of `mutants`. A program of tests that fails without a fault says nothing: those mutants are not run. Call it
// while this process has a single thread.
std::vector<Result> run(const std::vector<Mutant>& mutants, const Options& options);

// "address", "thread" or empty: what this program was built with.
std::string_view sanitizer_of_build();

// One line of JSON, schema moecheck.mutant/1: the mutant's fields, gate, outcome and what else a Result holds.
std::string to_json(const Result& result);
Result result_from_json(std::string_view line);             // throws UsageError
std::vector<Result> read_results(const std::string& path);  // throws UsageError with path and line

}  // namespace moecheck::harness::mutants
