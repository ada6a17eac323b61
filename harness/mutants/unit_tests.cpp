#include "harness/mutants/unit_tests.h"

#include <fmt/format.h>
#include <fnmatch.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "harness/fault.h"
#include "harness/mutants/process.h"
#include "harness/text.h"
#include "harness/workers.h"

namespace moecheck::harness::mutants {
namespace {

// "A*:B*" -> "A*", "B*".
std::vector<std::string> parts_of(const std::string& filter) {
  std::vector<std::string> parts;
  for (std::size_t at = 0; at <= filter.size();) {
    const std::size_t end = std::min(filter.find(':', at), filter.size());
    parts.push_back(filter.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

// The filter, and the same suites where they have parameters: "A*:B*" -> "A*:*/A*:B*:*/B*".
std::string with_parameters(const std::string& filter) {
  std::string out;
  for (const std::string& part : parts_of(filter))
    out += fmt::format("{}{}:*/{}", out.empty() ? "" : ":", part, part);
  return out;
}

Finished run_tests(const Options& options, const std::string& filter, const std::string& fault) {
  std::vector<std::pair<std::string, std::string>> environment = {{"MOECHECK_FAULT", fault}};
  // Properties draw the cases that ctest's do.
  if (std::getenv("RC_PARAMS") == nullptr) environment.emplace_back("RC_PARAMS", "seed=20261122");
  std::vector<std::string> arguments = {options.tests, "--gtest_filter=" + with_parameters(filter),
                                        "--gtest_color=no"};
  if (!options.exhaustive) arguments.insert(arguments.end(), {"--gtest_fail_fast", "--gtest_brief=1"});
  return run_program(arguments, environment, options.timeout_seconds);
}

bool passed(const Finished& f) { return !f.timeout && WIFEXITED(f.status) && WEXITSTATUS(f.status) == 0; }

// The tests of lines that start with `mark`: "[  FAILED  ] Suite.Test/3, where ..." -> "Suite.Test/3", each once.
std::vector<std::string> tests_marked(std::string_view mark, const std::string& output) {
  std::vector<std::string> tests;
  for (std::size_t at = output.find(mark); at != std::string::npos; at = output.find(mark, at + 1)) {
    const std::size_t from = at + mark.size();
    std::string test = output.substr(from, output.find_first_of(", (\n", from) - from);
    const bool is_test =
        test.find('.') != std::string::npos;  // the summary counts them in a line of the same mark
    if (is_test && std::ranges::find(tests, test) == tests.end()) tests.push_back(std::move(test));
  }
  return tests;
}
std::vector<std::string> failed_tests(const std::string& output) {
  return tests_marked("[  FAILED  ] ", output);
}

}  // namespace

Result ask_tests(const Mutant& m, const Options& options) {
  Result r;
  r.mutant = m;
  // One part of the filter after the other, to the first that fails: what is named first is nearest and soonest done.
  const std::vector<std::string> filters =
      options.exhaustive ? std::vector<std::string>{m.tests} : parts_of(m.tests);
  std::string filter;
  Finished f;
  for (std::size_t i = 0; i < filters.size() && (i == 0 || passed(f)); ++i) {
    filter = filters[i];
    f = run_tests(options, filter, m.name);
    r.seconds += f.seconds;
  }
  if (WIFEXITED(f.status) && WEXITSTATUS(f.status) == kExitUnknownFault) {
    r.detail = options.tests + " does not know it: build it again";
    return r;
  }
  r.suite = "tests";
  r.outcome = passed(f) ? Outcome::kSurvived : Outcome::kKilled;
  if (options.exhaustive) r.silent = tests_marked("[       OK ] ", f.output);
  if (passed(f)) return r;
  const std::vector<std::string> failed = failed_tests(f.output);
  if (f.timeout) {
    r.killer = "timeout";
  } else if (!failed.empty()) {
    r.killer = failed.front();
  } else {
    r.killer = sanitizer_of_build().empty() ? "crash" : "sanitizer";
    r.detail = WIFSIGNALED(f.status)
                   ? fmt::format("signal {} ({})", WTERMSIG(f.status), strsignal(WTERMSIG(f.status)))
                   : fmt::format("exit status {}", WEXITSTATUS(f.status));
  }
  if (options.exhaustive) r.noticed = failed.empty() ? std::vector<std::string>{r.killer} : failed;
  r.repro = fmt::format("MOECHECK_FAULT={} moecheck_tests --gtest_filter={}", m.name,
                        shell_word(with_parameters(filter)));
  return r;
}

namespace {

// Whether the program was built with MOECHECK_HARNESS_FAULTS: one without them passes whatever fault is chosen.
bool holds_faults(const Options& options) {
  const Finished f = run_program({options.tests, "--gtest_list_tests"}, {{"MOECHECK_FAULT", "no_such_fault"}},
                                 options.timeout_seconds);
  return WIFEXITED(f.status) && WEXITSTATUS(f.status) == kExitUnknownFault;
}

// "Suite.Test" of each line that --gtest_list_tests prints: suites, with their tests indented below them.
std::vector<std::string> tests_of(const Options& options) {
  const Finished f = run_program({options.tests, "--gtest_list_tests"}, {}, options.timeout_seconds);
  std::vector<std::string> tests;
  std::string suite;
  for (std::size_t at = 0; at < f.output.size();) {
    const std::size_t end = std::min(f.output.find('\n', at), f.output.size());
    const std::string line = f.output.substr(at, end - at), word = line.substr(0, line.find("  #"));
    if (line.starts_with("  "))
      tests.push_back(suite + word.substr(2));
    else
      suite = word;
    at = end + 1;
  }
  return tests;
}

// Where none does, a suite was renamed, and the other parts of the filter may be blind.
bool has_tests(const std::string& part, const std::vector<std::string>& tests) {
  const std::string with_parameter = "*/" + part;
  return std::ranges::any_of(tests, [&](const std::string& test) {
    return fnmatch(part.c_str(), test.c_str(), 0) == 0 ||
           fnmatch(with_parameter.c_str(), test.c_str(), 0) == 0;
  });
}

// Why the tests of this part of a filter cannot be asked, or nothing.
std::string why_unusable(const std::string& part, const std::vector<std::string>& tests,
                         const Options& options) {
  if (!has_tests(part, tests)) return "no test matches " + part;
  const Finished f = run_tests(options, part, "");
  if (passed(f)) return {};
  const std::vector<std::string> failed = failed_tests(f.output);
  return "without a fault its tests fail: " + (!failed.empty() ? failed.front()
                                               : f.timeout     ? "no end"
                                                               : f.output);
}

}  // namespace

std::map<std::string, std::string> unusable_filters(const std::vector<Mutant>& mutants,
                                                    const Options& options) {
  std::map<std::string, std::string> why_of_part;
  for (const Mutant& m : mutants)
    if (!m.tests.empty())
      for (const std::string& part : parts_of(m.tests)) why_of_part[part];
  if (why_of_part.empty()) return {};
  if (!holds_faults(options)) {
    for (auto& [part, reason] : why_of_part)
      reason = options.tests + " is built without faults of the harness: use the preset mutants";
  } else {
    const std::vector<std::string> tests = tests_of(options);
    std::vector<std::pair<const std::string, std::string>*> parts;
    for (auto& entry : why_of_part) parts.push_back(&entry);
    WorkerCallbacks callbacks;
    callbacks.work = [&](std::size_t i) { return why_unusable(parts[i]->first, tests, options); };
    callbacks.done = [&](std::size_t i, std::string text) { parts[i]->second = std::move(text); };
    callbacks.lost = [&](std::size_t i, std::string how, bool) { parts[i]->second = std::move(how); };
    run_in_workers(parts.size(), {options.jobs, options.timeout_seconds + 10}, callbacks);
  }
  std::map<std::string, std::string> why;
  for (const Mutant& m : mutants)
    if (!m.tests.empty())
      for (const std::string& part : parts_of(m.tests))
        if (!why_of_part[part].empty()) why.emplace(m.tests, why_of_part[part]);
  return why;
}

}  // namespace moecheck::harness::mutants
