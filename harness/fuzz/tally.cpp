#include "harness/fuzz/tally.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "harness/fuzz/cause.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

using Line = std::vector<std::string>;

// Columns as wide as their widest cell; the first two to the left, numbers to the right.
std::string aligned(const std::vector<Line>& lines) {
  std::vector<std::size_t> widths(lines.front().size());
  for (const Line& line : lines)
    for (std::size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  std::string out;
  for (const Line& line : lines) {
    for (std::size_t i = 0; i < line.size(); ++i)
      out += i < 2 ? fmt::format("{}{:<{}}", i == 0 ? "" : "  ", line[i], widths[i])
                   : fmt::format("  {:>{}}", line[i], widths[i]);
    out += '\n';
  }
  return out;
}

}  // namespace

void CampaignTally::add(const Record& r) {
  Row& row = rows_[{r.operator_name, r.implementation}];
  const Verdict v = r.result.verdict;
  row.tally.add(v);
  if (r.result.headroom > row.headroom || std::isnan(r.result.headroom)) row.headroom = r.result.headroom;
  ++records_;
  const bool failed = is_finding(r);
  failures_ += failed;
  ran_ = ran_ || v != Verdict::kSkip;
  // A case that could not have failed is no evidence.
  if (r.suite != kDrawn || v == Verdict::kSkip || v == Verdict::kWaived || v == Verdict::kMistrusted) return;
  report::Evidence& e = drawn_[r.implementation];
  ++e.cases;
  e.failed += failed;
}

std::string CampaignTally::text() const {
  if (rows_.empty()) return "no case ran\n";
  std::vector<Verdict> shown;
  for (const Verdict v : report::kReadingOrder)
    if (v == Verdict::kPass || v == Verdict::kFail ||
        std::any_of(rows_.begin(), rows_.end(), [v](const auto& row) { return row.second.tally[v] > 0; }))
      shown.push_back(v);
  std::vector<Line> lines(1, {"operator", "implementation", "cases"});
  for (const Verdict v : shown) lines[0].emplace_back(name(v));
  lines[0].emplace_back("error/bound");
  for (const auto& [who, row] : rows_) {
    Line& line =
        lines.emplace_back(Line{printable(who.first), printable(who.second), grouped(row.tally.total())});
    for (const Verdict v : shown) line.push_back(row.tally[v] == 0 ? "." : grouped(row.tally[v]));
    line.push_back(ratio_text(row.headroom));
  }
  std::string out = aligned(lines) + "\n";
  for (const auto& [implementation, e] : drawn_)
    out += fmt::format("{}, random cases: {}\n", printable(implementation), report::evidence_text(e));
  return out;
}

}  // namespace moecheck::harness
