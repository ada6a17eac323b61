#pragma once
// Plots of two arms as inline SVG. Each appends one <figure>; colours come from the page's style (classes a and b).
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "harness/statistics/accuracy.h"

namespace moecheck::harness::report {

extern const std::string_view kPlotStyle;  // CSS, on top of kStyle

struct Whisker {
  std::string label, css;  // css: "a" or "b"
  double value = 0;
  Interval interval;
  std::string text;  // printed at the right
};
// Dots with their intervals on one percent axis.
void put_whiskers(std::string& out, std::string_view title, std::string_view note,
                  const std::vector<Whisker>& rows);

// The difference in points: 0, the margin, and where the interval lies between them.
void put_difference(std::string& out, std::string_view title, std::string_view note, double difference,
                    const Interval& interval, double margin);

struct Share {
  std::string label, css;
  long long count = 0;
};
// One bar of counts: the middle parts are what changed.
void put_shares(std::string& out, std::string_view title, std::string_view note,
                const std::vector<Share>& shares);

// Cumulative distributions of seconds, drawn in ms. An empty arm is left out; nothing is drawn of two.
void put_cdf(std::string& out, std::string_view title, std::string_view note, const std::vector<double>& a,
             const std::vector<double>& b);

using Points = std::vector<std::pair<double, double>>;  // x, y
// y against x > 0 on a log2 axis: a dot per run, a line through the means at each x.
void put_lines(std::string& out, std::string_view title, std::string_view note, std::string_view x_name,
               const Points& a, const Points& b);

}  // namespace moecheck::harness::report
