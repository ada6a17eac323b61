// Known failures: every waiver with its state, and the failures that each
// covers.
#include <algorithm>
#include <map>

#include "harness/case.h"
#include "harness/ledger/waivers.h"
#include "harness/report/page.h"
#include "harness/text.h"
#include "harness/verdict_text.h"

namespace moecheck::harness::report {
namespace {
using ledger::AuditedWaiver;
using ledger::WaiverState;

constexpr std::size_t kShownPerIssue = 40;

// A link that is followed only when it is clicked; what is no issue stays text.
std::string issue_link(const std::string& issue) {
  try {
    const ledger::IssueReference reference(issue);
    return fmt::format("<a href=\"{}\" rel=noreferrer>{}</a>", html(reference.url()), html(issue));
  } catch (const UsageError&) {
    return html(issue);
  }
}

std::string_view tone(WaiverState s) {
  return s == WaiverState::kOpen      ? "tone w"
         : s == WaiverState::kExpired ? "tone f"
         : s == WaiverState::kUnused  ? "tone k"
                                      : "tone s";
}

void write_waivers(std::string& out, std::span<const AuditedWaiver> waivers) {
  if (waivers.empty()) return;
  out +=
      "<div class=\"panel scroll\"><table "
      "class=figures><thead><tr><th>issue</th><th class=name>covers</th><th "
      "class=name>state</th><th>failing</th><th>passing</th><th>added</"
      "th><th>until</th></tr></thead><tbody>\n";
  for (const AuditedWaiver& a : waivers) {
    const ledger::Waiver& w = a.line->waiver;
    put(out, "<tr><th>{}</th><td class=name>{}</td>", issue_link(w.issue().text()), html(w.pattern()));
    put(out,
        "<td class=name><span "
        "class=\"{}\">{}</span></td><td>{}</td><td>{}</td><td>{}</td><td>{}</"
        "td></tr>\n",
        tone(a.state), name(a.state), grouped(a.failing), grouped(a.passing), w.text().added,
        w.text().until.empty() ? "&ndash;" : w.text().until);
  }
  out += "</tbody></table></div>\n";
}

std::string key_of(const Record& r) {
  if (!r.waived || r.waived->issues.empty()) return {};
  return fmt::format("{}", fmt::join(r.waived->issues, "\n"));
}

void write_row(std::string& out, const Record& r) {
  const Judgement& j = r.result;
  const Verdict was = r.waived ? r.waived->verdict : j.verdict;
  std::string what = html(!j.cause.empty() ? j.cause : r.waived ? r.waived->reason : j.reason);
  if (const Element* wrong = wrong_element(j))
    what += fmt::format("; {}{} {}", html(wrong->output), coordinates_text(wrong->index),
                        html(wrong->note.empty() ? ratio_text(wrong->ratio) : wrong->note));
  put(out, "<tr><td>{}<td><b>{}</b> {}<td>{}<td><code>{}</code>\n", badge(was), html(r.operator_name),
      html(r.implementation), what, html(repro_command(r)));
}

// The failures under the same issues.
void write_issue(std::string& out, const std::vector<const Record*>& records) {
  const Record& first = *records.front();
  std::string links;
  // The reason begins with the issue.
  std::string_view why = first.result.reason;
  if (first.waived && first.waived->issues.size() == 1 && why.starts_with(first.waived->issues[0] + ": "))
    why.remove_prefix(first.waived->issues[0].size() + 2);
  if (first.waived)
    for (const std::string& issue : first.waived->issues)
      links += fmt::format("{}{}", links.empty() ? "" : ", ", issue_link(issue));
  put(out, "<h3>{} <span>{}</span><span class=n>{}</span></h3>\n",
      links.empty() ? "no issue in the record" : links, html(why),
      count(std::ssize(records), "waived failure"));
  out += "<div class=scroll><table class=list><tbody>\n";
  for (std::size_t i = 0; i < std::min(records.size(), kShownPerIssue); ++i) write_row(out, *records[i]);
  if (records.size() > kShownPerIssue)
    put(out, "<tr><td><td><td>and {} more<td>\n",
        grouped(std::ssize(records) - static_cast<std::int64_t>(kShownPerIssue)));
  out += "</tbody></table></div>\n";
}

}  // namespace

bool has_waived(const Page& page) {
  return page.tally[Verdict::kWaived] > 0 || !page.options.waivers.empty();
}

void write_waived(std::string& out, const Page& page) {
  if (!has_waived(page)) return;
  open_section(out, "waived", "Waived",
               fmt::format("Known failures, each with the issue that will end it: {}. They fail no run and "
                           "are evidence of nothing.",
                           count(page.tally[Verdict::kWaived], "check")));
  write_waivers(out, page.options.waivers);
  std::map<std::string, std::size_t> place;
  std::vector<std::vector<const Record*>> by_issue;
  for (const Record& r : page.records) {
    if (r.result.verdict != Verdict::kWaived) continue;
    const auto [at, is_new] = place.try_emplace(key_of(r), by_issue.size());
    if (is_new) by_issue.emplace_back();
    by_issue[at->second].push_back(&r);
  }
  for (const auto& records : by_issue) write_issue(out, records);
  out += "</section>\n";
}

}  // namespace moecheck::harness::report
