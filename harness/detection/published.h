#pragma once
// Detection limits as they are published: one table, one plot, and the numbers.
#include <span>
#include <string>

#include "harness/detection/limits.h"

namespace moecheck::harness::detection {

// "1/512", "3", "never", "<= 9e-10" where even the smallest tried is caught, or "-" where a gate is not asked; with false
// alarms, how many.
std::string limit_text(const ColumnLimit& limit, int false_alarms, int trials);

// Markdown: a row per case and family, a column per gate. What catches a smaller fault than moecheck's judge is bold.
std::string table_markdown(std::span<const CaseLimits> results, int trials);

// Markdown: a row per family, in each cell the smallest and the largest limit over all cases without false alarms; and how many
// right outputs each gate rejects.
std::string summary_markdown(std::span<const CaseLimits> results, int trials);

// An offline SVG: a panel per family, a line per gate, and on it how many cases have their limit at each magnitude.
std::string plot_svg(std::span<const CaseLimits> results, int trials);

// Schema moecheck.detection/1: reports/detection/README.md.
std::string limits_json(std::span<const CaseLimits> results, int trials);

}  // namespace moecheck::harness::detection
