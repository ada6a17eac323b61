// moecheck mutants: runs the checks against every planted fault, and says which of them noticed.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <stdexcept>
#include <thread>

#include "harness/atomic_file.h"
#include "harness/cli/cli.h"
#include "harness/mutants/process.h"
#include "harness/mutants/run.h"
#include "harness/mutants/table.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

using mutants::Gate;
using mutants::Mutant;
using mutants::Result;

struct MutantArguments {
  mutants::Selection selection;
  std::string gate = "ci", output, table, tests, since, served;
  std::vector<std::string> with;
  int jobs = 0;
  double timeout = 300;
  bool exhaustive = false, no_run = false, verbose = false;
};

// Built beside this program: build/PRESET/tests/moecheck_tests.
std::string tests_beside() {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? std::string() : (self.parent_path() / "tests" / "moecheck_tests").string();
}

void find_tests(const MutantArguments& a, mutants::Options& options) {
  const std::string program = a.tests.empty() ? tests_beside() : a.tests;
  if (access(program.c_str(), X_OK) == 0) {
    options.tests = std::filesystem::absolute(program).string();
    return;
  }
  constexpr const char* kBuild = "cmake --preset mutants && cmake --build --preset mutants";
  if (!a.tests.empty())
    throw UsageError(
        fmt::format("--tests {}: no program is there: build it with `{}`", printable(a.tests), kBuild));
  options.why_no_tests = fmt::format("{} is not there: {}", program, kBuild);
}

// Paths that differ between a commit and the working tree.
std::vector<std::string> changed_since(const std::string& commit) {
  const mutants::Finished git =
      mutants::run_program({"/usr/bin/env", "git", "diff", "--name-only", commit, "--"}, {}, 60);
  if (git.status != 0)
    throw UsageError(fmt::format("--since {}: git says: {}", printable(commit), printable(git.output, 200)));
  std::vector<std::string> paths;
  for (std::size_t at = 0; at < git.output.size();) {
    const std::size_t end = git.output.find('\n', at);
    paths.push_back(git.output.substr(at, end - at));
    at = end == std::string::npos ? git.output.size() : end + 1;
  }
  return paths;
}

std::vector<Mutant> chosen(const MutantArguments& a) {
  std::vector<Mutant> list = mutants::select(a.selection);
  if (!a.since.empty()) {
    const mutants::Affected affected = mutants::affected_by(changed_since(a.since));
    std::erase_if(list, [&](const Mutant& m) { return !affected.has(m); });
  }
  if (a.no_run) list.clear();
  return list;
}

void print(const Result& r) {
  const std::string by = r.outcome == mutants::Outcome::kKilled ? fmt::format("by {} ({})", r.killer, r.suite)
                         : r.outcome == mutants::Outcome::kNotRun ? r.detail
                         : r.mutant.equivalent.empty()            ? r.mutant.what
                                                                  : r.mutant.equivalent;
  fmt::print("{:<10} {:>5} {:<32} {:<15} {:>7.2f} s  {}\n", name(r.outcome), r.mutant.number, r.mutant.name,
             r.mutant.op.empty() ? r.mutant.layer : r.mutant.op, r.seconds, printable(by, 300));
  std::fflush(stdout);
}

// Results of earlier runs, then those of this one in their place.
mutants::Campaign campaign_of(const MutantArguments& a, const std::vector<Result>& now) {
  std::vector<Result> all;
  for (const std::string& path : a.with)
    for (Result& r : mutants::read_results(path)) all.push_back(std::move(r));
  all.insert(all.end(), now.begin(), now.end());
  mutants::Campaign campaign = mutants::campaign_of(all);
  if (!a.served.empty()) campaign.served = mutants::read_served(a.served);
  return campaign;
}

int run_mutants(const MutantArguments& a) {
  mutants::Options options;
  options.gate = mutants::require_gate(a.gate);
  options.jobs = a.jobs > 0 ? a.jobs : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  options.timeout_seconds = a.timeout;
  options.exhaustive = a.exhaustive;
  find_tests(a, options);
  const std::vector<Mutant> list = chosen(a);
  for (const std::string& path : {a.output, a.table})
    if (!path.empty()) AtomicFile probe(path);  // fails before the work, not after it
  std::ofstream output;
  if (!a.output.empty()) output.open(a.output);
  const bool terminal = isatty(STDERR_FILENO) == 1;
  options.on_result = [&](const Result& r, std::size_t done, std::size_t total) {
    if (output.is_open())
      output << to_json(r) << std::endl;  // at once: a run that is ended keeps what it has
    if (terminal) fmt::print(stderr, "\r\033[K");
    if (a.verbose || (r.outcome == mutants::Outcome::kSurvived && r.gate == Gate::kCi)) print(r);
    if (terminal && done < total) fmt::print(stderr, "{} of {} mutants", done, total);
    std::fflush(stderr);
  };
  const auto start = std::chrono::steady_clock::now();
  const std::vector<Result> results = mutants::run(list, options);
  mutants::Campaign campaign = campaign_of(a, results);
  campaign.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  campaign.jobs = a.no_run ? 0 : options.jobs;
  if (output.is_open() && !output)
    throw std::runtime_error(fmt::format("cannot write {}", printable(a.output)));
  if (!a.table.empty()) write_file(a.table, mutants::table_markdown(campaign));
  fmt::print("{}", mutants::summary_text(campaign));
  const auto any = [&](mutants::Outcome o) {
    return std::ranges::any_of(campaign.results, [&](const Result& r) { return r.outcome == o; });
  };
  // A sanitizer alone cannot notice most of them: only the gate that must is a failure.
  if (any(mutants::Outcome::kSurvived)) return kExitFailed;
  const bool ran =
      std::ranges::any_of(results, [](const Result& r) { return r.outcome != mutants::Outcome::kNotRun; });
  return ran || a.no_run ? kExitFine : kExitNothingRan;
}

}  // namespace

void add_mutants(CLI::App& app, Action& action) {
  auto a = std::make_shared<MutantArguments>();
  CLI::App* sub = app.add_subcommand(
      "mutants", "Run the checks against every planted fault: which notice it, which never do?");
  const auto list = [&](const char* name, std::vector<std::string>& to, const char* type, const char* doc) {
    sub->add_option(name, to, doc)->type_name(type)->take_all();
  };
  list("--id", a->selection.ids, "NAME|N", "Only this mutant, repeatable: moecheck list faults");
  list("--class", a->selection.classes, "CLASS", "Only mutants of this class: scale, selection, memory, ...");
  list("--layer", a->selection.layers, "LAYER", "Only of this layer: cpu, gpu, comparator, scorer, ...");
  list("--operator", a->selection.operators, "OPERATOR", "Only in kernels of this operator");
  sub->add_option("--since", a->since,
                  "Only what the changes since this commit can alter (in a git checkout)")
      ->type_name("COMMIT");
  sub->add_option("--gate", a->gate,
                  "ci: all checks that need no GPU; sanitizer: kernels run and nothing is judged")
      ->check(CLI::IsMember({"ci", "sanitizer"}))
      ->capture_default_str();
  sub->add_flag("--exhaustive", a->exhaustive,
                "Go on after the first kill, to say which other checks notice");
  sub->add_option(
         "--tests", a->tests,
         "moecheck_tests of a build with faults in the harness (beside this program: tests/moecheck_tests)")
      ->type_name("PATH");
  sub->add_option("--jobs", a->jobs, "Worker processes (one per hardware thread)")
      ->check(CLI::Range(0, 1024));
  sub->add_option("--timeout", a->timeout, "Seconds per mutant")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  sub->add_option("--output", a->output, "Write one JSON line per mutant")->type_name("FILE.jsonl");
  list("--with", a->with, "FILE.jsonl",
       "Results of earlier runs to show beside these, repeatable; newer ones replace older ones");
  sub->add_option("--served", a->served,
                  "What scripts/served_faults.sh wrote, for the score of accuracy alone")
      ->type_name("FILE.md");
  sub->add_option("--table", a->table, "Write the report as Markdown")->type_name("FILE.md");
  sub->add_flag("--no-run", a->no_run, "Run nothing: only what --with gives");
  sub->add_flag("-v,--verbose", a->verbose, "Print every mutant, not survivors alone");
  sub->callback([a, &action] { action = [a] { return run_mutants(*a); }; });
}

}  // namespace moecheck::harness
