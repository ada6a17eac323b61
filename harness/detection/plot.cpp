// The plot of published.h.
//
// One panel per family of faults. Each gate has a line; a disc on it stands for the cases whose limit is that magnitude, its area
// for their number. Discs above the line are of realistic data, below it of the exact tier. What is never caught is at the right.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "harness/detection/published.h"

namespace moecheck::harness::detection {
namespace {

constexpr double kPanel = 610, kLabels = 114, kRow = 40, kHead = 46, kFoot = 40, kGap = 18, kTop = 118;
constexpr double kNever = 70;  // width of the strip at the right

// Dark to light, so that they differ without colour too; moecheck's own is the darkest but for the floor's grey.
constexpr std::array<std::string_view, 8> kColours = {"#8a8f98", "#12355b", "#b3541e", "#4f7cac",
                                                      "#7a9e3f", "#c98bb9", "#d9a441", "#5fb3b3"};
static_assert(std::size(kColours) == kFirstForeign + 6);

struct Panel {
  const FamilyInfo& family;
  double left, top, low, high;  // exponents of two
  double axis_left() const { return left + kLabels; }
  double axis_right() const { return left + kPanel - kNever - 12; }
  double x(double m) const {
    return axis_left() + (std::log2(m) - low) / std::max(1.0, high - low) * (axis_right() - axis_left());
  }
  double never() const { return left + kPanel - kNever / 2 - 6; }
  double y(std::size_t column) const { return top + kHead + (static_cast<double>(column) + 0.5) * kRow; }
};

// Cases by gate, half and magnitude; a magnitude of 0 stands for never.
struct Place {
  std::size_t column;
  bool exact;
  double magnitude;
  auto operator<=>(const Place&) const = default;
};

std::map<Place, int> places(std::span<const CaseLimits> results, Family family) {
  std::map<Place, int> found;
  for (const CaseLimits& r : results)
    for (const FamilyLimits& f : r.families)
      for (std::size_t k = 0; f.family == family && k < f.columns.size(); ++k)
        if (f.columns[k].asked && r.false_alarms[k] == 0)
          ++found[{k, r.tier == "integers", f.columns[k].limit.smallest.value_or(0)}];
  return found;
}

void put_text(std::string& out, double x, double y, std::string_view css, std::string_view text) {
  out += fmt::format("<text class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", css, x, y, text);
}

void put_axis(std::string& out, const Panel& p) {
  const double bottom = p.top + kHead + kRow * static_cast<double>(columns().size());
  const int step = p.high - p.low > 20 ? 6 : p.high - p.low > 12 ? 3 : 2;
  for (int e = static_cast<int>(std::floor(p.low)); e <= p.high; ++e) {
    if (e % step != 0) continue;
    const double x = p.x(std::ldexp(1, e));
    out += fmt::format("<path class=\"grid\" d=\"M{0:.1f} {1:.1f}V{2:.1f}\"/>\n", x, p.top + kHead, bottom);
    const std::string label =
        e >= 0 ? fmt::format("{}", 1LL << e) : fmt::format("2<tspan dy=\"-4\" font-size=\"8\">{}</tspan>", e);
    put_text(out, x, bottom + 15, "tick", label);
  }
  put_text(out, (p.axis_left() + p.axis_right()) / 2, bottom + 30, "tick",
           p.family.counts ? "smallest number caught, of elements, pairs or columns" : "smallest m caught");
  out += fmt::format("<rect class=\"never\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.0f}\" height=\"{:.1f}\"/>\n",
                     p.never() - kNever / 2, p.top + kHead, kNever, bottom - p.top - kHead);
  put_text(out, p.never(), bottom + 15, "tick", "never");
}

void put_panel(std::string& out, const Panel& p, const std::map<Place, int>& found) {
  out += fmt::format(
      "<rect class=\"panel\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.0f}\" height=\"{:.1f}\" rx=\"6\"/>\n",
      p.left, p.top, kPanel, kHead + kFoot + kRow * static_cast<double>(columns().size()));
  put_text(out, p.left + 14, p.top + 20, "title", p.family.name);
  put_text(out, p.left + 14, p.top + 37, "note", p.family.doc);
  put_axis(out, p);
  for (std::size_t k = 0; k < columns().size(); ++k) {
    put_text(out, p.axis_left() - 12, p.y(k) + 4, k == kOwn ? "gate own" : "gate", columns()[k].name);
    out += fmt::format("<path class=\"line\" d=\"M{:.1f} {:.1f}H{:.1f}\"/>\n", p.axis_left(), p.y(k),
                       p.never() + kNever / 2);
  }
  for (const auto& [place, cases] : found) {
    const double x = place.magnitude > 0 ? p.x(place.magnitude) : p.never();
    const double y = p.y(place.column) + (place.exact ? 9 : -9), r = 2.2 + 1.25 * std::sqrt(cases);
    out += fmt::format(
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:.1f}\" fill=\"{}\" stroke=\"{}\"><title>{}: {} in {} {} "
        "({})</title></circle>\n",
        x, y, r, place.exact ? "#ffffff" : kColours[place.column], kColours[place.column],
        columns()[place.column].name, place.magnitude > 0 ? fmt::format("{:.3g}", place.magnitude) : "never",
        cases, cases == 1 ? "case" : "cases", place.exact ? "integers" : "realistic");
  }
}

constexpr std::string_view kStyle =
    "text{font:11px "
    "system-ui,sans-serif;fill:#333}.big{font-size:19px;font-weight:600;fill:#111}.title{font-size:14px;"
    "font-weight:600;fill:#111}.note{fill:#666}.tick{text-anchor:middle;fill:#666;font-size:10px}.gate{text-"
    "anchor:end}"
    ".own{font-weight:700;fill:#12355b}.panel{fill:#fff;stroke:#d8dbe0}.grid{stroke:#eceef1}.line{stroke:#"
    "d8dbe0}"
    ".never{fill:#f4e9e4}circle{stroke-width:1.6}";

}  // namespace

std::string plot_svg(std::span<const CaseLimits> results, int trials) {
  struct Shown {
    const FamilyInfo* family;
    std::map<Place, int> found;
    double low, high;
  };
  std::vector<Shown> shown;
  for (const FamilyInfo& f : families()) {
    Shown s{&f, places(results, f.family), 0, 1};
    if (s.found.empty()) continue;
    for (const CaseLimits& r : results)
      for (const FamilyLimits& l : r.families)
        if (l.family == f.family && l.largest > 0) s.high = std::max(s.high, std::log2(l.largest));
    for (const auto& [place, cases] : s.found)
      if (place.magnitude > 0) s.low = std::min(s.low, std::log2(place.magnitude));
    shown.push_back(std::move(s));
  }
  const double height = kHead + kFoot + kRow * static_cast<double>(columns().size());
  const double width = 2 * kPanel + 3 * kGap,
               all = kTop + std::ceil(static_cast<double>(shown.size()) / 2) * (height + kGap);
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" "
      "height=\"{1:.0f}\" role=\"img\" "
      "aria-label=\"Detection limits by kind of fault and gate\">\n<style>{2}</style>\n<rect width=\"100%\" "
      "height=\"100%\" "
      "fill=\"#f7f8fa\"/>\n",
      width, all, kStyle);
  put_text(out, kGap, 34, "big", "The smallest fault that each gate catches");
  put_text(out, kGap, 56, "note",
           fmt::format(
               "{} trials per case and magnitude; caught: at least 95% of such faults, with 95% confidence "
               "(Clopper-Pearson). Further left is better.",
               trials));
  put_text(out, kGap, 74, "note",
           "A disc: the cases whose limit is there, its area their number. Filled, above the line: realistic "
           "data; hollow, below: "
           "integers (the exact tier).");
  put_text(out, kGap, 92, "note",
           "bits: the floor, where every such fault changes the output at all. Gates with false alarms on a "
           "case's right outputs are left "
           "out of it; the table counts them.");
  for (std::size_t i = 0; i < shown.size(); ++i) {
    const Panel p{*shown[i].family, kGap + static_cast<double>(i % 2) * (kPanel + kGap),
                  kTop + static_cast<double>(i / 2) * (height + kGap), shown[i].low - 0.5, shown[i].high};
    put_panel(out, p, shown[i].found);
  }
  return out + "</svg>\n";
}

}  // namespace moecheck::harness::detection
