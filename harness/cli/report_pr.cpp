// moecheck report pr: accuracy and load figures of two arms as the section of a pull request.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "harness/atomic_file.h"
#include "harness/cli/cli.h"
#include "harness/report/pr.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

struct PrArguments {
  std::string a, b, again, task, filter, label_a = "A", label_b = "B", title = "Accuracy and performance",
                                         output = "-", page;
  std::vector<std::string> bench_a, bench_b, bench;
  double margin = 1.0;
};

void add_benches(std::vector<load::SavedBench>& to, const std::vector<std::string>& paths) {
  for (const std::string& path : paths)
    for (load::SavedBench& b : load::read_benches(path)) to.push_back(std::move(b));
}

// A folder of both arms, as bench serve --ab leaves it: by label.
void add_labelled(PrInput& input, const std::vector<std::string>& paths) {
  std::vector<load::SavedBench> all;
  add_benches(all, paths);
  for (load::SavedBench& b : all) {
    if (b.label != input.a.label && b.label != input.b.label)
      throw UsageError(fmt::format(
          "{} is labelled '{}', neither '{}' nor '{}': give --label-a and --label-b as in bench serve",
          printable(b.path), printable(b.label), printable(input.a.label), printable(input.b.label)));
    (b.label == input.a.label ? input.a : input.b).benches.push_back(std::move(b));
  }
}

std::string command_of(const PrArguments& a) {
  std::string out = "moecheck report pr";
  const auto add = [&](std::string_view flag, const std::string& value) {
    if (!value.empty()) out += fmt::format(" {} {}", flag, shell_word(value));
  };
  add("--a", a.a);
  add("--b", a.b);
  add("--again", a.again);
  for (const std::string& p : a.bench_a) add("--bench-a", p);
  for (const std::string& p : a.bench_b) add("--bench-b", p);
  for (const std::string& p : a.bench) add("--bench", p);
  add("--label-a", a.label_a);
  add("--label-b", a.label_b);
  add("--filter", a.filter);
  if (a.margin != 1.0) add("--margin", fmt::format("{}", a.margin));
  return out;
}

int report_pr(const PrArguments& a) {
  PrInput input;
  input.title = a.title;
  input.a.label = a.label_a;
  input.b.label = a.label_b;
  if (!a.a.empty()) input.a.accuracy = read_run(a.a, a.task);
  if (!a.b.empty()) input.b.accuracy = read_run(a.b, a.task);
  if (!a.again.empty()) input.again = read_run(a.again, a.task);
  add_benches(input.a.benches, a.bench_a);
  add_benches(input.b.benches, a.bench_b);
  add_labelled(input, a.bench);
  input.compare.margin = a.margin / 100;
  input.compare.filter = a.filter;
  input.command = command_of(a);
  const PrReport r = make_pr_report(std::move(input));
  if (!a.page.empty()) write_file(a.page, pr_html(r));
  if (a.output == "-")
    fmt::print("{}", pr_markdown(r));
  else
    write_file(a.output, pr_markdown(r));
  return r.failed() ? kExitFailed : kExitFine;
}

}  // namespace

CLI::App* add_report_pr(CLI::App& report_verb, Action& action) {
  auto a = std::make_shared<PrArguments>();
  CLI::App* sub = report_verb.add_subcommand(
      "pr", "Accuracy and speed of two arms: the section of a pull request, and a page with plots");
  sub->footer(
      "  moecheck report pr --a before --b after --bench-a bench/before --bench-b bench/after -o section.md\n"
      "Exit codes: 0 fine; 1 accuracy is a REGRESSION or an INVALID RUN; 2 bad usage or unreadable files.");
  sub->add_option("--a", a->a, "Accuracy before: a directory of moecheck eval or lm_eval")->type_name("DIR");
  sub->add_option("--b", a->b, "Accuracy after")->type_name("DIR");
  sub->add_option("--again", a->again, "A repeat of --a: the noise floor")->type_name("DIR");
  sub->add_option("--bench-a", a->bench_a, "Load results before: files or folders of bench serve")
      ->type_name("PATH");
  sub->add_option("--bench-b", a->bench_b, "Load results after")->type_name("PATH");
  sub->add_option("--bench", a->bench, "Load results of both arms, told apart by their labels")
      ->type_name("PATH");
  sub->add_option("--label-a", a->label_a, "Name of the first arm")->capture_default_str();
  sub->add_option("--label-b", a->label_b, "Name of the second")->capture_default_str();
  sub->add_option("--margin", a->margin, "Points of accuracy that may be lost")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  sub->add_option("--filter", a->filter, "The filter that decides (the task's first)");
  sub->add_option("--task", a->task, "Where a directory holds several");
  sub->add_option("--title", a->title, "Title")->capture_default_str();
  sub->add_option("-o,--output", a->output, "The Markdown; - is standard output")
      ->capture_default_str()
      ->type_name("FILE.md");
  sub->add_option("--html", a->page, "The page as well")->type_name("FILE.html");
  sub->callback([a, &action] { action = [a] { return report_pr(*a); }; });
  return sub;
}

}  // namespace moecheck::harness
