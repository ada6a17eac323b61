// The pull request section as Markdown: GitHub's tables, and of HTML only <details> and <br>.
#include <fmt/format.h>

#include <algorithm>

#include "harness/report/pr_text.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

using namespace report;

// Text of files as text, also within a table.
std::string md(std::string_view text) {
  std::string out;
  for (const char c : printable(text)) {
    if (std::string_view("\\`*_{}[]<>#|~&@").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

// A fenced block that no line of it can close.
void fence(std::string& out, const std::vector<std::string>& lines) {
  std::size_t longest = 2;
  for (const std::string& line : lines)
    for (std::size_t i = 0, run = 0; i < line.size(); ++i) {
      run = line[i] == '`' ? run + 1 : 0;
      longest = std::max(longest, run);
    }
  const std::string mark(longest + 1, '`');
  out += mark + "\n";
  for (const std::string& line : lines) out += printable(line) + "\n";
  out += mark + "\n";
}

void filters_table(std::string& out, const PrReport& r) {
  const Comparison& c = *r.accuracy;
  out += fmt::format("| | {} | {} | difference, points (95%) |\n|---|---:|---:|---:|\n", md(r.input.a.label),
                     md(r.input.b.label));
  for (const FilterComparison& f : c.filters)
    out += fmt::format("| {} | {} | {} | {:+.2f} ({}) |\n", md(f.filter), accuracy_text(f.a),
                       accuracy_text(f.b), 100 * f.counts.difference(), points_text(f.verdict.interval));
  const FilterComparison& p = c.filters[c.primary];
  out += fmt::format("| right to wrong, wrong to right ({}) | | | {}, {} (McNemar p = {}) |\n", md(p.filter),
                     p.counts.regressions, p.counts.fixes, p_value_text(p.verdict.two_sided_p));
  out += fmt::format("| loss ruled out at {:g}% | | | {:.2f} points |\n", 100 * (1 - c.options.alpha),
                     100 * p.verdict.proven_margin);
  const auto counts = [](const Summary& s) {
    return fmt::format("{}, {}, {}, {}", s.failed, s.truncated, s.empty, s.run_on);
  };
  out += fmt::format("| failed, truncated, empty, run on | {} | {} | |\n", counts(c.a), counts(c.b));
  out += fmt::format("| identical texts | | | {:.1f}% |\n", 100 * c.texts.share());
  if (c.noise)
    out += fmt::format(
        "| {} against itself | | | {} flips, {:.1f}% identical texts; more flips than that: p = {} |\n",
        md(r.input.a.label), c.noise->counts.discordant(), 100 * c.noise->texts.share(),
        p_value_text(c.noise->excess_p));
}

void write_accuracy(std::string& out, const PrReport& r) {
  const Comparison& c = *r.accuracy;
  const Run& run = *r.input.a.accuracy;
  out += fmt::format("### Accuracy: {}\n\n{}\n\n", name(c.verdict), md(c.reason));
  out +=
      fmt::format("{}, {}-shot, {} asked of both", md(c.task), run.num_fewshot, count(c.pairs, "question"));
  if (!c.task_hash.empty())
    out += fmt::format(", the same prompts (task hash `{}`)", printable(c.task_hash.substr(0, 16)));
  out += fmt::format(". Margin: {:g} points. Intervals: Wilson for each, Tango for the difference.\n\n",
                     100 * c.options.margin);
  if (!c.filters.empty()) filters_table(out, r);
  out += "\n";
}

std::string cell(const load::Change& c) {
  if (c.a == 0 && c.b == 0) return "";
  const std::string change = change_text(c);
  const bool beyond = c.meaning == load::Meaning::kBetter || c.meaning == load::Meaning::kWorse;
  return fmt::format("{} → {}{}", number_text(c.a), number_text(c.b),
                     change.empty() ? ""
                     : beyond       ? fmt::format("<br>**{}**", change)
                                    : "<br>" + change);
}

void sweep_section(std::string& out, const PrReport& r) {
  out += fmt::format(
      "### Performance: {}\n\n{} → {}; means over runs, the change with its 95% interval from repeats, bold "
      "where it is beyond noise.\n\n",
      sweep_text(r), md(r.input.a.label), md(r.input.b.label));
  const bool drafts = std::any_of(r.sweep.begin(), r.sweep.end(),
                                  [](const load::SweepRow& x) { return x.acceptance_a || x.acceptance_b; });
  out += fmt::format(
      "| ISL / OSL | concurrency | runs | output tok/s | mean TTFT (ms) | mean TPOT (ms) "
      "|{}\n|---|---:|---:|---:|---:|---:|{}\n",
      drafts ? " acceptance length |" : "", drafts ? "---:|" : "");
  for (const load::SweepRow& x : r.sweep) {
    out += fmt::format("| {} | {} | {} + {} | {} | {} | {} |", md(load_text(x)), concurrency_text(x),
                       x.runs_a, x.runs_b, cell(x.throughput), cell(x.ttft), cell(x.tpot));
    const auto length = [](const std::optional<double>& v) {
      return v ? fmt::format("{:.2f}", *v) : std::string("?");
    };
    if (drafts) out += fmt::format(" {} → {} |", length(x.acceptance_a), length(x.acceptance_b));
    out += "\n";
  }
  out += "\n";
}

void write_how(std::string& out, const PrReport& r) {
  out += "<details><summary>Commands and environment</summary>\n\n";
  for (const Command& c : commands(r)) {
    out += fmt::format("{}{}:\n", md(c.arm), c.recorded ? "" : " (from what the result says was run)");
    fence(out, {c.line});
  }
  out += "\n| | |\n|---|---|\n";
  for (const Place& p : environments(r)) out += fmt::format("| {} | {} |\n", md(p.what), md(p.value));
  out += "\n</details>\n";
}

}  // namespace

std::string pr_markdown(const PrReport& r) {
  std::string out = fmt::format("## {}\n\n", md(r.input.title));
  if (r.accuracy) write_accuracy(out, r);
  if (!r.sweep.empty()) sweep_section(out, r);
  for (const std::string& c : cautions(r)) out += fmt::format("- {}\n", md(c));
  if (!cautions(r).empty()) out += "\n";
  write_how(out, r);
  return out;
}

}  // namespace moecheck::harness
