// moecheck detection: the smallest fault that moecheck's judge catches, beside what the gates in use elsewhere catch.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <memory>

#include "harness/atomic_file.h"
#include "harness/cli/cli.h"
#include "harness/detection/published.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

struct DetectionArguments {
  std::vector<std::string> operators, implementations, lines;
  std::string json, table, plot;
  int trials = 59, jobs = 1;
};

// The lines asked for, with each implementation that supports them.
std::vector<detection::StudyItem> chosen(const DetectionArguments& a) {
  std::vector<const Operator*> operators;
  for (const std::string& name : a.operators) operators.push_back(&require_operator(name));
  std::vector<const Implementation*> implementations;
  for (const std::string& name : a.implementations) implementations.push_back(&require_implementation(name));
  if (implementations.empty()) implementations.push_back(&require_implementation("cpu"));
  const std::vector<std::string> lines = a.lines.empty() ? detection::default_lines() : a.lines;
  std::vector<detection::StudyItem> items;
  for (const std::string& line : lines) {
    const Case c = require_case(line);
    if (!operators.empty() &&
        std::find(operators.begin(), operators.end(), &operator_of(c)) == operators.end())
      continue;
    require_accepted(c);
    if (detection::real_output(c).empty())
      throw UsageError(
          fmt::format("'{}': {} has no output of real numbers in this case, so no fault has a size", c.str(),
                      c.operator_name()));
    for (const Implementation* impl : implementations) {
      if (const auto why = impl->unsupported(c))
        fmt::print(stderr, "skipped: {} on {}: {}\n", c.str(), impl->name(), *why);
      else
        items.push_back({c, impl});
    }
  }
  return items;
}

void print_weaknesses(const std::vector<detection::CaseLimits>& results, int trials) {
  const std::vector<detection::Weakness> weak = detection::weaker_than_others(results);
  if (weak.empty()) {
    fmt::print("no gate without false alarms catches a smaller fault than moecheck's judge\n");
    return;
  }
  fmt::print("smaller faults than moecheck's judge are caught by:\n");
  for (const detection::Weakness& w : weak) {
    const auto text = [&](std::size_t k) {
      return detection::limit_text(w.family->columns[k], w.at->false_alarms[k], trials);
    };
    fmt::print("  {} {} instead of {}: {} ({})\n", detection::columns()[w.column].name, text(w.column),
               text(detection::kOwn), detection::info(w.family->family).name, w.at->case_line);
  }
}

int detect(const DetectionArguments& a) {
  const std::vector<detection::StudyItem> items = chosen(a);
  if (items.empty()) {
    fmt::print("nothing to do: no line of these operators; give one with --case\n");
    return kExitNothingRan;
  }
  if (detection::allowed_misses(a.trials) < 0)
    throw UsageError(fmt::format(
        "--trials {}: too few to show 95% at 95% confidence, even if all are caught; use at least 59",
        a.trials));
  for (const std::string& path : {a.json, a.table, a.plot})
    if (!path.empty()) AtomicFile probe(path);  // fails before the work, not after it
  detection::StudyOptions options;
  options.trials = a.trials;
  options.jobs = a.jobs;
  const bool terminal = isatty(STDERR_FILENO) == 1;
  options.on_result = [&](const detection::CaseLimits& r, std::size_t done, std::size_t total) {
    if (!r.lost.empty())
      fmt::print(stderr, "lost: {} on {}: {}\n", r.case_line, r.implementation, printable(r.lost));
    if (terminal)
      fmt::print(stderr, "\r\033[K{}", done < total ? fmt::format("{} of {} cases", done, total) : "");
    std::fflush(stderr);
  };
  const auto start = std::chrono::steady_clock::now();
  const std::vector<detection::CaseLimits> results = detection::study(items, options);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::string table = detection::table_markdown(results, a.trials);
  if (a.table.empty()) fmt::print("{}\n", table);
  fmt::print("{}\n", detection::summary_markdown(results, a.trials));
  if (!a.table.empty()) write_file(a.table, table);
  if (!a.plot.empty()) write_file(a.plot, detection::plot_svg(results, a.trials));
  if (!a.json.empty()) write_file(a.json, detection::limits_json(results, a.trials));

  int alarms = 0, lost = 0;
  for (const detection::CaseLimits& r : results) {
    lost += !r.lost.empty();
    if (r.lost.empty() && r.false_alarms[detection::kOwn] > 0) {
      ++alarms;
      fmt::print("false alarms of moecheck: {} of {} outputs of {}\n", r.false_alarms[detection::kOwn],
                 a.trials, r.case_line);
    }
  }
  print_weaknesses(results, a.trials);
  fmt::print("{}, {} trials each, in {:.1f} s\n", count(std::ssize(results), "case"), a.trials, seconds);
  return alarms + lost > 0 ? kExitFailed : kExitFine;
}

}  // namespace

void add_detection(CLI::App& app, Action& action) {
  auto a = std::make_shared<DetectionArguments>();
  CLI::App* sub = app.add_subcommand(
      "detection", "The smallest fault the judge catches, beside the gates that other projects use");
  sub->add_option("operators", a->operators, "Only these operators")->type_name("OPERATOR");
  sub->add_option("--impl", a->implementations,
                  "Implementation whose outputs faults are put into, repeatable (cpu)")
      ->type_name("NAME")
      ->take_all();
  sub->add_option("--case", a->lines, "A case line, repeatable (a built-in list)")
      ->type_name("LINE")
      ->take_all();
  sub->add_option("--trials", a->trials, "Seeds per case and magnitude")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  sub->add_option("--jobs", a->jobs, "Worker processes")->capture_default_str()->check(CLI::Range(1, 1024));
  sub->add_option("--table", a->table, "Write the table as Markdown, instead of printing it")
      ->type_name("FILE.md");
  sub->add_option("--plot", a->plot, "Draw the limits")->type_name("FILE.svg");
  sub->add_option("--json", a->json, "Write the limits as JSON")->type_name("FILE.json");
  sub->callback([a, &action] { action = [a] { return detect(*a); }; });
}

}  // namespace moecheck::harness
