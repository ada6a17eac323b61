// How much was checked, and how close to the bounds the passing results are.
#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "harness/report/page.h"
#include "harness/text.h"

namespace moecheck::harness::report {
namespace {

// --- the table

// `rows` is how many implementations the operator has, on the first of them; 0 on the others.
void write_evidence_row(std::string& out, const Group& g, std::size_t rows) {
  out += "<tr>";
  if (rows > 0) put(out, "<th rowspan={}>{}</th>", rows, html(g.operator_name));
  put(out, "<td class=name>{}</td><td>{}</td><td>{}</td><td{}>{}</td>", html(g.implementation),
      grouped(g.tally.total()), grouped(g.cases), g.tally[Verdict::kPass] == 0 ? " class=zero" : "",
      grouped(g.tally[Verdict::kPass]));
  const auto counted = [&](Verdict shown, std::int64_t n) {
    if (n == 0)
      out += "<td class=zero>0</td>";
    else
      put(out, "<td><span class=\"tone {}\">{}</span></td>", look(shown).css, grouped(n));
  };
  counted(Verdict::kFail, g.tally.failures());
  counted(Verdict::kUndecided, g.tally[Verdict::kUndecided]);
  counted(Verdict::kSkip, g.tally[Verdict::kSkip] + g.tally[Verdict::kWaived]);
  put(out, "<td>{}</td><td>{}</td>", grouped(g.elements),
      g.elements == 0 ? "&ndash;" : ratio_text(g.headroom));
  if (g.failed_cases > 0 || g.cases == 0)
    out += "<td class=zero>&ndash;</td>";
  else
    put(out, "<td title=\"{}\">{:.2g}%</td>", evidence_text({g.cases, 0}),
        g.cases < 30 ? 100 * (1 - std::pow(0.05, 1 / static_cast<double>(g.cases)))
                     : 300 / static_cast<double>(g.cases));
  out += "</tr>\n";
}

// --- the histograms

// Bin 0: exact. Then thirds of decades from 1e-5 to the bound (smaller ones in the first), then decades
// beyond it, the last open.
constexpr int kPerDecade = 3, kDecades = 5, kInside = kPerDecade * kDecades, kBeyond = 3;
using Bins = std::array<std::int64_t, 1 + kInside + kBeyond>;

int bin_of(double ratio) {
  if (ratio == 0) return 0;
  if (!(ratio <= 1)) return 1 + kInside + (ratio > 100 || !std::isfinite(ratio) ? 2 : ratio > 10 ? 1 : 0);
  return 1 + std::clamp(static_cast<int>(std::floor((std::log10(ratio) + kDecades) * kPerDecade)), 0,
                        kInside - 1);
}

constexpr double kBar = 12, kGap = 8, kLeft = 10, kBase = 84, kTall = 66;
double bar_x(int bin) { return kLeft + bin * kBar + (bin > 0 ? kGap : 0) + (bin > kInside ? kGap : 0); }

void write_axis(std::string& out) {
  const auto tick = [&](double x, std::string_view label) {
    put(out, "<text x={:.0f} y=98>{}</text>", x, label);
  };
  tick(bar_x(0) + kBar / 2, "exact");
  for (int d = 0; d < kDecades; ++d) {
    constexpr std::string_view kLabels[kDecades] = {"", ".0001", ".001", "1%", "10%"};
    tick(bar_x(1 + d * kPerDecade), kLabels[d]);
  }
  const double bound = bar_x(1 + kInside) - kGap / 2;
  put(out, "<line class=bound x1={0:.0f} x2={0:.0f} y1=8 y2=88 />", bound);
  tick(bound, "bound");
  tick(bar_x(kInside + kBeyond) + kBar / 2, "&gt;100x");
}

void write_histogram(std::string& out, const Group& g, std::vector<double> ratios) {
  Bins bins{};
  for (const double r : ratios) ++bins[static_cast<std::size_t>(bin_of(r))];
  const std::int64_t most = *std::max_element(bins.begin(), bins.end());
  std::nth_element(ratios.begin(), ratios.begin() + std::ssize(ratios) / 2, ratios.end());
  const double median = ratios[ratios.size() / 2];
  put(out, "<figure><figcaption><b>{}</b> {}</figcaption>\n", html(g.operator_name), html(g.implementation));
  put(out,
      "<svg viewBox=\"0 0 268 104\" role=img aria-label=\"Checks by error over bound; median {}, largest "
      "{}\">\n",
      ratio_text(median), ratio_text(g.headroom));
  put(out, "<line class=base x1={:.0f} x2=258 y1={:.0f} y2={:.0f} />", kLeft, kBase, kBase);
  for (int b = 0; b < static_cast<int>(bins.size()); ++b) {
    const std::int64_t n = bins[static_cast<std::size_t>(b)];
    if (n == 0) continue;
    const double h = std::max(2.0, kTall * static_cast<double>(n) / static_cast<double>(most));
    put(out, "<rect class={} x={:.0f} y={:.1f} width={:.0f} height={:.1f} rx=1><title>{}</title></rect>",
        b > kInside ? "over"
        : b == 0    ? "exact"
                    : "in",
        bar_x(b) + 1, kBase - h, kBar - 2, h, count(n, "check"));
  }
  write_axis(out);
  put(out, "</svg>\n<p><span>{}</span><span>median {}</span><span{}>largest {}</span></p></figure>\n",
      count(std::ssize(ratios), "check"), ratio_text(median), g.headroom > 1 ? " class=bad" : "",
      ratio_text(g.headroom));
}

}  // namespace

void write_evidence(std::string& out, const Page& page) {
  open_section(out, "evidence", "Evidence",
               "Cases are different case lines that ran. No failure in N of them bounds the failure rate by "
               "3/N at 95%: the last column.");
  out +=
      "<div class=\"panel scroll\"><table class=figures><thead><tr><th>operator</th><th "
      "class=name>implementation</th><th>checks</th>"
      "<th>cases</th><th>pass</th><th>failures</th><th>undecided</th><th>not "
      "run</th><th>elements</th><th>error / bound</th>"
      "<th>rate &le;</th></tr></thead><tbody>\n";
  for (const std::string& op : page.operators) {
    std::size_t rows = static_cast<std::size_t>(std::count_if(
        page.groups.begin(), page.groups.end(), [&](const Group& g) { return g.operator_name == op; }));
    for (const Group& g : page.groups)
      if (g.operator_name == op) write_evidence_row(out, g, std::exchange(rows, 0));
  }
  out += "</tbody></table></div>\n<ul class=statements>";
  for (const std::string& implementation : page.implementations) {
    std::vector<const Record*> records;
    for (const Record& r : page.records)
      if (r.implementation == implementation) records.push_back(&r);
    put(out, "<li><b>{}</b> {}</li>", html(implementation), evidence_text(evidence(records)));
  }
  out += "</ul>\n</section>\n";
}

void write_headroom(std::string& out, const Page& page) {
  open_section(
      out, "headroom", "Headroom",
      "Each check counts once, at its largest error over the bound of that element, on a logarithmic scale. "
      "Drift towards the bound shows here before anything fails.");
  std::string exact;
  out += "<div class=plots>\n";
  for (const std::string& op : page.operators)
    for (const Group& g : page.groups) {
      if (g.operator_name != op) continue;
      std::vector<double> ratios;
      for (const Record* r : g.records)
        if (r->result.elements > 0)
          ratios.push_back(std::isnan(r->result.headroom) ? INFINITY : r->result.headroom);
      if (ratios.empty()) continue;
      if (g.headroom == 0)  // nothing to draw
        exact += fmt::format("{}<b>{}</b> {} ({})", exact.empty() ? "" : ", ", html(g.operator_name),
                             html(g.implementation), count(std::ssize(ratios), "check"));
      else
        write_histogram(out, g, std::move(ratios));
    }
  out += "</div>\n";
  if (!exact.empty()) put(out, "<p class=statements>Exact everywhere: {}.</p>\n", exact);
  out += "</section>\n";
}

}  // namespace moecheck::harness::report
