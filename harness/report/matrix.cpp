// Operator x implementation x configuration: one grid per operator, models down, policies of each
// implementation across.
#include <algorithm>

#include "harness/report/page.h"
#include "harness/text.h"

namespace moecheck::harness::report {
namespace {

struct Axes {
  std::vector<const Group*> groups;  // of one operator
  std::vector<std::string> models, policies;
};

Axes axes_of(const Page& page, const std::string& operator_name) {
  Axes axes;
  for (const Group& g : page.groups) {
    if (g.operator_name != operator_name) continue;
    axes.groups.push_back(&g);
    for (const Cell& c : g.cells) {
      add_new(axes.models, c.model);
      add_new(axes.policies, c.policy);
    }
  }
  // Cases without a model come last: they are the fuzzed and shrunk ones.
  std::stable_partition(axes.models.begin(), axes.models.end(),
                        [](const std::string& m) { return !m.empty(); });
  return axes;
}

std::string counts_text(const Tally& tally) {
  std::string out;
  for (const Verdict v : kReadingOrder)
    if (tally[v] > 0) out += fmt::format("{}{} {}", out.empty() ? "" : ", ", grouped(tally[v]), name(v));
  return out;
}

// The number alone where all passed; otherwise the letter and count of the worst verdict.
void write_cell(std::string& out, const Page& page, const Group& g, const Cell& cell) {
  const Verdict worst = cell.tally.worst();
  put(out, "<a class={} href=#{} title=\"{}\">", look(worst).css, cell_id(page, g, cell),
      counts_text(cell.tally));
  if (worst == Verdict::kPass)
    put(out, "{}</a>", cell.tally[worst]);
  else
    put(out, "<b>{}</b>{}</a>", look(worst).letter, cell.tally[worst]);
}

void write_head(std::string& out, const Axes& axes) {
  const bool named = axes.policies.size() > 1 || !axes.policies.front().empty();
  put(out, "<thead><tr><th{}></th>", named ? " rowspan=2" : "");
  for (const Group* g : axes.groups)
    put(out, "<th class=impl colspan={}{}>{}</th>", axes.policies.size(),
        is_planted(g->implementation) ? " title=\"planted fault: it should fail\"" : "",
        html(g->implementation));
  out += "</tr>";
  if (named) {
    out += "<tr class=policies>";
    for (std::size_t i = 0; i < axes.groups.size(); ++i)
      for (const std::string& p : axes.policies)
        put(out, "<th{}><span>{}</span></th>", &p == &axes.policies.front() ? " class=first" : "",
            p.empty() ? "&ndash;" : html(p));
    out += "</tr>";
  }
  out += "</thead>\n";
}

void write_row(std::string& out, const Page& page, const Axes& axes, const std::string& model) {
  put(out, "<tr><th>{}</th>", model.empty() ? "<i>own sizes</i>" : html(model));
  for (const Group* g : axes.groups)
    for (const std::string& p : axes.policies) {
      put(out, "<td{}>", &p == &axes.policies.front() ? " class=first" : "");
      const auto cell = std::find_if(g->cells.begin(), g->cells.end(),
                                     [&](const Cell& c) { return c.model == model && c.policy == p; });
      if (cell != g->cells.end()) write_cell(out, page, *g, *cell);
      out += "</td>";
    }
  out += "</tr>\n";
}

}  // namespace

void write_matrix(std::string& out, const Page& page) {
  open_section(out, "matrix", "Matrix",
               "Checks per model and policy. A number alone: all passed. A letter: the worst verdict and how "
               "many have it. "
               "Select a cell to see its checks.");
  out += "<div class=grids>\n";
  for (const std::string& name : page.operators) {
    const Axes axes = axes_of(page, name);
    put(out, "<div class=panel><h3>{}</h3><div class=scroll><table class=grid>\n", html(name));
    write_head(out, axes);
    out += "<tbody>";
    for (const std::string& model : axes.models) write_row(out, page, axes, model);
    out += "</tbody></table></div></div>\n";
  }
  out += "</div>\n</section>\n";
}

}  // namespace moecheck::harness::report
