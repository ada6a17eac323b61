// Clauses and relations per implementation; what was left open or not run, and why.
#include <algorithm>
#include <array>
#include <map>

#include "harness/report/page.h"
#include "harness/text.h"

namespace moecheck::harness::report {
namespace {
constexpr std::size_t kStates = 4;
using States = std::array<std::int64_t, kStates>;

struct ClauseRow {
  std::string name;
  std::map<std::string_view, States> by_implementation;
};

std::vector<ClauseRow> clause_rows(const Page& page) {
  std::vector<ClauseRow> rows;
  std::map<std::string_view, std::size_t> index;
  for (const Record& r : page.records)
    for (const ClauseResult& c : r.result.clauses) {
      const auto [at, is_new] = index.try_emplace(c.name, rows.size());
      if (is_new) rows.push_back({c.name, {}});
      ++rows[at->second].by_implementation[r.implementation][static_cast<std::size_t>(clause_state(c))];
    }
  return rows;
}

void write_states(std::string& out, const States& s) {
  constexpr std::string_view kCss[kStates] = {"", "tone f", "tone w", "tone k"};
  for (std::size_t i = 0; i < kStates; ++i) {
    const std::string_view first = i == 0 ? "first" : "";
    if (s[i] == 0)
      put(out, "<td class=\"zero {}\">&middot;</td>", first);
    else
      put(out, "<td class=\"{}\"><span class=\"{}\">{}</span></td>", first, kCss[i], grouped(s[i]));
  }
}

void write_clause_table(std::string& out, const Page& page, const std::vector<ClauseRow>& rows) {
  out +=
      "<div class=\"panel scroll\"><table class=\"figures clauses\"><thead><tr><th rowspan=2>clause or "
      "relation</th>";
  for (const std::string& i : page.implementations) put(out, "<th class=impl colspan=4>{}</th>", html(i));
  out += "</tr><tr>";
  for (std::size_t i = 0; i < page.implementations.size(); ++i)
    out +=
        "<th class=first>kept</th><th>broken</th><th title=\"not promised\">n.p.</th><th title=\"not "
        "asked\">n.a.</th>";
  out += "</tr></thead><tbody>\n";
  for (const ClauseRow& row : rows) {
    put(out, "<tr><th>{}</th>", html(row.name));
    for (const std::string& i : page.implementations) {
      const auto at = row.by_implementation.find(i);
      write_states(out, at == row.by_implementation.end() ? States{} : at->second);
    }
    out += "</tr>\n";
  }
  out += "</tbody></table></div>\n";
}

constexpr std::size_t kReasonsShown = 60;

// A list of reasons with counts, folded away where it is long.
void write_reasons(std::string& out, std::string_view title, const std::string& sign, const Reasons& all,
                   bool is_open) {
  if (all.empty()) return;
  const std::vector<Reason> reasons = all.sorted();
  put(out,
      "<details class=more{}><summary><b>{}</b>{} <span class=n>{}</span></summary><div class=scroll><table "
      "class=list><tbody>\n",
      is_open ? " open" : "", title, sign, count(std::ssize(reasons), "reason"));
  for (std::size_t i = 0; i < std::min(reasons.size(), kReasonsShown); ++i)
    put(out, "<tr><td class=n>{}<td>{}\n", grouped(reasons[i].count), reasons[i].text);
  if (reasons.size() > kReasonsShown) put(out, "<tr><td><td>and {} more\n", reasons.size() - kReasonsShown);
  out += "</tbody></table></div></details>\n";
}

std::string reason_text(const Record& r, std::string_view clause, std::string_view why) {
  const std::string what = clause.empty() ? html(r.operator_name) : html(clause);
  return fmt::format("<b>{}</b> {}: {}", what, html(r.implementation), html(why));
}

}  // namespace

void write_clauses(std::string& out, const Page& page) {
  const std::vector<ClauseRow> rows = clause_rows(page);
  open_section(out, "contract", "Contract",
               rows.empty() ? "No clauses were asked."
                            : "Clauses of the contract and metamorphic relations: how often each was kept, "
                              "broken, not promised by the "
                              "implementation (n.p.), or not asked because it does not apply (n.a.).");
  if (!rows.empty()) write_clause_table(out, page, rows);
  Reasons not_promised, not_asked;
  for (const Record& r : page.records)
    for (const ClauseResult& c : r.result.clauses) {
      if (clause_state(c) == ClauseState::kNotPromised)
        not_promised.add(
            reason_text(r, c.name, std::string_view(c.detail).substr(kNotPromisedPrefix.size())));
      if (clause_state(c) == ClauseState::kNotAsked) not_asked.add(reason_text(r, c.name, c.detail));
    }
  write_reasons(out, "Not promised", "", not_promised, true);
  write_reasons(out, "Not asked", "", not_asked, false);
  out += "</section>\n";
}

void write_kernels(std::string& out, const Page& page) {
  const std::vector<Kernels> all = kernels(page.records);
  if (all.empty()) return;
  open_section(out, "kernels", "Kernels",
               "The specializations that requests were dispatched to, and how often each ran. One that never "
               "ran was not tested.");
  for (const Kernels& k : all) {
    std::int64_t never = 0;
    for (const auto& [name, n] : k.use.executed) never += n == 0;
    put(out,
        "<details class=more{}><summary><b>{}</b> <span class=n>{}{}</span></summary><div "
        "class=scroll><table "
        "class=list><tbody>\n",
        never > 0 ? " open" : "", html(k.implementation), count(std::ssize(k.use.executed), "kernel"),
        never == 0 ? "" : fmt::format(", {} never ran", grouped(never)));
    for (const auto& [name, n] : k.use.executed)
      put(out, "<tr><td class=n>{}<td>{}\n", n == 0 ? "<b>never</b>" : grouped(static_cast<std::int64_t>(n)),
          html(name));
    for (const auto& [reason, n] : k.use.fallbacks)
      put(out, "<tr><td class=n>{}<td>left the fast kernels, {}\n", grouped(static_cast<std::int64_t>(n)),
          html(reason));
    out += "</tbody></table></div></details>\n";
  }
  out += "</section>\n";
}

void write_open(std::string& out, const Page& page) {
  Reasons undecided, skipped;
  std::int64_t elements = 0, open_elements = 0;
  for (const Record& r : page.records) {
    elements += r.result.elements;
    open_elements += r.result.undecided;
    if (r.result.verdict == Verdict::kUndecided) undecided.add(reason_text(r, "", r.result.reason));
    if (r.result.verdict == Verdict::kSkip) skipped.add(reason_text(r, "", r.result.reason));
  }
  open_section(
      out, "open", "Open and skipped",
      fmt::format("{} rows or elements left open, by near-ties of the inputs or by the contract, beside {} "
                  "compared. {} not run.",
                  grouped(open_elements), grouped(elements), count(page.tally[Verdict::kSkip], "check")));
  write_reasons(out, "Undecided", badge(Verdict::kUndecided), undecided, true);
  write_reasons(out, "Skipped", badge(Verdict::kSkip), skipped, true);
  out += "</section>\n";
}

}  // namespace moecheck::harness::report
