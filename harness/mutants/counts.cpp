// Results, counted and put together.
#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <utility>

#include "harness/case.h"
#include "harness/mutants/table.h"
#include "harness/operator.h"
#include "harness/relation.h"
#include "harness/text.h"

namespace moecheck::harness::mutants {
namespace {

constexpr const char* kRelationOfAll = "all";

bool killed(const Result& r) { return r.outcome == Outcome::kKilled; }

// The cells of a row of a Markdown table, without what emphasis they have.
std::vector<std::string> cells(const std::string& line) {
  std::vector<std::string> list;
  for (std::size_t at = line.find('|'); at != std::string::npos && at + 1 < line.size();) {
    const std::size_t end = line.find('|', at + 1);
    if (end == std::string::npos) break;
    const std::string cell = line.substr(at + 1, end - at - 1);
    const std::size_t first = cell.find_first_not_of(' ');
    list.push_back(first == std::string::npos ? ""
                                              : cell.substr(first, cell.find_last_not_of(' ') - first + 1));
    at = end;
  }
  return list;
}

}  // namespace

Interval Score::interval() const { return wilson(killed, asked); }

Score score(const std::vector<Result>& results) {
  Score s;
  for (const Result& r : results) {
    s.asked += r.outcome == Outcome::kKilled || r.outcome == Outcome::kSurvived;
    s.killed += killed(r);
  }
  return s;
}

std::string text(const Score& s) {
  if (s.asked == 0) return "not run";
  const Interval i = s.interval();
  return fmt::format("{:.1f}% ({} of {}; {:.1f}% to {:.1f}%)",
                     100 * static_cast<double>(s.killed) / static_cast<double>(s.asked), s.killed, s.asked,
                     100 * i.low, 100 * i.high);
}

std::vector<CheckCount> count_checks(const std::vector<Result>& results) {
  std::vector<CheckCount> counts;
  const auto count = [&](const std::string& check, const std::string& operators) -> CheckCount& {
    for (CheckCount& k : counts)
      if (k.check == check && (k.operators == operators || k.operators == kRelationOfAll)) return k;
    return counts.emplace_back(CheckCount{check, operators});
  };
  // What was asked, so that it is there with 0.
  std::set<std::string_view> ops;
  for (const Result& r : results)
    if (!r.mutant.op.empty() && r.outcome != Outcome::kNotRun) ops.insert(r.mutant.op);
  if (!ops.empty()) {
    count("comparison", kRelationOfAll);
    for (const Clause& clause : common_clauses()) count(std::string(clause.name), kRelationOfAll);
  }
  for (const Operator* op : operators())
    if (ops.contains(op->name()))
      for (const Relation& relation : op->relations())
        count(std::string(relation.name), std::string(op->name()));
  for (const Result& r : results) {
    const std::string of = r.mutant.op.empty() ? kUnitTests : r.mutant.op;
    for (const std::string& check : r.silent) count(check, of);
    if (!killed(r)) continue;
    ++count(r.killer, of).first;
    std::set<std::string> noticed(r.noticed.begin(), r.noticed.end());
    noticed.insert(r.killer);
    for (const std::string& check : noticed) ++count(check, of).noticed;
  }
  return counts;
}

Served read_served(const std::string& path) {
  std::ifstream in(path);
  if (!in)
    throw UsageError(fmt::format("--served {}: cannot be read: give what scripts/served_faults.sh wrote",
                                 printable(path)));
  Served served{path, {}};
  for (std::string line; std::getline(in, line);) {
    const std::vector<std::string> row = cells(line);
    if (row.size() != 7) continue;
    const std::string fault = row[0].substr(0, row[0].find(' '));  // without "(fused)"
    if (row[6] == "yes" || row[6] == "no" || row[6].starts_with("no answers"))
      served.shown[fault] = row[6] != "no";
  }
  if (served.shown.empty())
    throw UsageError(fmt::format("--served {}: holds no table of scripts/served_faults.sh", printable(path)));
  return served;
}

Campaign campaign_of(const std::vector<Result>& results) {
  std::map<std::pair<std::string, std::string>, Result> latest;  // by sanitizer (empty: CI gate) and mutant
  std::set<std::string> sanitizers = {""};
  for (const Result& r : results) {
    const std::string run = r.gate == Gate::kCi ? "" : r.sanitizer.empty() ? "none" : r.sanitizer;
    sanitizers.insert(run);
    const auto [at, is_new] = latest.try_emplace({run, r.mutant.name}, r);
    if (is_new) continue;
    Result before = std::exchange(at->second, r);
    // An exhaustive run tells who else noticed; who was first, and when, is the other's to say.
    const bool exhaustive = !r.noticed.empty() || !r.silent.empty();
    if (exhaustive && before.outcome != Outcome::kNotRun) at->second = before;
    const Result& more = exhaustive ? r : before;
    at->second.noticed = more.noticed;
    at->second.silent = more.silent;
  }
  Campaign c;
  for (const std::string& run : sanitizers)
    for (const Mutant& m : all())
      if (const auto at = latest.find({run, m.name}); at != latest.end())
        (run.empty() ? c.results : c.sanitizers[run]).push_back(at->second);
  return c;
}

}  // namespace moecheck::harness::mutants
