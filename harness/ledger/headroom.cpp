#include "harness/ledger/headroom.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "harness/case.h"
#include "harness/operator.h"
#include "harness/tasks/sha256.h"
#include "harness/text.h"

namespace moecheck::harness::ledger {
namespace {

// Six digits: what two compilers' libm differ by is no news, and lines stay
// readable.
double rounded(double v) { return std::stod(fmt::format("{:.6g}", v)); }

std::string dtype_of(const Record& r) {
  const Case c = [&] {
    try {
      return parse_case(r.case_line);
    } catch (const UsageError& e) {
      throw UsageError(
          fmt::format("the record of '{}' is not readable here: {}: measure "
                      "with the moecheck that wrote it",
                      printable(r.case_line, 200), e.what()));
    }
  }();
  return c.schema().find("dtype") < 0 ? std::string() : std::string(c.choice("dtype"));
}

struct Sample {
  double headroom = 0;
  const Record* record = nullptr;
};

struct Group {
  HeadroomKey key;
  std::vector<Sample> passing;
  std::int64_t failed = 0;
};

bool passes(const Record& r) {
  return (r.result.verdict == Verdict::kPass || r.result.verdict == Verdict::kUndecided) &&
         std::isfinite(r.result.headroom);
}

Headroom figures(Group& g) {
  const auto by_size = [](const Sample& a, const Sample& b) {
    return a.headroom != b.headroom ? a.headroom < b.headroom : a.record->case_line > b.record->case_line;
  };
  std::sort(g.passing.begin(), g.passing.end(), by_size);
  Headroom h;
  h.key = g.key;
  h.failed = g.failed;
  h.cases = std::ssize(g.passing);
  std::set<std::string_view> lines;
  for (const Sample& s : g.passing) {
    lines.insert(s.record->case_line);
    h.row_error = std::max(h.row_error, s.record->result.metrics.max_relative_row);
  }
  h.case_set = sha256_hex(fmt::format("{}", fmt::join(lines, "\n"))).substr(0, 16);
  h.row_error = rounded(h.row_error);
  if (g.passing.empty()) return h;
  const std::size_t rank = (99 * g.passing.size() + 99) / 100;  // ceil(0.99 n)
  h.max = rounded(g.passing.back().headroom);
  h.q99 = rounded(g.passing[rank - 1].headroom);
  h.worst = g.passing.back().record->case_line;
  return h;
}

std::string one_commit(std::span<const Record> records) {
  std::set<std::string> commits;
  for (const Record& r : records) commits.insert(r.env.commit);
  if (commits.size() > 1)
    throw UsageError(fmt::format("the records are of {} commits ({}): give those of one", commits.size(),
                                 printable(fmt::format("{}", fmt::join(commits, ", ")), 200)));
  return commits.empty() ? std::string() : *commits.begin();
}

// The one commit of the ledger whose name begins so.
std::string require_commit(std::span<const Headroom> ledger, const std::string& against) {
  std::vector<std::string> all, found;
  for (const Headroom& h : ledger) {
    if (std::ranges::find(all, h.commit) != all.end()) continue;
    all.push_back(h.commit);
    if (h.commit == against) return against;
    if (!against.empty() && h.commit.starts_with(against)) found.push_back(h.commit);
  }
  if (found.size() == 1) return found[0];
  if (all.size() > 5) all.erase(all.begin(), all.end() - 5);
  if (found.empty())
    throw UsageError(fmt::format("--against {}: the ledger has no such commit; its last are {}",
                                 printable(against, 80),
                                 all.empty() ? "none" : fmt::format("{}", fmt::join(all, ", "))));
  throw UsageError(fmt::format("--against {}: the ledger has {}: write more of the name",
                               printable(against, 80), fmt::join(found, ", ")));
}

const Headroom* before(std::span<const Headroom> ledger, const Headroom& now, const std::string& commit) {
  for (std::size_t i = ledger.size(); i-- > 0;)
    if (ledger[i].key == now.key &&
        (commit.empty() ? ledger[i].commit != now.commit : ledger[i].commit == commit))
      return &ledger[i];
  return nullptr;
}

// Whether it would fail before it drifted.
bool no_room(double before, const DriftRule& rule) { return before * rule.threshold > 1; }

std::string why_not(const Headroom& now, const Headroom* was, const DriftRule& rule) {
  if (now.failed > 0) return fmt::format("{} failed: see to that first", count(now.failed, "case"));
  if (was == nullptr) return "the ledger has no line of this group to compare with";
  if (was->case_set != now.case_set)
    return fmt::format("other cases passed then: {} then, {} now", grouped(was->cases), grouped(now.cases));
  if (now.cases < rule.min_cases)
    return fmt::format("{}, fewer than {}", count(now.cases, "case"), rule.min_cases);
  if (no_room(was->q99, rule) && was->row_error == 0)
    return "already at the bound, and there is no row error: nothing would show";
  return {};
}

std::vector<std::string> drifted(const Headroom& was, const Headroom& now, const DriftRule& rule) {
  std::vector<std::string> figures;
  const auto grew = [&](double a, double b) { return b >= rule.floor && b > rule.threshold * a; };
  if (grew(was.max, now.max)) figures.emplace_back("max");
  if (grew(was.q99, now.q99)) figures.emplace_back("q99");
  if (no_room(was.max, rule) && was.row_error > 0 && now.row_error > rule.threshold * was.row_error)
    figures.emplace_back("row_error");
  return figures;
}

}  // namespace

std::string key_text(const HeadroomKey& k) {
  std::string out = fmt::format("{} {} {}", k.implementation, k.operator_name, k.tier.empty() ? "-" : k.tier);
  if (!k.dtype.empty()) out += " " + k.dtype;
  if (!k.device.empty()) out += fmt::format(" on {}", k.device);
  return printable(out);
}

std::vector<Headroom> measure_headroom(std::span<const Record> records) {
  const std::string commit = one_commit(records);
  std::map<std::pair<std::string_view, std::string_view>, const Record*> last;
  for (const Record& r : records) last[{r.implementation, r.case_line}] = &r;
  std::vector<Group> groups;
  std::map<HeadroomKey, std::size_t> places;
  for (const Record& r : records) {
    if (last.at({r.implementation, r.case_line}) != &r || r.result.verdict == Verdict::kSkip) continue;
    if (passes(r) && r.result.elements == 0) continue;  // nothing was compared
    const HeadroomKey key{r.implementation, r.operator_name, r.tier, dtype_of(r), r.env.device};
    const auto [at, is_new] = places.try_emplace(key, groups.size());
    if (is_new) groups.push_back({key, {}, 0});
    if (passes(r))
      groups[at->second].passing.push_back({r.result.headroom, &r});
    else
      ++groups[at->second].failed;
  }
  std::vector<Headroom> all;
  for (Group& g : groups) {
    Headroom& h = all.emplace_back(figures(g));
    h.commit = commit;
    h.compiler = records.front().env.compiler;
    h.cpu = records.front().env.cpu;
  }
  return all;
}

std::vector<Drift> compare_headroom(std::span<const Headroom> now, std::span<const Headroom> ledger,
                                    const std::string& against, const DriftRule& rule) {
  const std::string commit = against == "last" ? std::string() : require_commit(ledger, against);
  std::vector<Drift> all;
  for (const Headroom& h : now) {
    const Headroom* was = before(ledger, h, commit);
    Drift& d = all.emplace_back();
    d.now = h;
    d.not_compared = why_not(h, was, rule);
    if (was != nullptr) d.before = *was;
    if (d.not_compared.empty()) d.figures = drifted(*was, h, rule);
  }
  return all;
}

std::string drift_text(const Drift& d) {
  std::string out = key_text(d.now.key);
  if (!d.not_compared.empty()) return fmt::format("{}: not compared: {}\n", out, d.not_compared);
  const Headroom &was = *d.before, &now = d.now;
  out += fmt::format(": {} since {}, {}\n", d.drifted() ? "drifted" : "no drift", printable(was.commit),
                     count(now.cases, "case"));
  const auto line = [&](std::string_view figure, double a, double b, auto text) {
    const bool is_it = std::ranges::find(d.figures, figure) != d.figures.end();
    if (!d.drifted()) return;
    out += fmt::format("  {:<9} {} to {}{}\n", figure, text(a), text(b),
                       !is_it || a == 0 ? "" : fmt::format(", {:.3g} times", b / a));
  };
  const auto plain = [](double v) { return fmt::format("{:.3g}", v); };
  line("max", was.max, now.max, ratio_text);
  line("q99", was.q99, now.q99, ratio_text);
  line("row_error", was.row_error, now.row_error, plain);
  if (!d.drifted()) return out;
  out += fmt::format("  worst now {}\n", printable(now.worst));
  if (was.worst != now.worst) out += fmt::format("  worst then {}\n", printable(was.worst));
  if (was.compiler != now.compiler)
    out += fmt::format("  the compiler changed from {} to {}\n", printable(was.compiler),
                       printable(now.compiler));
  if (was.cpu != now.cpu)
    out += fmt::format("  the processor changed from {} to {}\n", printable(was.cpu), printable(now.cpu));
  return out;
}

}  // namespace moecheck::harness::ledger
