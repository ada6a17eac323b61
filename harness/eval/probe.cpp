#include "harness/eval/probe.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "harness/text.h"

namespace moecheck::harness::eval {
namespace {

constexpr std::size_t kContext = 24, kAfter = 40;  // bytes shown before and after the first difference

bool continues(char c) {
  return (static_cast<unsigned char>(c) & 0xC0) == 0x80;
}  // a later byte of a character

std::size_t at_character(std::string_view text, std::size_t at) {
  while (at > 0 && at < text.size() && continues(text[at])) --at;
  return at;
}

std::string excerpt(std::string_view text, std::size_t at, std::size_t length) {
  if (at >= text.size()) return "(end)";
  const std::size_t end = at + length >= text.size() ? text.size() : at_character(text, at + length);
  return printable(text.substr(at, end - at)) + (end < text.size() ? "..." : "");
}

Divergence divergence(const Sample& a, const Sample& b, std::string_view x, std::string_view y) {
  const auto differ = std::mismatch(
      x.begin(), x.begin() + static_cast<std::ptrdiff_t>(std::min(x.size(), y.size())), y.begin());
  Divergence d;
  d.doc_id = a.doc_id;
  d.at = at_character(x, static_cast<std::size_t>(differ.first - x.begin()));
  const std::size_t from = at_character(x, d.at > kContext ? d.at - kContext : 0);
  d.before = (from > 0 ? "..." : "") + printable(x.substr(from, d.at - from));
  d.first = excerpt(x, d.at, kAfter);
  d.second = excerpt(y, d.at, kAfter);
  d.first_right = !a.scores.empty() && a.scores[0].right;
  d.second_right = !b.scores.empty() && b.scores[0].right;
  return d;
}

}  // namespace

TextComparison compare_texts(const std::vector<Sample>& first, const std::vector<Sample>& second,
                             std::span<const std::string> until) {
  std::map<std::int64_t, const Sample*> others;
  for (const Sample& s : second)
    if (!s.failed) others[s.doc_id] = &s;
  TextComparison c;
  std::vector<bool> a_right, b_right;
  for (const Sample& a : first) {
    const auto other = others.find(a.doc_id);
    if (a.failed || other == others.end()) continue;
    const Sample& b = *other->second;
    ++c.pairs;
    const std::string_view x = up_to_stop(a.completion, until), y = up_to_stop(b.completion, until);
    c.identical += x == y;
    if (x != y) c.divergences.push_back(divergence(a, b, x, y));
    a_right.push_back(!a.scores.empty() && a.scores[0].right);
    b_right.push_back(!b.scores.empty() && b.scores[0].right);
  }
  c.grades = paired_counts(a_right, b_right);
  return c;
}

std::string divergence_text(const TextComparison& c, std::string_view first, std::string_view second,
                            std::size_t shown) {
  const double share =
      c.pairs > 0 ? 100.0 * static_cast<double>(c.pairs - c.identical) / static_cast<double>(c.pairs) : 0;
  std::string text = fmt::format(
      "{} against {}: {} of {} texts differ ({:.1f}%); {} right to wrong, {} wrong to right\n", first, second,
      grouped(c.pairs - c.identical), grouped(c.pairs), share, c.grades.regressions, c.grades.fixes);
  for (std::size_t i = 0; i < std::min(shown, c.divergences.size()); ++i) {
    const Divergence& d = c.divergences[i];
    text += fmt::format("  document {}, byte {}, {}{}: {}\n    {}\n    {}\n", d.doc_id, d.at,
                        d.first_right ? "right" : "wrong",
                        d.first_right == d.second_right ? " both"
                        : d.second_right                ? " to right"
                                                        : " to wrong",
                        d.before, d.first, d.second);
  }
  if (c.divergences.size() > shown) text += fmt::format("  and {} more\n", c.divergences.size() - shown);
  return text;
}

}  // namespace moecheck::harness::eval
