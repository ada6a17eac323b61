#include "harness/report/pr_plots.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "harness/load/metrics.h"
#include "harness/report/page.h"
#include "harness/text.h"

namespace moecheck::harness::report {

const std::string_view kPlotStyle = R"css(
svg .axis{stroke:var(--rule);fill:none}svg .gridline{stroke:var(--line)}
svg .a{stroke:var(--k)}svg .b{stroke:var(--u)}
svg path.a,svg path.b{fill:none;stroke-width:1.6;stroke-linejoin:round}
svg circle.a{fill:var(--k);stroke:var(--panel)}svg circle.b{fill:var(--u);stroke:var(--panel)}
svg line.a,svg line.b{stroke-width:2}
svg rect.a{fill:var(--k);stroke:none}svg rect.b{fill:var(--u);stroke:none}
svg rect.same{fill:var(--line)}svg rect.worse{fill:var(--f)}svg rect.fixed{fill:var(--p)}svg rect.none{fill:var(--faint)}
svg rect.zone{fill:var(--fs)}svg .start{text-anchor:start}svg .end{text-anchor:end}svg .ink{fill:var(--ink)}
.key{display:inline-block;width:14px;height:4px;border-radius:2px;margin:0 5px 3px 0;vertical-align:middle}
.key.a{background:var(--k)}.key.b{background:var(--u)}.keys span{margin-right:18px}
.figures td.left{text-align:left;white-space:normal;min-width:180px}.figures small{display:block;color:var(--dim);font-size:12px;font-weight:400}
.figures .better{color:var(--p);font-weight:600}.figures .worse{color:var(--f);font-weight:600}
.cautions{margin:14px 0 0;padding-left:18px;color:var(--dim);max-width:90ch}.cmds p{margin:0 0 4px;color:var(--dim);font-size:12.5px}
.cmds .cmd{margin-bottom:12px}
)css";

namespace {

constexpr double kWidth = 320, kLeft = 42, kRight = 308, kTop = 10, kBottom = 150;

void open(std::string& out, std::string_view title, std::string_view note, double height,
          std::string_view says) {
  put(out,
      "<figure><figcaption><b>{}</b> {}</figcaption>\n<svg viewBox=\"0 0 {:.0f} {:.0f}\" role=img "
      "aria-label=\"{}\">\n",
      html(title), html(note), kWidth, height, html(says));
}
void close(std::string& out) { out += "</svg></figure>\n"; }

// 1, 2 or 5 times a power of ten, for about n steps.
double nice_step(double span, int n) {
  const double raw = span / n, power = std::pow(10, std::floor(std::log10(raw)));
  const double lead = raw / power;
  return power * (lead <= 1 ? 1 : lead <= 2 ? 2 : lead <= 5 ? 5 : 10);
}

std::string tick_text(double v, double step) {
  if (v >= 1000) return grouped(std::llround(v));
  const int digits = step >= 1 ? 0 : static_cast<int>(std::ceil(-std::log10(step) - 1e-9));
  return fmt::format("{:.{}f}", v, digits);
}

struct Axis {
  double low = 0, high = 1;    // of values
  double first = 0, last = 1;  // of the drawing
  double at(double v) const { return first + (v - low) / (high - low) * (last - first); }
};

template <class Draw>
void ticks(const Axis& axis, int n, Draw draw) {
  const double step = nice_step(axis.high - axis.low, n);
  for (double v = std::ceil(axis.low / step - 1e-9) * step; v <= axis.high + 1e-9 * step; v += step)
    draw(v, tick_text(std::abs(v) < 1e-12 ? 0 : v, step));
}

void bottom_axis(std::string& out, const Axis& x, double y, std::string_view unit) {
  put(out, "<line class=axis x1={:.0f} x2={:.0f} y1={:.1f} y2={:.1f} />", x.first, x.last, y, y);
  ticks(x, 5, [&](double v, const std::string& text) {
    put(out, "<text x={:.1f} y={:.1f}>{}</text>", x.at(v), y + 13, text);
  });
  put(out, "<text class=end x={:.0f} y={:.1f}>{}</text>\n", kRight, y + 25, html(unit));
}

}  // namespace

void put_whiskers(std::string& out, std::string_view title, std::string_view note,
                  const std::vector<Whisker>& rows) {
  if (rows.empty()) return;
  Axis x{1, 0, 92, kRight - 48};
  for (const Whisker& w : rows) {
    x.low = std::min(x.low, w.interval.low);
    x.high = std::max(x.high, w.interval.high);
  }
  const double pad = std::max(0.005, 0.08 * (x.high - x.low));
  x.low = 100 * std::max(0.0, x.low - pad);
  x.high = 100 * std::min(1.0, x.high + pad);
  const double base = 14 + 24 * static_cast<double>(rows.size());
  open(out, title, note, base + 30, title);
  ticks(x, 4, [&](double v, const std::string&) {
    put(out, "<line class=gridline x1={0:.1f} x2={0:.1f} y1=6 y2={1:.0f} />", x.at(v), base);
  });
  double y = 20;
  for (const Whisker& w : rows) {
    put(out, "<text class=end x=86 y={:.1f}>{}</text>", y + 3, html(w.label));
    put(out, "<line class={} x1={:.1f} x2={:.1f} y1={:.1f} y2={:.1f} />", w.css, x.at(100 * w.interval.low),
        x.at(100 * w.interval.high), y, y);
    put(out, "<circle class={} cx={:.1f} cy={:.1f} r=4><title>{}</title></circle>", w.css,
        x.at(100 * w.value), y, html(w.text));
    put(out, "<text class=\"end ink\" x={:.0f} y={:.1f}>{}</text>\n", kRight, y + 3, html(w.text));
    y += 24;
  }
  bottom_axis(out, x, base, "");
  close(out);
}

void put_difference(std::string& out, std::string_view title, std::string_view note, double difference,
                    const Interval& interval, double margin) {
  const double widest =
      std::max({1.6 * margin, 1.15 * std::abs(interval.low), 1.15 * std::abs(interval.high)});
  const Axis x{-100 * widest, 100 * widest, 16, kRight};
  open(out, title, note, 96,
       fmt::format("{:+.2f} points, 95% {:+.2f} to {:+.2f}, margin {:g}", 100 * difference,
                   100 * interval.low, 100 * interval.high, 100 * margin));
  put(out, "<rect class=zone x={:.1f} y=8 width={:.1f} height=52 />", x.first, x.at(-100 * margin) - x.first);
  put(out, "<line class=bound x1={0:.1f} x2={0:.1f} y1=4 y2=64 />", x.at(-100 * margin));
  put(out, "<line class=axis x1={0:.1f} x2={0:.1f} y1=8 y2=64 />", x.at(0));
  const double zone = x.at(-100 * margin);
  if (zone - x.first > 64) put(out, "<text class=end x={:.1f} y=19>beyond the margin</text>", zone - 4);
  put(out, "<line class=b x1={:.1f} x2={:.1f} y1=40 y2=40 /><circle class=b cx={:.1f} cy=40 r=4.5 />",
      x.at(100 * interval.low), x.at(100 * interval.high), x.at(100 * difference));
  bottom_axis(out, x, 64, "points");
  close(out);
}

void put_shares(std::string& out, std::string_view title, std::string_view note,
                const std::vector<Share>& shares) {
  long long all = 0;
  for (const Share& s : shares) all += s.count;
  if (all == 0) return;
  open(out, title, note, 96, title);
  // A part that is there is seen, however small; the largest pays for it.
  constexpr double kSpan = 292, kLeast = 4;
  std::vector<double> widths;
  for (const Share& s : shares)
    widths.push_back(
        s.count == 0 ? 0 : std::max(kLeast, kSpan * static_cast<double>(s.count) / static_cast<double>(all)));
  double sum = 0;
  for (const double w : widths) sum += w;
  *std::max_element(widths.begin(), widths.end()) -= sum - kSpan;
  double x = 16;
  for (std::size_t i = 0; i < shares.size(); ++i) {
    if (shares[i].count > 0)
      put(out, "<rect class={} x={:.1f} y=10 width={:.1f} height=24><title>{}</title></rect>", shares[i].css,
          x, std::max(1.0, widths[i] - 1),
          html(fmt::format("{}: {}", shares[i].label, grouped(shares[i].count))));
    x += widths[i];
  }
  for (std::size_t i = 0; i < shares.size(); ++i) {
    const double left = i % 2 == 0 ? 16 : 168, y = 54 + 18 * static_cast<double>(i / 2);
    put(out,
        "<rect class={} x={:.0f} y={:.0f} width=8 height=8 /><text class=start x={:.0f} y={:.0f}>{}</text>\n",
        shares[i].css, left, y - 7, left + 13, y,
        html(fmt::format("{} {}", grouped(shares[i].count), shares[i].label)));
  }
  close(out);
}

namespace {

// At most 120 points, the extremes among them.
void cdf_path(std::string& out, std::string_view css, std::vector<double> ms, const Axis& x, const Axis& y) {
  if (ms.empty()) return;
  std::sort(ms.begin(), ms.end());
  constexpr int kSteps = 120;
  put(out, "<path class={} d=\"M{:.1f} {:.1f}", css, x.at(std::max(x.low, std::min(ms.front(), x.high))),
      y.at(0));
  for (int i = 0; i <= kSteps; ++i) {
    const double p = 100.0 * i / kSteps, v = load::percentile(ms, p);
    if (v > x.high) {
      put(out, " H{:.1f}", x.last);
      break;
    }
    put(out, " L{:.1f} {:.1f}", x.at(v), y.at(p));
  }
  if (ms.back() <= x.high) put(out, " H{:.1f}", x.last);
  out += "\" />\n";
}

}  // namespace

void put_cdf(std::string& out, std::string_view title, std::string_view note, const std::vector<double>& a,
             const std::vector<double>& b) {
  std::vector<double> ams, bms, all;
  for (const double s : a) ams.push_back(1e3 * s);
  for (const double s : b) bms.push_back(1e3 * s);
  all = ams;
  all.insert(all.end(), bms.begin(), bms.end());
  if (all.size() < 2) return;
  std::sort(all.begin(), all.end());
  const double high = load::percentile(all, 99.5), low = all.front();
  const double from = low > 0.5 * high ? low - 0.1 * (high - low) : 0;
  const Axis x{from, high > from ? high : from + 1, kLeft, kRight}, y{0, 100, kBottom, kTop};
  open(out, title, note, kBottom + 30, fmt::format("Share of {} within a time in ms", title));
  ticks(y, 4, [&](double v, const std::string& text) {
    put(out, "<line class=gridline x1={:.0f} x2={:.0f} y1={:.1f} y2={:.1f} />", kLeft, kRight, y.at(v),
        y.at(v));
    put(out, "<text class=end x={:.0f} y={:.1f}>{}%</text>", kLeft - 5, y.at(v) + 3, text);
  });
  bottom_axis(out, x, kBottom, "ms");
  cdf_path(out, "a", std::move(ams), x, y);
  cdf_path(out, "b", std::move(bms), x, y);
  close(out);
}

void put_lines(std::string& out, std::string_view title, std::string_view note, std::string_view x_name,
               const Points& a, const Points& b) {
  double top = 0, least = INFINITY, most = 0;
  for (const Points* points : {&a, &b})
    for (const auto& [px, py] : *points) {
      top = std::max(top, py);
      least = std::min(least, px);
      most = std::max(most, px);
    }
  if (!(most > 0) || !(top > 0)) return;
  const double spread = most > least ? 0.06 * std::log2(most / least) : 1;
  const Axis x{std::log2(least) - spread, std::log2(most) + spread, kLeft, kRight},
      y{0, 1.06 * top, kBottom, kTop};
  open(out, title, note, kBottom + 30, fmt::format("{} against {}", title, x_name));
  ticks(y, 4, [&](double v, const std::string& text) {
    put(out, "<line class=gridline x1={:.0f} x2={:.0f} y1={:.1f} y2={:.1f} />", kLeft, kRight, y.at(v),
        y.at(v));
    put(out, "<text class=end x={:.0f} y={:.1f}>{}</text>", kLeft - 5, y.at(v) + 3, text);
  });
  std::map<double, std::pair<double, int>> means[2];
  for (int arm = 0; arm < 2; ++arm)
    for (const auto& [px, py] : arm == 0 ? a : b) {
      auto& m = means[arm][px];
      m.first += py;
      ++m.second;
    }
  put(out, "<line class=axis x1={:.0f} x2={:.0f} y1={:.0f} y2={:.0f} />", kLeft, kRight, kBottom, kBottom);
  std::map<double, int> places;
  for (const auto& m : means)
    for (const auto& [px, sum] : m) places[px] = 1;
  for (const auto& [px, unused] : places)
    put(out, "<text x={:.1f} y={:.0f}>{:g}</text>", x.at(std::log2(px)), kBottom + 13, px);
  put(out, "<text class=end x={:.0f} y={:.0f}>{}</text>\n", kRight, kBottom + 25, html(x_name));
  for (int arm = 0; arm < 2; ++arm) {
    const std::string_view css = arm == 0 ? "a" : "b";
    std::string path;
    for (const auto& [px, m] : means[arm])
      put(path, "{}{:.1f} {:.1f}", path.empty() ? "M" : " L", x.at(std::log2(px)), y.at(m.first / m.second));
    if (!path.empty()) put(out, "<path class={} d=\"{}\" />", css, path);
    for (const auto& [px, py] : arm == 0 ? a : b)
      put(out, "<circle class={} cx={:.1f} cy={:.1f} r=3><title>{:g}: {:.4g}</title></circle>", css,
          x.at(std::log2(px)), y.at(py), px, py);
    out += "\n";
  }
  close(out);
}

}  // namespace moecheck::harness::report
