#include "harness/mutants/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <utility>

#include "harness/case.h"
#include "harness/record.h"
#include "harness/text.h"

namespace moecheck::harness::mutants {
namespace {

bool killed(const Result& r) { return r.outcome == Outcome::kKilled; }

double percent(double share) { return 100 * share; }

std::vector<std::string> words(std::string_view text) {
  std::vector<std::string> list;
  for (const std::string_view word : split_words(text)) list.emplace_back(word);
  return list;
}

// Groups in order of first appearance.
using Groups = std::vector<std::pair<std::string, std::vector<Result>>>;
Groups grouped_by(const std::vector<Result>& results, const std::function<std::string(const Result&)>& key) {
  Groups groups;
  for (const Result& r : results) {
    const std::string k = key(r);
    auto at = std::ranges::find(groups, k, &Groups::value_type::first);
    if (at == groups.end()) at = groups.insert(at, {k, {}});
    at->second.push_back(r);
  }
  return groups;
}

// ---- Parts of the report

std::string score_rows(const char* what, const Groups& groups) {
  std::string out =
      fmt::format("| {} | killed | asked | score | 95% interval |\n|---|---:|---:|---:|---|\n", what);
  for (const auto& [name, results] : groups) {
    const Score s = score(results);
    if (s.asked == 0) {
      out += fmt::format("| {} | – | 0 | not run | |\n", name);
      continue;
    }
    const Interval i = s.interval();
    out += fmt::format("| {} | {} | {} | {:.1f}% | {:.1f}% to {:.1f}% |\n", name, s.killed, s.asked,
                       percent(static_cast<double>(s.killed) / static_cast<double>(s.asked)), percent(i.low),
                       percent(i.high));
  }
  return out + "\n";
}

std::vector<Result> kernels_of(const std::vector<Result>& results) {
  std::vector<Result> kernels;
  std::ranges::copy_if(results, std::back_inserter(kernels),
                       [](const Result& r) { return !r.mutant.op.empty(); });
  return kernels;
}

// As results of a gate: what accuracy shows of the faults that were served.
std::vector<Result> served_results(const Campaign& c) {
  std::vector<Result> results;
  for (const Mutant& m : all())
    if (const auto at = c.served.shown.find(m.name); at != c.served.shown.end()) {
      Result r;
      r.mutant = m;
      r.outcome = at->second ? Outcome::kKilled : Outcome::kSurvived;
      results.push_back(std::move(r));
    }
  return results;
}

Groups gates(const Campaign& c) {
  const std::vector<Result> kernels = kernels_of(c.results);
  Groups groups = {{"CI gate, no GPU: everything", c.results}, {"CI gate, kernels", kernels}};
  for (const char* sanitizer : {"address", "thread"}) {
    const auto run = c.sanitizers.find(sanitizer);
    groups.emplace_back(
        fmt::format("{} alone, kernels, nothing judged", *sanitizer == 'a' ? "ASan and UBSan" : "TSan"),
        run == c.sanitizers.end() ? std::vector<Result>() : run->second);
  }
  groups.emplace_back("end to end alone: accuracy of a served model", served_results(c));
  return groups;
}

// What each further layer of the CI gate adds to those before it.
std::string layers_added(const Campaign& c) {
  const std::int64_t asked = score(kernels_of(c.results)).asked;
  if (asked == 0) return "";
  std::string out = "| kernels: up to here | killed | of all | 95% interval |\n|---|---:|---:|---|\n";
  Score sum{0, asked};
  for (const std::string_view suite : {"quick", "quick, all clauses", "adversarial", "models"}) {
    for (const Result& r : kernels_of(c.results)) sum.killed += killed(r) && r.suite == suite;
    const Interval i = sum.interval();
    out += fmt::format("| {}{} | {} | {:.1f}% | {:.1f}% to {:.1f}% |\n", suite,
                       suite == "quick" ? ", comparison and guards alone" : "", sum.killed,
                       percent(static_cast<double>(sum.killed) / static_cast<double>(asked)), percent(i.low),
                       percent(i.high));
  }
  return out + "\n";
}

std::string list_of(const char* heading, const std::vector<Result>& results, Outcome outcome,
                    const std::function<std::string(const Result&)>& why) {
  std::string out;
  for (const Result& r : results)
    if (r.outcome == outcome)
      out += fmt::format("- `{}` ({}): {}\n", r.mutant.name,
                         r.mutant.op.empty() ? r.mutant.layer : r.mutant.op, why(r));
  return out.empty() ? "" : fmt::format("## {}\n\n{}\n", heading, out);
}

// Unit tests by suite, and all parameters of a test together: there are too many for a row each.
std::string suites_table(const std::vector<CheckCount>& counts, bool exhaustive) {
  std::map<std::string, std::map<std::string, CheckCount>> suites;
  for (const CheckCount& k : counts) {
    const std::size_t dot = k.check.find('.');
    if (k.operators != kUnitTests || dot == std::string::npos) continue;
    CheckCount& test =
        suites[k.check.substr(0, dot)][k.check.substr(dot + 1, k.check.find('/', dot) - dot - 1)];
    test.first += k.first;
    test.noticed += k.noticed;
  }
  if (suites.empty()) return "";
  std::string out = "Unit tests, by suite. Those that notice nothing guard what no fault is planted in.\n\n";
  out += exhaustive ? "| suite | tests | first | notice nothing |\n|---|---:|---:|---|\n"
                    : "| suite | tests that killed | first |\n|---|---:|---:|\n";
  for (const auto& [suite, tests] : suites) {
    std::int64_t first = 0;
    std::vector<std::string> silent;
    for (const auto& [name, k] : tests) {
      first += k.first;
      if (k.noticed == 0) silent.push_back(name);
    }
    out += fmt::format("| {} | {} | {} |{}\n", suite, tests.size(), first,
                       exhaustive ? fmt::format(" {} |", fmt::join(silent, ", ")) : "");
  }
  return out + "\n";
}

std::string reverse_table(const Campaign& c) {
  const bool exhaustive = std::ranges::any_of(c.results, [](const Result& r) { return !r.noticed.empty(); });
  std::vector<CheckCount> counts = count_checks(c.results);
  std::ranges::stable_sort(counts, [](const CheckCount& a, const CheckCount& b) {
    return std::pair(a.noticed, a.first) > std::pair(b.noticed, b.first);
  });
  std::string out = fmt::format(
      "## Checks, by what they kill\n\nFirst: it was the first to notice. {}\n\n| check | operators | first "
      "|{}\n|---|---|---:|{}\n",
      exhaustive ? "Noticed: it saw the fault, whoever was first."
                 : "Checks that are asked late are first for little; `--exhaustive` counts all that notice.",
      exhaustive ? " noticed |" : "", exhaustive ? "---:|" : "");
  std::string nothing;
  for (const CheckCount& k : counts) {
    if (k.operators == kUnitTests) continue;
    if (k.noticed == 0)
      nothing += fmt::format("- {} ({})\n", k.check, k.operators);
    else
      out += fmt::format("| {} | {} | {} |{}\n", k.check, k.operators, k.first,
                         exhaustive ? fmt::format(" {} |", k.noticed) : "");
  }
  out += "\n";
  if (!nothing.empty())
    out += fmt::format("### {}\n\n{}\n", exhaustive ? "Checks that kill nothing" : "Never first", nothing);
  return out + suites_table(counts, exhaustive);
}

// What was asked of the CI gate and how long it took: mutants are to die early.
std::string times(const std::vector<Result>& results) {
  std::vector<double> to_kill;
  double sum = 0;
  for (const Result& r : results) {
    sum += r.seconds;
    if (killed(r)) to_kill.push_back(r.seconds);
  }
  if (to_kill.empty()) return "";
  std::ranges::sort(to_kill);
  const auto quantile = [&](double q) {
    return to_kill[static_cast<std::size_t>(q * static_cast<double>(to_kill.size() - 1))];
  };
  const Environment& e = environment();
  return fmt::format(
      "{} mutants; to the first kill: median {:.2f} s, 90% within {:.2f} s, the longest {:.1f} s; {:.0f} s "
      "in all, shared by the "
      "jobs.\nmoecheck {} ({}), {}, {}.\n\n",
      results.size(), quantile(0.5), quantile(0.9), to_kill.back(), sum, e.version, e.commit, e.build, e.cpu);
}

std::string slowest(const std::vector<Result>& results) {
  std::vector<Result> sorted = results;
  std::ranges::stable_sort(sorted, [](const Result& a, const Result& b) { return a.seconds > b.seconds; });
  sorted.resize(std::min<std::size_t>(sorted.size(), 10));
  std::string out = "## Slowest\n\n| mutant | seconds | outcome |\n|---|---:|---|\n";
  for (const Result& r : sorted)
    out += fmt::format("| {} | {:.2f} | {}{} |\n", r.mutant.name, r.seconds, name(r.outcome),
                       killed(r) ? fmt::format(" by {}, {}", r.killer, r.suite) : "");
  return out + "\n";
}

std::string mutant_rows(const std::vector<Result>& results) {
  std::string out =
      "## Every mutant\n\n| N | mutant | where | class | upstream | killed by | in | seconds | cases |\n"
      "|---:|---|---|---|---|---|---|---:|---:|\n";
  for (const Result& r : results) {
    const Mutant& m = r.mutant;
    out += fmt::format("| {} | {} | {} | {} | {} | {} | {} | {:.2f} | {} |\n", m.number, m.name,
                       m.op.empty() ? m.layer : m.layer + " " + m.op, m.class_, m.upstream,
                       killed(r) ? r.killer : fmt::format("**{}**", name(r.outcome)), r.suite, r.seconds,
                       r.asked == 0 ? "" : grouped(r.asked));
  }
  return out + "\n";
}

std::string coverage(const Campaign& c) {
  std::string out =
      "## Upstream bugs and the mutants that stand for them\n\n| bug | what went wrong | mutants "
      "|\n|---|---|---|\n";
  std::string none;
  std::int64_t stood_for = 0;
  for (const UpstreamBug& b : upstream_bugs()) {
    std::string names;
    for (const std::string& mutant : words(b.mutants)) {
      const auto at = std::ranges::find(c.results, mutant, [](const Result& r) { return r.mutant.name; });
      names += (names.empty() ? "" : ", ") + mutant +
               (at == c.results.end() || killed(*at) ? "" : fmt::format(" (**{}**)", name(at->outcome)));
    }
    if (names.empty()) {
      none += fmt::format("- {}: {}. {}\n", b.reference, b.symptom, b.why_none);
      continue;
    }
    ++stood_for;
    out += fmt::format("| {} | {} | {}{} |\n", b.reference, b.symptom, names,
                       b.why_none.empty() ? "" : fmt::format("; {}", b.why_none));
  }
  return out + fmt::format("\n{} of {} bugs have mutants.\n\n", stood_for, upstream_bugs().size()) +
         (none.empty() ? "" : "### Without one, and why\n\n" + none + "\n");
}

}  // namespace

std::string summary_text(const Campaign& c) {
  std::string out;
  for (const auto& [layer, results] : grouped_by(c.results, [](const Result& r) { return r.mutant.layer; }))
    out += fmt::format("{:<14} {}\n", layer, text(score(results)));
  for (const auto& [gate, results] : gates(c))
    if (!results.empty()) out += fmt::format("{}: {}\n", gate, text(score(results)));
  std::map<std::string, int> not_run;
  int equivalent = 0;
  for (const Result& r : c.results) {
    equivalent += r.outcome == Outcome::kEquivalent;
    if (r.outcome == Outcome::kNotRun) ++not_run[r.detail];
  }
  if (equivalent > 0) out += count(equivalent, "mutant") + " equivalent\n";
  for (const auto& [why, n] : not_run)
    out += fmt::format("{} NOT RUN: {}\n", count(n, "mutant"), printable(why, 300));
  for (const Result& r : c.results)
    if (r.outcome == Outcome::kSurvived)
      out += fmt::format("survived: {} ({}): {}\n", r.mutant.name,
                         r.mutant.op.empty() ? r.mutant.layer : r.mutant.op, r.mutant.what);
  if (!c.results.empty() && c.jobs > 0) {
    const Result& slow = *std::ranges::max_element(c.results, {}, &Result::seconds);
    out += fmt::format("{:.0f} s with {}; the slowest: {} {:.1f} s\n", c.seconds, count(c.jobs, "job"),
                       slow.mutant.name, slow.seconds);
  }
  return out;
}

std::string table_markdown(const Campaign& c) {
  std::string out =
      "# Mutants: do the checks notice planted faults?\n\nMade by `scripts/mutants.sh`. Each mutant is one "
      "line of wrong code, off by "
      "default (`moecheck list faults`); the checks are run\nagainst each until one notices. Intervals are "
      "Wilson's.\n\n";
  out += times(c.results) + "## Scores\n\n";
  out += score_rows("gate", gates(c));
  if (!c.served.source.empty())
    out += fmt::format("End to end: the faults of {}, which `scripts/served_faults.sh` wrote.\n\n",
                       c.served.source);
  out += layers_added(c);
  out += score_rows("layer", grouped_by(c.results, [](const Result& r) { return r.mutant.layer; }));
  out +=
      score_rows("operator", grouped_by(kernels_of(c.results), [](const Result& r) { return r.mutant.op; }));
  out += score_rows("class", grouped_by(c.results, [](const Result& r) { return r.mutant.class_; }));
  out += list_of("Survivors", c.results, Outcome::kSurvived, [](const Result& r) { return r.mutant.what; });
  out += list_of("Equivalent", c.results, Outcome::kEquivalent, [](const Result& r) {
    return r.mutant.what + ". Nothing can tell: " + r.mutant.equivalent;
  });
  out += list_of("Not run", c.results, Outcome::kNotRun, [](const Result& r) { return r.detail; });
  return out + reverse_table(c) + coverage(c) + slowest(c.results) + mutant_rows(c.results);
}

}  // namespace moecheck::harness::mutants
