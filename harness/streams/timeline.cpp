// Lanes over time, as text and as SVG.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "harness/report/page.h"
#include "harness/streams/text.h"
#include "harness/text.h"
#include "reference/index.h"

namespace moecheck::harness::streams {
namespace {

using namespace reference;
using report::html;

struct Box {
  int node, lane;
  double begin, end;
};

struct Chart {
  std::vector<Box> boxes;  // by begin
  double end = 0;
};

Chart chart_of(const StreamProgram& p, const CheckedStreams& c) {
  const std::vector<double> start = earliest(p, c.order);
  Chart chart;
  for (const int n : c.order.operations()) {
    const StreamStep& s = p.steps[index(c.order.node(n).step)];
    chart.boxes.push_back({n, s.stream, start[index(n)], start[index(n)] + s.duration});
    chart.end = std::max(chart.end, chart.boxes.back().end);
  }
  std::stable_sort(chart.boxes.begin(), chart.boxes.end(),
                   [](const Box& a, const Box& b) { return a.begin < b.begin; });
  return chart;
}

// Spans of time in which more than one lane is busy.
std::vector<std::pair<double, double>> shared_spans(const Chart& chart) {
  std::vector<std::pair<double, int>> changes;
  for (const Box& b : chart.boxes) {
    if (b.begin == b.end) continue;
    changes.emplace_back(b.begin, 1);
    changes.emplace_back(b.end, -1);
  }
  std::sort(changes.begin(), changes.end());
  std::vector<std::pair<double, double>> spans;
  int busy = 0;
  for (const auto& [at, change] : changes) {
    const int before = busy;
    busy += change;
    if (before < 2 && busy >= 2) spans.emplace_back(at, at);
    if (before >= 2 && busy < 2) spans.back().second = at;
  }
  return spans;
}

// The operations that a wait ties together: the last one ahead of it on the way, and the first one behind it.
struct Tie {
  int from, to, wait;
};
std::vector<Tie> ties(const StreamOrder& order) {
  const std::size_t n = order.nodes().size();
  std::vector<std::vector<Tie>> open(n);  // of each node that is no operation: what leads to it
  std::vector<Tie> list;
  for (std::size_t i = 0; i < n; ++i) {
    const OrderNode& node = order.nodes()[i];
    std::vector<Tie> in;
    for (const OrderEdge& e : node.before) {
      if (order.node(e.from).operation()) {
        in.push_back({e.from, -1, e.by >= 0 ? e.by : -1});
        continue;
      }
      for (Tie t : open[index(e.from)]) {
        if (e.by >= 0) t.wait = e.by;
        in.push_back(t);
      }
    }
    if (!node.operation()) {
      if (in.size() > 64) in.resize(64);
      open[i] = std::move(in);
      continue;
    }
    for (Tie t : in)
      if (t.wait >= 0) list.push_back({t.from, static_cast<int>(i), t.wait});
  }
  return list;
}

}  // namespace

std::vector<double> earliest(const StreamProgram& p, const StreamOrder& order) {
  std::vector<double> start(order.nodes().size(), 0);
  for (std::size_t i = 0; i < start.size(); ++i)
    for (const OrderEdge& e : order.nodes()[i].before) {
      const OrderNode& f = order.node(e.from);
      start[i] =
          std::max(start[i], start[index(e.from)] + (f.operation() ? p.steps[index(f.step)].duration : 0));
    }
  return start;
}

std::string timeline_text(const StreamProgram& p, const CheckedStreams& c) {
  const Chart chart = chart_of(p, c);
  const NodeNames names(p, c.order);
  std::size_t label = 6;
  for (const ProgramStream& s : p.streams) label = std::max(label, printable(s.name).size());
  // A unit of time is as wide as the longest name over its duration needs, within a line.
  double unit = 1;
  for (const Box& b : chart.boxes)
    if (b.end > b.begin)
      unit = std::max(unit, (static_cast<double>(names.of(b.node).size()) + 1) / (b.end - b.begin));
  if (chart.end > 0) unit = std::min(unit, 150 / chart.end);
  std::string out;
  const auto column = [&](double t) { return static_cast<std::size_t>(std::llround(t * unit)); };
  for (std::size_t s = 0; s < p.streams.size(); ++s) {
    std::string line(column(chart.end) + 1, ' ');
    for (const Box& b : chart.boxes) {
      if (index(b.lane) != s) continue;
      const std::size_t from = column(b.begin), to = column(b.end);
      std::string name = names.of(b.node);
      for (std::size_t i = from; i < to; ++i)
        line[i] = i == from ? '|' : i - from - 1 < name.size() ? name[i - from - 1] : '.';
    }
    out += fmt::format("{:<{}} {}\n", printable(p.streams[s].name), label,
                       line.substr(0, line.find_last_not_of(' ') + 1));
  }
  std::string line(column(chart.end) + 1, ' ');
  for (const auto& [begin, end] : shared_spans(chart))
    for (std::size_t i = column(begin); i < column(end); ++i) line[i] = '=';
  out += fmt::format("{:<{}} {}\n", "shared", label, line.substr(0, line.find_last_not_of(' ') + 1));
  return out;
}

std::string timeline_svg(const StreamProgram& p, const CheckedStreams& c) {
  const Chart chart = chart_of(p, c);
  const NodeNames names(p, c.order);
  constexpr double kLeft = 90, kTop = 40, kLane = 56, kBox = 32;
  double unit = 46;
  for (const Box& b : chart.boxes)
    if (b.end > b.begin)
      unit = std::max(unit, (7.2 * static_cast<double>(names.of(b.node).size()) + 12) / (b.end - b.begin));
  unit = std::min(unit, std::max(2.0, 6000 / std::max(chart.end, 1.0)));
  const auto x = [&](double t) { return kLeft + t * unit; };
  const auto y = [&](int lane) { return kTop + kLane * lane; };
  const double width = x(chart.end) + 20, height = kTop + kLane * static_cast<double>(p.streams.size()) + 34;
  std::vector<bool> critical(c.order.nodes().size()), racy(c.order.nodes().size());
  for (const int n : c.report.critical_path) critical[index(n)] = true;
  for (const Race& r : c.report.races) racy[index(r.first)] = racy[index(r.second)] = true;
  std::vector<double> middle(c.order.nodes().size());
  for (const Box& b : chart.boxes) middle[index(b.node)] = b.begin;
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" "
      "height=\"{1:.0f}\" "
      "font-family=\"ui-monospace, monospace\" font-size=\"12\">\n<title>{2}</title>\n"
      "<style>rect.o{{fill:#dbe7f5;stroke:#33567f}}rect.c{{fill:#f6e3b4;stroke:#8a6a14}}rect.r{{fill:#f5c9c4;"
      "stroke:#a02c20}}"
      "rect.s{{fill:#e6f3e6}}path{{fill:none;stroke:#666}}line{{stroke:#ddd}}text{{fill:#222}}</style>\n"
      "<defs><marker id=\"a\" markerWidth=\"8\" markerHeight=\"8\" refX=\"7\" refY=\"4\" "
      "orient=\"auto\"><path "
      "d=\"M0,0L8,4L0,8\"/></marker></defs>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
      width, height, html(p.name.empty() ? "stream program" : p.name));
  for (const auto& [begin, end] : shared_spans(chart))
    out += fmt::format("<rect class=\"s\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"/>\n",
                       x(begin), kTop - 16, (end - begin) * unit, height - kTop - 12);
  for (std::size_t s = 0; s < p.streams.size(); ++s)
    out += fmt::format(
        "<line x1=\"{0:.0f}\" x2=\"{1:.1f}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/><text x=\"8\" "
        "y=\"{3:.1f}\">{4}</text>\n",
        kLeft, width - 10, y(static_cast<int>(s)) + kBox / 2, y(static_cast<int>(s)) + kBox / 2 + 4,
        html(p.streams[s].name));
  for (const Box& b : chart.boxes) {
    const char* const kind = racy[index(b.node)] ? "r" : critical[index(b.node)] ? "c" : "o";
    out += fmt::format(
        "<rect class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.0f}\" rx=\"3\"/><text "
        "x=\"{:.1f}\" "
        "y=\"{:.1f}\">{}</text>\n",
        kind, x(b.begin), y(b.lane), std::max(2.0, (b.end - b.begin) * unit - 2), kBox, x(b.begin) + 5,
        y(b.lane) + 20, html(names.of(b.node)));
  }
  for (const Tie& t : ties(c.order)) {
    const StreamStep &f = p.steps[index(c.order.node(t.from).step)],
                     &g = p.steps[index(c.order.node(t.to).step)];
    if (f.stream == g.stream) continue;
    const double x1 = x(middle[index(t.from)] + f.duration) - 4, x2 = x(middle[index(t.to)]) + 2;
    const double y1 = y(f.stream) + (f.stream < g.stream ? kBox : 0),
                 y2 = y(g.stream) + (f.stream < g.stream ? 0 : kBox);
    out += fmt::format(
        "<path marker-end=\"url(#a)\" d=\"M{:.1f},{:.1f}L{:.1f},{:.1f}\"><title>{}</title></path>\n", x1, y1,
        x2, y2, html(names.step(t.wait)));
  }
  out += fmt::format(
      "<text x=\"8\" y=\"{:.0f}\">green: lanes busy at the same time. amber: longest path, {:g} of {:g} in a "
      "row. "
      "red: in a race ({}).</text>\n</svg>\n",
      height - 8, c.report.critical, c.report.serial, c.report.race_count);
  return out;
}

}  // namespace moecheck::harness::streams
