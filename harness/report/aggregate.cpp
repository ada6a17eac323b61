#include "harness/report/aggregate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <unordered_map>
#include <utility>

#include "harness/fault.h"
#include "harness/text.h"

namespace moecheck::harness::report {

std::int64_t Tally::total() const {
  std::int64_t n = 0;
  for (const std::int64_t c : counts) n += c;
  return n;
}

std::int64_t Tally::failures() const {
  std::int64_t n = 0;
  for (const Verdict v : kReadingOrder)
    if (is_failure(v)) n += (*this)[v];
  return n;
}

Verdict Tally::worst() const {
  Verdict worst = Verdict::kSkip;
  for (const Verdict v : kReadingOrder)
    if ((*this)[v] > 0)
      worst = HARNESS_FAULT(kReportWorstCellIsFirst) && worst != Verdict::kSkip ? worst : worse(worst, v);
  return worst;
}

std::vector<Group> group_records(std::span<const Record> records) {
  std::vector<Group> groups;
  std::map<std::pair<std::string, std::string>, std::size_t> group_index;
  std::vector<std::map<std::pair<std::string, std::string>, std::size_t>> cell_index;
  for (const Record& r : records) {
    const auto [at, is_new] = group_index.try_emplace({r.operator_name, r.implementation}, groups.size());
    if (is_new) {
      groups.emplace_back().operator_name = r.operator_name;
      groups.back().implementation = r.implementation;
      cell_index.emplace_back();
    }
    Group& g = groups[at->second];
    const auto [cell_at, is_new_cell] =
        cell_index[at->second].try_emplace({r.model, r.policy}, g.cells.size());
    if (is_new_cell) g.cells.push_back({r.model, r.policy, {}, {}});
    Cell& cell = g.cells[cell_at->second];
    g.records.push_back(&r);
    cell.records.push_back(&r);
    g.tally.add(r.result.verdict);
    cell.tally.add(r.result.verdict);
    g.elements += r.result.elements;
    g.undecided += r.result.undecided;
    g.run_seconds += r.run_seconds;
    const double h = r.result.headroom;
    g.headroom = std::isnan(h) ? std::numeric_limits<double>::infinity() : std::max(g.headroom, h);
  }
  for (Group& g : groups) {
    const Evidence e = evidence(g.records);
    g.cases = e.cases;
    g.failed_cases = e.failed;
  }
  return groups;
}

Evidence evidence(std::span<const Record* const> records) {
  std::unordered_map<std::string_view, bool> failed;
  for (const Record* r : records) {
    if ((r->result.verdict == Verdict::kSkip && !HARNESS_FAULT(kReportSkipsCountAsEvidence)) ||
        r->result.verdict == Verdict::kWaived)
      continue;
    bool& f = failed[r->case_line];
    f = f || is_failure(r->result.verdict);
  }
  Evidence e;
  e.cases = static_cast<std::int64_t>(HARNESS_FAULT(kReportRepeatsCountAsEvidence) ? records.size()
                                                                                   : failed.size());
  for (const auto& [line, f] : failed) e.failed += f;
  return e;
}

std::string evidence_text(const Evidence& e) {
  if (e.cases == 0) return "no case ran: nothing is known";
  if (e.failed > 0) return fmt::format("{} of {} failed", grouped(e.failed), count(e.cases, "case"));
  const double n = static_cast<double>(e.cases);
  if (e.cases < 30)
    return fmt::format("0 failures in {} bounds the failure rate by {:.0f}% at 95%", count(e.cases, "case"),
                       100 * (1 - std::pow(0.05, 1 / n)));
  return fmt::format("0 failures in {} cases bounds the failure rate by 3/{} = {:.2g}% at 95%",
                     grouped(e.cases), e.cases, (HARNESS_FAULT(kReportBoundOfOneOverN) ? 100 : 300) / n);
}

std::vector<Kernels> kernels(std::span<const Record> records) {
  std::vector<Kernels> all;
  for (const Record& r : records) {
    if (r.kernels.executed.empty() && r.kernels.fallbacks.empty()) continue;
    auto at = std::find_if(all.begin(), all.end(),
                           [&](const Kernels& k) { return k.implementation == r.implementation; });
    if (at == all.end()) at = all.insert(all.end(), {r.implementation, {}});
    for (const auto& [name, n] : r.kernels.executed) at->use.executed[r.operator_name + ": " + name] += n;
    for (const auto& [reason, n] : r.kernels.fallbacks)
      at->use.fallbacks[r.operator_name + ": " + reason] += n;
  }
  return all;
}

const Element* wrong_element(const Judgement& j) {
  const bool numbers_are_wrong = j.failed > 0 || j.suspect > 0 || j.verdict == Verdict::kOracle;
  return j.worst && numbers_are_wrong ? &*j.worst : nullptr;
}

ClauseState clause_state(const ClauseResult& clause) {
  if (is_failure(clause.verdict)) return ClauseState::kBroken;
  if (clause.verdict == Verdict::kPass) return ClauseState::kKept;
  return clause.detail.starts_with(kNotPromisedPrefix) ? ClauseState::kNotPromised : ClauseState::kNotAsked;
}

std::vector<Reason> Reasons::sorted() const {
  std::vector<Reason> reasons;
  for (const auto& [text, n] : counts_) reasons.push_back({text, n});
  std::stable_sort(reasons.begin(), reasons.end(),
                   [](const Reason& a, const Reason& b) { return a.count > b.count; });
  return reasons;
}

}  // namespace moecheck::harness::report
