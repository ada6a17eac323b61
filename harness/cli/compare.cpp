// moecheck compare: is B worse than A? moecheck plan: how many questions would tell.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <memory>

#include "harness/cli/cli.h"
#include "harness/tasks/compare.h"
#include "harness/tasks/files.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

struct CompareArguments {
  std::string a, b, again, task, json;
  double margin = 1.0, alpha = 0.05, max_failed = 1.0, max_truncated = 5.0;
  std::string filter;
  std::size_t flips = 10;
  bool strict = false, whole_texts = false;
};

std::string p_text(double p) { return p < 0.001 ? fmt::format("{:.1e}", p) : fmt::format("{:.3f}", p); }

void print_arm(const char* label, const Summary& s, const std::string& model, const std::string& path) {
  fmt::print("{}  {}  {}\n", label, printable(model.empty() ? "(model not named)" : model, 80),
             printable(path));
  fmt::print("   {} asked, {} failed, {} cut at the token limit, {} empty, {} run on, {} loops\n",
             grouped(s.asked), s.failed, s.finish_reasons ? grouped(s.truncated) : "not told how many",
             s.empty, s.run_on, s.loops);
}

void print_filters(const Comparison& c) {
  const double points = 100 * c.options.margin;
  fmt::print("\n{:<18}{:>8} {:>8} {:>8} {:>18} {:>7} {:>6}{:>9}{:>13}{:>9}\n", "", "A", "B", "B - A",
             "95% interval", "worse", "fixed", "McNemar", fmt::format("within {:g}", points), "proven");
  for (const FilterComparison& f : c.filters) {
    const PairedVerdict& v = f.verdict;
    const std::string interval =
        fmt::format("{:+.2f} .. {:+.2f}", 100 * v.interval.low, 100 * v.interval.high);
    fmt::print("{:<18}{:>7.2f}% {:>7.2f}% {:>+8.2f} {:>18} {:>7} {:>6}{:>9}{:>13}{:>9}\n",
               printable(f.filter, 18), 100 * f.a.mean, 100 * f.b.mean, 100 * f.counts.difference(), interval,
               f.counts.regressions, f.counts.fixes, p_text(v.two_sided_p), p_text(v.noninferiority_p),
               fmt::format("{:.2f}", 100 * v.proven_margin));
  }
  fmt::print(
      "McNemar: exact, two-sided. within, proven: the loss in points ruled out at {:g}% (Tango, "
      "one-sided).\n",
      100 * c.options.alpha);
  const FilterComparison& primary = c.filters[c.primary];
  if (primary.stopped_after > 0)
    fmt::print(
        "A test watched from the start (e-value) would have stopped with a regression after {} of {} "
        "questions.\n",
        grouped(primary.stopped_after), grouped(c.pairs));
}

void print_texts(const Comparison& c) {
  const auto line = [](const char* label, const Agreement& t) {
    fmt::print("{} {:.1f}% identical ({} of {})", label, 100 * t.share(), grouped(t.identical),
               grouped(t.compared));
    if (t.median_divergence >= 0)
      fmt::print(", half of the others part before character {}", t.median_divergence + 1);
    fmt::print("\n");
  };
  fmt::print("\n");
  line("texts A, B      ", c.texts);
  if (!c.noise) return;
  line("texts A, A again", c.noise->texts);
  fmt::print("flips A, B       {} of {} ({:.2f}%); A, A again {} of {} ({:.2f}%); more than noise: p = {}\n",
             c.filters[c.primary].counts.discordant(), grouped(c.pairs),
             100 * c.filters[c.primary].counts.discordance(), c.noise->counts.discordant(),
             grouped(c.noise->counts.n()), 100 * c.noise->counts.discordance(), p_text(c.noise->excess_p));
  fmt::print("noise alone moves a difference of two such runs by {:.2f} points (standard deviation)\n",
             100 * c.noise->sd);
}

void print_flips(const Comparison& c, std::size_t limit) {
  if (c.flips.empty()) return;
  fmt::print("\nflips by {}{}\n", c.filters[c.primary].filter,
             c.flips.size() > limit ? fmt::format(" (the first {} of {})", limit, c.flips.size()) : "");
  for (std::size_t i = 0; i < std::min(limit, c.flips.size()); ++i) {
    const Flip& f = c.flips[i];
    fmt::print("  document {:<5} {} -> {}: {} -> {}", f.doc_id, name(f.a_outcome), name(f.b_outcome),
               printable(f.a_extracted, 40), printable(f.b_extracted, 40));
    if (f.divergence < 0) {
      fmt::print(", the texts are identical\n");
      continue;
    }
    fmt::print(", first difference at character {}\n    A {}\n    B {}\n", f.divergence + 1,
               printable(f.a_text), printable(f.b_text));
  }
}

int code_of(const Comparison& c, bool strict) {
  switch (c.verdict) {
    case ComparisonVerdict::kNoRegression:
      return kExitFine;
    // The margin is what the user called acceptable, and less than that is proven.
    case ComparisonVerdict::kWorseWithinMargin:
      return strict ? kExitFailed : kExitFine;
    case ComparisonVerdict::kRegression:
      return kExitFailed;
    case ComparisonVerdict::kInconclusive:
      return kExitNothingRan;
    case ComparisonVerdict::kInvalidRun:
      break;
  }
  return kExitUsage;
}

int compare(const CompareArguments& g) {
  const Run a = read_run(g.a, g.task), b = read_run(g.b, g.task);
  std::optional<Run> again;
  if (!g.again.empty()) again = read_run(g.again, g.task);
  CompareOptions options;
  options.margin = g.margin / 100;
  options.alpha = g.alpha;
  options.filter = g.filter;
  options.max_failed = g.max_failed / 100;
  options.max_truncated = g.max_truncated / 100;
  options.whole_texts = g.whole_texts;
  const Comparison c = compare_runs(a, b, again ? &*again : nullptr, options);
  if (!g.json.empty()) write_text(g.json, comparison_json(c) + "\n");
  if (g.json == "-") return code_of(c, g.strict);
  print_arm("A", c.a, c.a_model, c.a_path);
  print_arm("B", c.b, c.b_model, c.b_path);
  fmt::print("   {}, {} pairs, task hash {}\n", printable(c.task, 60), grouped(c.pairs),
             printable(c.task_hash, 64));
  print_filters(c);
  print_texts(c);
  print_flips(c, g.flips);
  fmt::print("\n");
  for (const std::string& why : c.invalid) fmt::print("invalid: {}\n", why);
  for (const std::string& note : c.notes) fmt::print("note: {}\n", note);
  fmt::print("{}: {}\n", name(c.verdict), c.reason);
  return code_of(c, g.strict);
}

}  // namespace

void add_compare(CLI::App& app, Action& action) {
  auto a = std::make_shared<CompareArguments>();
  CLI::App* sub =
      app.add_subcommand("compare", "Paired verdict on two runs over the same questions: is B worse?");
  sub->footer(
      "Verdicts and exit codes:\n"
      "  0 NO REGRESSION, or WORSE BUT WITHIN MARGIN (the loss is real, and proven smaller than you allow;\n"
      "    --strict makes it 1)\n"
      "  1 REGRESSION\n"
      "  2 INVALID RUN: the runs can not be compared; also bad usage or unreadable files\n"
      "  3 INCONCLUSIVE: prints the margin that is proven and the questions needed\n"
      "Reads the folders that `moecheck eval --output` and `lm_eval --output_path --log_samples` write.");
  sub->add_option("A", a->a, "The baseline's folder, results_*.json or samples_*.jsonl")
      ->required()
      ->type_name("A_DIR");
  sub->add_option("B", a->b, "The candidate's")->required()->type_name("B_DIR");
  sub->add_option("--margin", a->margin, "Loss in points that would matter")
      ->check(CLI::Range(0.01, 100.0))
      ->capture_default_str()
      ->type_name("POINTS");
  sub->add_option("--alpha", a->alpha, "Error rate, one-sided")
      ->check(CLI::Range(1e-6, 0.5))
      ->capture_default_str();
  sub->add_option("--filter", a->filter, "The score that decides (the task's first when left out)")
      ->type_name("NAME");
  sub->add_option("--task", a->task, "The task, where a run has several")->type_name("NAME");
  sub->add_option("--aa", a->again, "A repeat of A: its flips are the noise floor")->type_name("DIR");
  sub->add_option("--max-failed", a->max_failed, "Failed requests allowed, percent")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str()
      ->type_name("PERCENT");
  sub->add_option("--max-truncated", a->max_truncated, "Answers cut at the token limit allowed, percent")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str()
      ->type_name("PERCENT");
  sub->add_option("--flips", a->flips, "Flips to print")->capture_default_str()->type_name("N");
  sub->add_flag("--whole-texts", a->whole_texts,
                "Compare texts to their end, not up to the first stop string of the task");
  sub->add_flag("--strict", a->strict, "Exit with 1 for WORSE BUT WITHIN MARGIN too");
  sub->add_option("--json", a->json, "Write everything; - is standard output")->type_name("FILE|-");
  sub->callback([a, &action] { action = [a] { return compare(*a); }; });
}

}  // namespace moecheck::harness
