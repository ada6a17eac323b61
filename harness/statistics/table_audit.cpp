#include "harness/statistics/table_audit.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "harness/statistics/accuracy.h"
#include "harness/statistics/printed.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

constexpr std::int64_t kGsm8k = 1319, kPlatinum = 1209;

struct Score {
  std::size_t line = 0;
  std::string what;
  Printed p, se;
  bool has_se = false;
};

// As fractions, with the decimals they then have.
Printed fraction(Printed p) {
  if (p.percent) p.value /= 100, p.digits += 2, p.percent = false;
  return p;
}

std::string known_set(std::int64_t n) {
  return n == kGsm8k ? " (all of GSM8K)" : n == kPlatinum ? " (all of GSM8K-Platinum)" : "";
}

std::string range_text(const Range& r) {
  const auto low = static_cast<std::int64_t>(std::ceil(r.low - 1e-9));
  if (std::isinf(r.high)) return fmt::format("{} or more", grouped(low));
  return fmt::format("{} to {}", grouped(low), grouped(static_cast<std::int64_t>(std::floor(r.high + 1e-9))));
}

bool inside(const Range& r, std::int64_t n) {
  return static_cast<double>(n) >= r.low - 1e-9 && static_cast<double>(n) <= r.high + 1e-9;
}

std::string score_text(const Score& s) {
  std::string text = s.what.empty() ? "" : s.what + " ";
  text += fmt::format("{:.{}f}", s.p.value, s.p.digits);
  if (s.has_se) text += fmt::format(" +- {:.{}f}", s.se.value, s.se.digits);
  return text;
}

// What (p, se) say of n, against what is claimed.
void check_stderr(const Score& s, const std::vector<std::int64_t>& claimed, std::vector<Finding>& out) {
  using enum Finding::Kind;
  if (s.se.value <= 0) {
    if (s.p.low() > 0 && s.p.high() < 1)
      out.push_back({kContradicts, s.line,
                     fmt::format("{}: a standard error of 0 needs a score of 0 or 1", score_text(s))});
    return;
  }
  const Range r = implied_n_range(s.p.value, s.p.digits, s.se.value, s.se.digits);
  const double n = *implied_n(s.p.value, s.se.value);
  if (r.high < 3) {
    out.push_back({kNote, s.line,
                   fmt::format("{}: this is the deviation of one answer, sqrt(p (1-p)), no standard error",
                               score_text(s))});
    return;
  }
  std::string says = fmt::format("{}: the standard error implies n = {:.0f} ({} once rounded)", score_text(s),
                                 n, range_text(r));
  std::string known;
  for (const std::int64_t full : {kGsm8k, kPlatinum})
    if (inside(r, full))
      if (const auto k = on_grid(s.p.value, s.p.digits, full))
        known += fmt::format("; it fits {} of {}{}", grouped(*k), grouped(full), known_set(full));
  if (claimed.empty()) {
    out.push_back({kNote, s.line, says + known});
    return;
  }
  for (const std::int64_t c : claimed)
    if (inside(r, c)) {
      out.push_back({kFits, s.line, fmt::format("{}, as the {} claimed", says, grouped(c))});
      return;
    }
  out.push_back(
      {kContradicts, s.line,
       fmt::format("{}, not the {} claimed, with which it would be {:.{}f}{}", says, grouped(claimed[0]),
                   std::sqrt(s.p.value * (1 - s.p.value) /
                             static_cast<double>(std::max<std::int64_t>(1, claimed[0] - 1))),
                   s.se.digits, known)});
}

// Whether p is k/n at all.
void check_grid(const Score& s, const std::vector<std::int64_t>& claimed, std::vector<Finding>& out) {
  using enum Finding::Kind;
  if (claimed.empty()) return;
  std::string misses;
  for (const std::int64_t n : claimed) {
    if (const auto k = on_grid(s.p.value, s.p.digits, n)) {
      out.push_back({kFits, s.line, fmt::format("{}: {} of {}", score_text(s), grouped(*k), grouped(n))});
      return;
    }
    const double m = static_cast<double>(n);
    const double below = std::floor(s.p.value * m) / m, above = std::ceil(s.p.value * m) / m;
    misses += fmt::format("{}no k of {} gives it: the nearest are {:.{}f} and {:.{}f}",
                          misses.empty() ? "" : "; ", grouped(n), below, s.p.digits, above, s.p.digits);
  }
  const auto full = on_grid(s.p.value, s.p.digits, kGsm8k);
  out.push_back(
      {kContradicts, s.line,
       fmt::format("{}: {}{}", score_text(s), misses,
                   full ? fmt::format("; it fits {} of 1,319 (all of GSM8K)", grouped(*full)) : "")});
}

std::size_t column(const std::vector<std::string>& header, std::initializer_list<const char*> words) {
  for (std::size_t i = 0; i < header.size(); ++i)
    for (const char* word : words)
      if (lower(header[i]) == word) return i;
  return std::string::npos;
}

bool looks_like_score(const Printed& p) {
  return p.value >= 0 && (p.percent ? p.value <= 100 : p.value <= 1);
}

// lm_eval's table: Value and Stderr columns, names in the columns before.
void scores_of_table(const PastedTable& t, std::vector<Score>& scores) {
  const std::size_t value = column(t.header, {"value"}), error = column(t.header, {"stderr"});
  if (value == std::string::npos) return;
  const std::size_t task = column(t.header, {"tasks", "task", "groups"}),
                    filter = column(t.header, {"filter"});
  std::string name;
  for (const TableRow& row : t.rows) {
    if (row.cells.size() <= value) continue;
    if (task < row.cells.size() && !row.cells[task].empty()) name = row.cells[task];
    const auto p = first_printed(row.cells[value]);
    if (!p || !looks_like_score(*p)) continue;
    Score s;
    s.line = row.line;
    s.what = name + (filter < row.cells.size() && !row.cells[filter].empty() ? " " + row.cells[filter] : "");
    s.p = fraction(*p);
    if (error < row.cells.size())
      if (const auto se = first_printed(row.cells[error])) s.se = fraction(*se), s.has_se = true;
    scores.push_back(s);
  }
}

// "0.9469 ± 0.0062", "94.69% +- 0.62%" anywhere in a line.
void scores_of_line(std::size_t number, const std::string& line, std::vector<Score>& scores) {
  for (std::size_t at = 0;;) {
    const auto p = first_printed(line, at);
    if (!p) return;
    at = p->end;
    std::size_t mark = line.find_first_not_of(' ', at);
    if (mark == line.npos) return;
    std::size_t length = 0;
    for (const std::string_view sign : {"\xC2\xB1", "+-", "+/-"})
      if (line.compare(mark, sign.size(), sign) == 0) length = sign.size();
    if (length == 0) continue;
    mark = line.find_first_not_of(' ', mark + length);
    if (mark == line.npos) return;
    auto se = printed_at(line, mark);
    if (!se) continue;
    at = se->end;
    Printed value = *p;
    if (se->percent) value.percent = true;
    if (value.percent) se->percent = true;
    // A latency has a unit or is above 1; a score's error is smaller than the score's distance to 0.5 allows.
    if (!looks_like_score(value) || se->value < 0 || (se->value > 0.51 && !se->percent)) continue;
    scores.push_back({number, "", fraction(value), fraction(*se), true});
  }
}

bool names_an_error(const std::string& header) {
  const std::string h = lower(header);
  for (const char* word : {"stderr", "std err", "standard error", "\xC2\xB1"})
    if (h.find(word) != h.npos) return true;
  return h == "se" || h == "+-" || h == "+/-";
}

// The number that a cell is, and nothing else.
std::optional<Printed> number_of_cell(const TableRow& row, std::size_t i) {
  if (i >= row.cells.size()) return std::nullopt;
  const auto p = printed_at(row.cells[i], 0);
  return p && p->end == row.cells[i].size() ? p : std::nullopt;
}

bool names_a_score(const std::string& header) {
  const std::string h = lower(header);
  if (names_an_error(header)) return false;
  for (const char* word : {"gsm8k", "accuracy", "exact_match", "strict", "flexible", "score"})
    if (h.find(word) != h.npos) return true;
  return h == "acc";
}

// Columns that hold scores by their header, with one number per cell; the column behind one may hold its error.
void scores_of_columns(const PastedTable& t, std::vector<Score>& scores) {
  if (column(t.header, {"value"}) != std::string::npos) return;
  for (std::size_t i = 0; i < t.header.size(); ++i) {
    if (!names_a_score(t.header[i])) continue;
    const bool has_error = i + 1 < t.header.size() && names_an_error(t.header[i + 1]);
    for (const TableRow& row : t.rows) {
      const auto p = number_of_cell(row, i);
      if (!p || !looks_like_score(*p) || p->digits == 0) continue;
      scores.push_back({row.line, t.header[i], fraction(*p), {}, false});
      if (!has_error) continue;
      if (const auto se = number_of_cell(row, i + 1)) scores.back().se = fraction(*se), scores.back().has_se = true;
    }
  }
}

// "199/200 = 99.5%", "1276/1319 (0.9674)"
void ratios_of_line(std::size_t number, const std::string& line, std::vector<Finding>& out) {
  using enum Finding::Kind;
  for (std::size_t slash = line.find('/'); slash != line.npos; slash = line.find('/', slash + 1)) {
    std::size_t first = slash;
    while (first > 0 && ((line[first - 1] >= '0' && line[first - 1] <= '9') || line[first - 1] == ','))
      --first;
    const auto k = printed_at(line, first), n = printed_at(line, slash + 1);
    if (!k || !n || k->end != slash || k->digits != 0 || n->digits != 0 || n->percent ||
        n->value < k->value || n->value < 1)
      continue;
    const std::size_t mark = line.find_first_not_of(' ', n->end);
    if (mark == line.npos || (line[mark] != '=' && line[mark] != '(')) continue;
    const std::size_t at = line.find_first_not_of(' ', mark + 1);
    if (at == line.npos) continue;
    const auto p = printed_at(line, at);
    if (!p || !looks_like_score(*p) || p->digits == 0) continue;
    const Printed f = fraction(*p);
    const double ratio = k->value / n->value;
    const bool fits = std::abs(ratio - f.value) <= f.half() * (1 + 1e-9);
    out.push_back({fits ? kFits : kContradicts, number,
                   fmt::format("{:.0f}/{:.0f} is {:.{}f}{}", k->value, n->value, ratio, f.digits,
                               fits ? "" : fmt::format(", not {:.{}f}", f.value, f.digits))});
  }
}

}  // namespace

std::vector<std::int64_t> claimed_samples(std::string_view text) {
  std::vector<std::int64_t> claims;
  const auto add = [&](const std::optional<Printed>& p) {
    if (!p || p->digits != 0 || p->percent || p->value < 10 || p->value > 1e7) return;
    const auto n = static_cast<std::int64_t>(p->value);
    if (std::find(claims.begin(), claims.end(), n) == claims.end()) claims.push_back(n);
  };
  for (const PastedTable& t : markdown_tables(text))
    for (const char* name : {"samples", "questions", "problems", "n", "limit", "num_samples", "n-samples"})
      if (const std::size_t i = column(t.header, {name}); i != std::string::npos)
        for (const TableRow& row : t.rows) add(number_of_cell(row, i));
  for (const std::string& line : plain_lines(text)) {
    for (const std::string_view word :
         {"--limit", "limit", "--num-questions", "--num_questions", "--num-examples", "n"}) {
      for (std::size_t at = line.find(word); at != line.npos; at = line.find(word, at + word.size())) {
        const bool alone =
            at == 0 || std::string_view(" \t|(,;`").find(line[at - 1]) != std::string_view::npos;
        std::size_t next = at + word.size();
        const std::size_t mark = line.find_first_not_of(' ', next);
        if (!alone || mark == line.npos) continue;
        const bool set = line[mark] == '=' || line[mark] == ':';
        // "limit 256" may be prose, "n 256" anything: without "=" only an option counts.
        if (!set && (word[0] != '-' || mark == next)) continue;
        next = set ? line.find_first_not_of(' ', mark + 1) : mark;
        if (next != line.npos) add(printed_at(line, next));
      }
    }
    for (std::size_t at = 0;;) {
      const auto p = first_printed(line, at);
      if (!p) break;
      at = p->end;
      std::string_view rest = std::string_view(line).substr(at);
      while (!rest.empty() && (rest[0] == ' ' || rest[0] == '-')) rest.remove_prefix(1);
      for (const std::string_view unit :
           {"sample", "question", "problem", "example", "item", "gsm8k question"})
        if (rest.starts_with(unit)) add(p);
    }
  }
  return claims;
}

void audit_accuracy(std::string_view text, const std::vector<std::int64_t>& claimed,
                    std::vector<Finding>& findings) {
  std::vector<Score> scores;
  std::map<std::size_t, bool> of_tables;
  for (const PastedTable& t : markdown_tables(text)) {
    const std::size_t before = scores.size();
    scores_of_table(t, scores);
    for (std::size_t i = before; i < scores.size(); ++i) of_tables[scores[i].line] = true;
    scores_of_columns(t, scores);
  }
  const std::vector<std::string> lines = plain_lines(text);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (!of_tables.contains(i + 1)) scores_of_line(i + 1, lines[i], scores);
    ratios_of_line(i + 1, lines[i], findings);
  }
  for (const Score& s : scores) {
    if (s.has_se) check_stderr(s, claimed, findings);
    check_grid(s, claimed, findings);
  }
}

AuditResult audit_text(std::string_view text, const AuditOptions& options) {
  AuditResult r;
  r.claimed = options.samples ? std::vector<std::int64_t>{*options.samples} : claimed_samples(text);
  audit_accuracy(text, r.claimed, r.findings);
  audit_throughput_tables(text, r.findings);
  audit_serving_blocks(text, r.findings);
  std::stable_sort(r.findings.begin(), r.findings.end(),
                   [](const Finding& a, const Finding& b) { return a.line < b.line; });
  return r;
}

}  // namespace moecheck::harness
