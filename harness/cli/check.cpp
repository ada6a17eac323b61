// moecheck check: suites or cases, against implementations.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <thread>

#include "harness/atomic_file.h"
#include "harness/cli/cli.h"
#include "harness/implementations/faults.h"
#include "harness/junit.h"
#include "harness/models.h"
#include "harness/report/counts_json.h"
#include "harness/report/html.h"
#include "harness/runner.h"
#include "harness/text.h"
#include "harness/verdict_text.h"

namespace moecheck::harness {
namespace {

struct CheckArguments {
  std::vector<std::string> operators, implementations, faults, lines;
  std::string policy, model, suite, cases_file, records, junit, report, json, waivers;
  std::uint64_t seed = 0;
  bool has_seed = false, verbose = false, no_shrink = false, no_relations = false, allow_expired = false;
  int jobs = 0, threads = 1;
  double timeout = 60;
};

std::vector<Case> cases_of(const CheckArguments& a) {
  std::vector<Case> cases;
  const Operator* only = a.operators.size() == 1 ? &require_operator(a.operators[0]) : nullptr;
  for (const std::string& line : a.lines) cases.push_back(require_case(line, only));
  if (!a.cases_file.empty())
    for (const std::string& line : case_lines(a.cases_file)) cases.push_back(require_case(line, only));
  if (a.lines.empty() && a.cases_file.empty()) {
    const Suite suite = require_suite(a.suite.empty() ? "quick" : a.suite);
    std::vector<const Operator*> chosen;
    for (const std::string& name : a.operators) chosen.push_back(&require_operator(name));
    if (chosen.empty()) chosen.assign(operators().begin(), operators().end());
    for (const Operator* op : chosen)
      for (Case& c : op->cases(suite)) cases.push_back(std::move(c));
  } else if (!a.suite.empty()) {
    throw UsageError("--suite and --case/--cases exclude each other: a suite brings its own cases");
  }
  std::erase_if(cases, [&](const Case& c) {
    return (!a.policy.empty() && c.policy() != a.policy) || (!a.model.empty() && c.model() != a.model);
  });
  if (a.has_seed)
    for (Case& c : cases) c.seed = a.seed;
  return cases;
}

// What --policy and --model filter by must be a name that something has.
void require_filters(const CheckArguments& a) {
  if (!a.policy.empty()) {
    std::vector<std::string> known;
    for (const Operator* op : operators())
      for (const Preset& p : op->schema().policies) known.push_back(p.name);
    if (std::find(known.begin(), known.end(), a.policy) == known.end())
      throw UsageError(
          fmt::format("policy '{}' is not known: did you mean {}? `moecheck list policies` shows all",
                      printable(a.policy), nearest(a.policy, known)));
  }
  if (!a.model.empty() && find_model(a.model) == nullptr)
    throw UsageError(fmt::format("model '{}' is not known: did you mean {}? `moecheck list models` shows all",
                                 printable(a.model), nearest(a.model, model_names())));
}

std::vector<const Implementation*> implementations_of(const CheckArguments& a) {
  std::vector<const Implementation*> chosen;
  for (const std::string& name : a.implementations) chosen.push_back(&require_implementation(name));
  for (const std::string& fault : a.faults) {
    const auto is_it = [&](const PlantedFault& f) { return f.name == fault; };
    const bool on_gpu = std::ranges::any_of(planted_gpu_faults(), is_it);
    chosen.push_back(&require_implementation((on_gpu ? "gpu-host!" : "cpu!") + fault));
  }
  if (chosen.empty())
    for (const Implementation* impl : implementations())
      if (impl->name() != "reference") chosen.push_back(impl);
  return chosen;
}

// One line on stderr that is rewritten, on a terminal only.
class Progress {
 public:
  Progress() : on_(isatty(STDERR_FILENO) == 1) {}
  ~Progress() { clear(); }
  void show(std::size_t done, std::size_t total, int failures) {
    const auto now = std::chrono::steady_clock::now();
    if (!on_ || (done != total && now - last_ < std::chrono::milliseconds(100))) return;
    last_ = now;
    fmt::print(stderr, "\r\033[K{} of {}{}", grouped(static_cast<std::int64_t>(done)),
               count(static_cast<std::int64_t>(total), "case"),
               failures == 0 ? "" : fmt::format(", {} failed", failures));
    std::fflush(stderr);
    shown_ = true;
  }
  void clear() {
    if (shown_) fmt::print(stderr, "\r\033[K");
    shown_ = false;
  }

 private:
  bool on_, shown_ = false;
  std::chrono::steady_clock::time_point last_{};
};

// A broken kernel fails everywhere: the first few say what is wrong, the records hold all.
constexpr int kPrintedFailures = 5;

// Records go to their file as they are made, so that an interrupted run keeps what it found.
class RecordFile {
 public:
  explicit RecordFile(const std::string& path) : path_(path) {
    if (path.empty()) return;
    file_.reset(std::fopen(path.c_str(), "w"));
    if (!file_)
      throw UsageError(fmt::format("{}: cannot be written: {}", printable(path), std::strerror(errno)));
  }
  void write(const Record& r) {
    if (!file_) return;
    const std::string line = to_json(r) + "\n";
    if (std::fwrite(line.data(), 1, line.size(), file_.get()) != line.size() || std::fflush(file_.get()) != 0)
      throw UsageError(fmt::format("{}: cannot be written: {}", printable(path_), std::strerror(errno)));
  }

 private:
  struct Close {
    void operator()(std::FILE* f) const { std::fclose(f); }
  };
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
};

std::string command_of(const CheckArguments& a) {
  std::string command = "moecheck check";
  for (const std::string& op : a.operators) command += " " + op;
  for (const std::string& impl : a.implementations) command += " --impl " + shell_word(impl);
  for (const std::string& fault : a.faults) command += " --fault " + shell_word(fault);
  if (!a.policy.empty()) command += " --policy " + shell_word(a.policy);
  if (!a.model.empty()) command += " --model " + shell_word(a.model);
  if (!a.suite.empty()) command += " --suite " + a.suite;
  for (const std::string& line : a.lines) command += " --case " + shell_word(line);
  if (!a.cases_file.empty()) command += " --cases " + shell_word(a.cases_file);
  if (a.has_seed) command += fmt::format(" --seed {}", a.seed);
  if (!a.waivers.empty()) command += " --waivers " + shell_word(a.waivers);
  return command;
}

// Fails before the work where a result could not be kept after it.
void require_writable(const std::string& path) {
  if (!path.empty()) AtomicFile probe(path);
}

int check(const CheckArguments& a) {
  require_filters(a);
  const std::vector<const Implementation*> chosen = implementations_of(a);
  const std::vector<Case> cases = cases_of(a);
  for (const std::string& path : {a.junit, a.report, a.json}) require_writable(path);
  ledger::Waivers waivers;
  if (!a.waivers.empty()) waivers = ledger::read_waivers(a.waivers);
  const ledger::Date day = ledger::today();
  RecordFile file(a.records);
  const bool color = color_wanted(STDOUT_FILENO);
  Progress progress;
  int failures = 0;
  std::map<std::string, int> failures_of;
  CampaignOptions options;
  options.check = {true, !a.no_relations, a.threads};
  options.jobs = a.jobs > 0 ? a.jobs : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  options.timeout_seconds = a.timeout;
  options.shrink = !a.no_shrink;
  options.suite = !a.lines.empty() || !a.cases_file.empty() ? "" : a.suite.empty() ? "quick" : a.suite;
  if (!a.waivers.empty()) options.amend = [&](Record& r) { waivers.apply(r, day); };
  options.on_record = [&](const Record& r, std::size_t done, std::size_t total) {
    file.write(r);
    const bool failed = is_failure(r.result.verdict);
    failures += failed;
    const bool printed =
        failed && ++failures_of[r.operator_name + " " + r.implementation] <= kPrintedFailures;
    if (printed || a.verbose) {
      progress.clear();
      fmt::print("{}{}", verdict_text(r, color), failed ? "\n" : "");
      std::fflush(stdout);
    }
    progress.show(done, total, failures);
  };
  const std::vector<Record> records = run_campaign(cases, chosen, options);
  progress.clear();
  for (const auto& [who, n] : failures_of)
    if (n > kPrintedFailures && !a.verbose)
      fmt::print("{}: {} of {} failures shown; -v prints all, --records FILE keeps them\n", who,
                 kPrintedFailures, n);
  fmt::print("{}", summary_text(records, color));
  const std::vector<ledger::AuditedWaiver> audited = ledger::audit(waivers, records, day);
  const bool expired = print_waivers(waivers, audited, a.allow_expired);
  if (!a.junit.empty()) write_junit(a.junit, records);
  if (!a.json.empty()) write_file(a.json, counts_json(records, command_of(a)));
  if (!a.report.empty()) {
    write_file(a.report, html_report(records, {.command = command_of(a), .waivers = audited}));
    fmt::print("report: {}\n", printable(a.report));
  }
  if (records.empty())
    fmt::print(stderr, "moecheck: nothing ran: no case matches the operators, --policy and --model given\n");
  return expired ? kExitFailed : exit_code(records);
}

}  // namespace

void add_check(CLI::App& app, Action& action) {
  auto a = std::make_shared<CheckArguments>();
  CLI::App* sub = app.add_subcommand("check", "Run suites or cases against implementations and judge them");
  sub->add_option("operators", a->operators, "Operators to check (all)")->type_name("OPERATOR");
  sub->add_option("--impl", a->implementations, "Implementation, repeatable (all built in)")
      ->type_name("NAME")
      ->take_all();
  sub->add_option("--fault", a->faults, "A version with a planted fault, repeatable: moecheck list faults")
      ->type_name("NAME")
      ->take_all();
  sub->add_option("--policy", a->policy, "Only cases of this policy")->type_name("NAME");
  sub->add_option("--model", a->model, "Only cases of this model")->type_name("NAME");
  sub->add_option("--suite", a->suite, "quick (default), models, adversarial or full")->type_name("SUITE");
  sub->add_option("--case", a->lines, "A case line, repeatable")->type_name("LINE")->take_all();
  sub->add_option("--cases", a->cases_file, "A file of case lines")->type_name("FILE");
  CLI::Option* seed = sub->add_option("--seed", a->seed, "Seed of every case, instead of its own");
  sub->add_option("--jobs", a->jobs, "Worker processes (one per hardware thread)")
      ->check(CLI::Range(0, 1024));
  sub->add_option("--threads", a->threads, "Threads of each implementation")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  sub->add_option("--timeout", a->timeout, "Seconds per case")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  sub->add_option("--records", a->records, "Write one JSON line per record")->type_name("FILE.jsonl");
  sub->add_option("--junit", a->junit, "Write JUnit XML")->type_name("FILE.xml");
  sub->add_option("--json", a->json, "Write the counts as JSON")->type_name("FILE.json");
  sub->add_option("--report", a->report, "Write an HTML report")->type_name("FILE.html");
  sub->add_option("--waivers", a->waivers, "Known failures and their issues: moecheck waivers lists them")
      ->type_name("FILE.jsonl");
  sub->add_flag("--allow-expired", a->allow_expired,
                "A waiver whose cases all pass is no failure: for runs of part of the cases");
  sub->add_flag("--no-shrink", a->no_shrink, "Do not search the smallest failing case");
  sub->add_flag("--no-relations", a->no_relations, "Do not check metamorphic relations");
  sub->add_flag("-v,--verbose", a->verbose, "Print passing cases too");
  sub->callback([a, seed, &action] {
    a->has_seed = seed->count() > 0;
    action = [a] { return check(*a); };
  });
}

}  // namespace moecheck::harness
