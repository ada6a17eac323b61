// Every check, folded away: what a cell of the matrix leads to.
#include <algorithm>
#include <cmath>
#include <utility>

#include "harness/report/page.h"
#include "harness/text.h"

namespace moecheck::harness::report {
namespace {
constexpr std::size_t kShownPerCell = 40;

void write_check(std::string& out, const Page& page, const Record& r) {
  const Judgement& j = r.result;
  const auto number = page.failure_number.find(&r);
  put(out, "<tr><td>{}<td>{}<td>{}<td>", badge(j.verdict),
      j.elements == 0 ? "&ndash;" : ratio_text(j.headroom), j.elements == 0 ? "" : grouped(j.elements));
  if (number != page.failure_number.end())
    put(out, "<a href=#f{}><code>{}</code></a>\n", number->second, html(r.case_line));
  else
    put(out, "<code>{}</code>\n", html(r.case_line));
}

std::string other_than_pass(const Tally& tally) {
  std::string out;
  for (const Verdict v : kReadingOrder)
    if (v != Verdict::kPass && tally[v] > 0)
      out += fmt::format("{} <span>{}</span>", badge(v), grouped(tally[v]));
  return out;
}

void write_configuration(std::string& out, const Page& page, const Group& g, const Cell& cell) {
  put(out, "<tbody id={}><tr><th colspan=4>{} <span>{}</span>\n", cell_id(page, g, cell), configuration(cell),
      count(cell.tally.total(), "check"));
  // The interesting ones first: failures, then what came nearest to its bound.
  std::vector<const Record*> order = cell.records;
  const auto urgency = [](const Record* r) {
    const double h = r->result.headroom;
    return std::pair(is_failure(r->result.verdict), std::isnan(h) ? INFINITY : h);
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](const Record* a, const Record* b) { return urgency(a) > urgency(b); });
  const std::size_t shown = std::min(order.size(), kShownPerCell);
  for (std::size_t i = 0; i < shown; ++i) write_check(out, page, *order[i]);
  if (shown < order.size())
    put(out, "<tr><td><td><td><td class=note>and {} further from their bounds\n",
        grouped(std::ssize(order) - static_cast<std::int64_t>(shown)));
  out += "</tbody>";
}

}  // namespace

void write_checks(std::string& out, const Page& page) {
  open_section(out, "checks", "Every check",
               fmt::format("By operator, implementation and configuration; failures first, then by how near "
                           "they came to the bound, at most {} each.",
                           kShownPerCell));
  out += "<div class=stack>\n";
  for (const std::string& op : page.operators)
    for (const Group& g : page.groups) {
      if (g.operator_name != op) continue;
      put(out,
          "<details class=more><summary><b>{}</b> {} <span class=n>{}</span>{}</summary><div "
          "class=scroll><table class=\"list checks\">"
          "<thead><tr><th><th>error / bound<th>elements<th>case</thead>\n",
          html(g.operator_name), html(g.implementation), count(g.tally.total(), "check"),
          other_than_pass(g.tally));
      for (const Cell& cell : g.cells) write_configuration(out, page, g, cell);
      out += "</table></div></details>\n";
    }
  out += "</div>\n</section>\n";
}

}  // namespace moecheck::harness::report
