#include "harness/detection/published.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "harness/json.h"
#include "harness/record.h"
#include "harness/text.h"

namespace moecheck::harness::detection {
namespace {

// Powers of two as people read them: 1/512, 0.5, 4.
std::string magnitude_text(double m) {
  if (m >= 0.125) return fmt::format("{:g}", m);
  return m > 1e-5 ? fmt::format("1/{:g}", std::round(1 / m)) : fmt::format("{:.1g}", m);
}

// What tells a case's line from another, but for what has a column of its own.
std::string case_words(const CaseLimits& r) {
  std::string words;
  for (const std::string_view word : split_words(r.case_line)) {
    if (word == r.operator_name || word.starts_with("dtype=") || word.starts_with("data=") ||
        word == "seed=1")
      continue;
    words += fmt::format("{}{}", words.empty() ? "" : " ", printable(word));
  }
  return words;
}

nlohmann::ordered_json nullable(const std::optional<double>& v) {
  return v ? nlohmann::ordered_json(*v) : nlohmann::ordered_json();
}

nlohmann::ordered_json to_json(const FamilyLimits& f) {
  nlohmann::ordered_json limits = nlohmann::ordered_json::object();
  for (std::size_t k = 0; k < f.columns.size(); ++k)
    if (f.columns[k].asked)
      limits[columns()[k].name] = {{"smallest_caught", nullable(f.columns[k].limit.smallest)},
                                   {"largest_missed", nullable(f.columns[k].limit.missed)}};
  return {{"family", info(f.family).name}, {"largest_tried", f.largest}, {"limits", limits}};
}

nlohmann::ordered_json to_json(const CaseLimits& r) {
  nlohmann::ordered_json j = {
      {"case", r.case_line}, {"implementation", r.implementation}, {"operator", r.operator_name}};
  if (!r.lost.empty()) {
    j["lost"] = printable(r.lost);
    return j;
  }
  j.update({{"tier", r.tier}, {"dtype", r.dtype}, {"output", r.output}, {"shape", r.shape}, {"rms", r.rms}});
  for (std::size_t k = 0; k < r.false_alarms.size(); ++k)
    j["false_alarms"][columns()[k].name] = r.false_alarms[k];
  j["families"] = nlohmann::ordered_json::array();
  for (const FamilyLimits& f : r.families) j["families"].push_back(to_json(f));
  return j;
}

// "1/256 to 2" or "8 to never": over all cases in which the gate is asked and rejects no right output.
std::string range_text(std::span<const CaseLimits> results, Family family, std::size_t column) {
  double low = HUGE_VAL, high = 0;
  bool never = false;
  for (const CaseLimits& r : results)
    for (const FamilyLimits& f : r.families) {
      if (f.family != family || !f.columns[column].asked || r.false_alarms[column] > 0) continue;
      const std::optional<double>& smallest = f.columns[column].limit.smallest;
      never = never || !smallest;
      low = std::min(low, smallest.value_or(HUGE_VAL));
      high = std::max(high, smallest.value_or(0));
    }
  if (low > high) return never ? "never" : "-";
  if (!never && low == high) return magnitude_text(low);
  return fmt::format("{} to {}", magnitude_text(low), never ? "never" : magnitude_text(high));
}

}  // namespace

std::string limit_text(const ColumnLimit& limit, int false_alarms, int trials) {
  if (!limit.asked) return "-";
  std::string text = limit.limit.smallest ? magnitude_text(*limit.limit.smallest) : "never";
  // The grid ends before the gate does.
  if (limit.limit.smallest && !limit.limit.missed && *limit.limit.smallest < 1) text = "<= " + text;
  if (false_alarms == 0) return text;
  const std::string alarms = fmt::format("{} of {} false alarms", false_alarms, trials);
  return false_alarms == trials ? alarms : fmt::format("{} ({})", text, alarms);
}

std::string table_markdown(std::span<const CaseLimits> results, int trials) {
  std::string text = "| case | output | rms | dtype | tier | fault |", rule = "|---|---|---:|---|---|---|";
  for (const Column& c : columns()) {
    text += fmt::format(" {} |", c.name);
    rule += "---:|";
  }
  text += "\n" + rule + "\n";
  for (const CaseLimits& r : results) {
    const std::string words = fmt::format("{} `{}` ({})", r.operator_name, case_words(r), r.implementation);
    if (!r.lost.empty()) text += fmt::format("| {} | lost: {} |\n", words, printable(r.lost));
    const std::vector<Weakness> weak = weaker_than_others(std::span(&r, 1));
    for (const FamilyLimits& f : r.families) {
      text += fmt::format("| {} | {} {} | {:.2g} | {} | {} | {} |", words, r.output, r.shape, r.rms, r.dtype,
                          r.tier, info(f.family).name);
      for (std::size_t k = 0; k < f.columns.size(); ++k) {
        const bool beats_ours = std::any_of(
            weak.begin(), weak.end(), [&](const Weakness& w) { return w.family == &f && w.column == k; });
        const std::string cell = limit_text(f.columns[k], r.false_alarms[k], trials);
        text += beats_ours ? fmt::format(" **{}** |", cell) : fmt::format(" {} |", cell);
      }
      text += "\n";
    }
  }
  return text;
}

std::string summary_markdown(std::span<const CaseLimits> results, int trials) {
  std::string text = "| fault |", rule = "|---|", alarms = "| false alarms |";
  for (std::size_t k = 0; k < columns().size(); ++k) {
    text += fmt::format(" {} |", columns()[k].name);
    rule += "---:|";
    std::int64_t rejected = 0, outputs = 0;
    for (const CaseLimits& r : results) {
      const bool asked = !r.families.empty() && r.families.front().columns[k].asked;
      outputs += asked ? trials : 0;
      rejected += asked ? r.false_alarms[k] : 0;
    }
    alarms += outputs == 0 ? " - |" : fmt::format(" {} of {} |", grouped(rejected), grouped(outputs));
  }
  text += "\n" + rule + "\n";
  for (const FamilyInfo& f : families()) {
    std::string row = fmt::format("| {} |", f.name);
    bool any = false;
    for (std::size_t k = 0; k < columns().size(); ++k) {
      const std::string cell = range_text(results, f.family, k);
      any = any || cell != "-";
      row += fmt::format(" {} |", cell);
    }
    if (any) text += row + "\n";
  }
  return text + alarms + "\n";
}

std::string limits_json(std::span<const CaseLimits> results, int trials) {
  nlohmann::ordered_json all = {{"schema", "moecheck.detection/1"},
                                {"commit", environment().commit},
                                {"compiler", environment().compiler},
                                {"cpu", environment().cpu},
                                {"device", environment().device},
                                {"trials", trials},
                                {"power", kPower},
                                {"confidence", kConfidence},
                                {"allowed_misses", allowed_misses(trials)}};
  for (const Column& c : columns())
    all["gates"].push_back({{"name", c.name}, {"passes_when", c.formula}, {"source", c.source}});
  for (const FamilyInfo& f : families()) all["families"].push_back({{"name", f.name}, {"fault", f.doc}});
  all["results"] = nlohmann::ordered_json::array();
  for (const CaseLimits& r : results) all["results"].push_back(to_json(r));
  return all.dump(1) + "\n";
}

}  // namespace moecheck::harness::detection
