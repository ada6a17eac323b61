#include "harness/report/page.h"

#include <algorithm>

#include "harness/text.h"

namespace moecheck::harness::report {
namespace {
constexpr Look kLooks[kVerdicts] = {
    {"P", "p", "right: every element within its bound, every clause kept"},
    {"F", "f", "an element is beyond its proven bound, or a clause of the contract is broken"},
    {"S", "s", "within the proven bound but beyond 6 sigma: no honest implementation is expected there"},
    {"U", "u", "right up to what near-ties of the inputs or the contract leave open; no failure"},
    {"M", "m",
     "it matched, but the check could not have failed: data all zero, or bounds as large as the data"},
    {"O", "o", "two references disagree: a bug of moecheck, not of the implementation"},
    {"\u2013", "k", "not run, with a reason"},
    {"C", "c", "the process that ran it died"},
    {"T", "t", "it did not finish in time"},
    {"W", "w", "a known failure with its issue; no failure"},
};

std::vector<Failure> failures_of(const Group& group) {
  std::vector<Failure> first, others;
  std::map<std::string, std::size_t> kinds;
  for (const Record* r : group.records) {
    const Judgement& j = r->result;
    if (!is_failure(j.verdict)) continue;
    const Element* wrong = wrong_element(j);
    const std::string kind =
        fmt::format("{}\n{}\n{}", name(j.verdict), j.cause, wrong != nullptr ? wrong->output : j.reason);
    const auto [at, is_new] = kinds.try_emplace(kind, first.size());
    (is_new ? first : others).push_back({r, 0});
    ++first[at->second].alike;
  }
  first.insert(first.end(), others.begin(), others.end());
  return first;
}

}  // namespace

std::string html(std::string_view text) { return markup_escaped(printable(text)); }

const Look& look(Verdict v) { return kLooks[static_cast<std::size_t>(v)]; }

std::string badge(Verdict v) {
  return fmt::format("<b class=\"v {}\" title={}>{}</b>", look(v).css, name(v), look(v).letter);
}

void open_section(std::string& out, std::string_view id, std::string_view title, std::string_view how) {
  put(out, "<section id={}>\n<h2>{}</h2>\n<p class=how>{}</p>\n", id, title, how);
}

Page::Page(std::span<const Record> all, const HtmlOptions& with)
    : records(all), options(with), groups(group_records(all)) {
  for (const Group& g : groups) {
    add_new(operators, g.operator_name);
    add_new(implementations, g.implementation);
    for (std::size_t v = 0; v < kVerdicts; ++v) tally.counts[v] += g.tally.counts[v];
    for (const Failure& f : failures_of(g)) {
      failures.push_back(f);
      failure_number[f.record] = failures.size();
    }
  }
}

std::string cell_id(const Page& page, const Group& group, const Cell& cell) {
  return fmt::format("c{}_{}", &group - page.groups.data(), &cell - group.cells.data());
}

std::string configuration(const Cell& cell) {
  const std::string model = cell.model.empty() ? "<i>own sizes</i>" : html(cell.model);
  return cell.policy.empty() ? model : fmt::format("{}, {}", model, html(cell.policy));
}

bool is_planted(std::string_view implementation) {
  return implementation.find('!') != std::string_view::npos;
}

}  // namespace moecheck::harness::report

namespace moecheck::harness {

std::string html_report(std::span<const Record> records, const HtmlOptions& options) {
  const report::Page page(records, options);
  std::string out;
  report::write_header(out, page);
  if (!records.empty()) {
    report::write_matrix(out, page);
    report::write_failures(out, page);
    report::write_waived(out, page);
    report::write_evidence(out, page);
    report::write_headroom(out, page);
    report::write_clauses(out, page);
    report::write_kernels(out, page);
    report::write_open(out, page);
    report::write_checks(out, page);
  }
  report::write_footer(out, page);
  return out;
}

}  // namespace moecheck::harness
