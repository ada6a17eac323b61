#include "harness/statistics/printed.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace moecheck::harness {
namespace {

constexpr std::string_view kMinus = "\xE2\x88\x92";  // U+2212

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_word(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (c & 0x80) != 0;
}

std::string without_marks(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '`') continue;
    if (text.substr(i, 2) == "**") {
      ++i;
      continue;
    }
    out += text[i];
  }
  return out;
}

std::string trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r"), last = text.find_last_not_of(" \t\r");
  return first == text.npos ? std::string() : std::string(text.substr(first, last - first + 1));
}

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

// The cells of "| a | b |"; empty where the line is no row. A row may be quoted or indented.
std::vector<std::string> cells_of(std::string_view line) {
  const std::size_t first = line.find_first_not_of(" \t\r>");
  std::vector<std::string> cells;
  if (first == line.npos || line[first] != '|') return cells;
  std::size_t at = first + 1;
  while (at < line.size()) {
    const std::size_t end = std::min(line.find('|', at), line.size());
    const std::string cell = trimmed(without_marks(line.substr(at, end - at)));
    if (end < line.size() || !cell.empty()) cells.push_back(cell);
    at = end + 1;
  }
  return cells;
}

bool is_separator(const std::vector<std::string>& cells) {
  return !cells.empty() && std::all_of(cells.begin(), cells.end(), [](const std::string& c) {
    return !c.empty() && c.find_first_not_of("-: ") == c.npos && c.find('-') != c.npos;
  });
}

}  // namespace

double Printed::half() const { return 0.5 * std::pow(10, -digits); }

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

std::optional<Printed> printed_at(std::string_view text, std::size_t at) {
  Printed p;
  std::string number;
  if (text.substr(at, kMinus.size()) == kMinus) {
    number = "-";
    at += kMinus.size();
  } else if (at < text.size() && (text[at] == '-' || text[at] == '+')) {
    if (text[at] == '-') number = "-";
    ++at;
  }
  const std::size_t first = at;
  while (at < text.size() && is_digit(text[at])) {
    number += text[at++];
    // A comma belongs to the number where exactly three digits follow it.
    if (at + 3 < text.size() + 0 && text[at] == ',' && is_digit(text[at + 1]) && is_digit(text[at + 2]) &&
        is_digit(text[at + 3]) && (at + 4 >= text.size() || !is_digit(text[at + 4])))
      ++at;
  }
  if (at == first) return std::nullopt;
  if (at + 1 < text.size() && text[at] == '.' && is_digit(text[at + 1])) {
    number += text[at++];
    while (at < text.size() && is_digit(text[at])) {
      number += text[at++];
      ++p.digits;
    }
  }
  p.value = std::strtod(number.c_str(), nullptr);
  p.end = at;
  const std::size_t sign = text.substr(at, 1) == " " ? at + 1 : at;
  if (sign < text.size() && text[sign] == '%') {
    p.percent = true;
    p.end = sign + 1;
  }
  return p;
}

std::optional<Printed> first_printed(std::string_view text, std::size_t from) {
  for (std::size_t at = from; at < text.size(); ++at) {
    const bool digit = is_digit(text[at]);
    const bool sign = !digit && (text[at] == '-' || text[at] == '+' || text.substr(at, 3) == kMinus);
    if (!digit && !sign) continue;
    const bool in_word = at > 0 && (is_word(text[at - 1]) || text[at - 1] == '.') &&
                         !(at >= 3 && text.substr(at - 3, 3) == kMinus);
    if (in_word && digit) {  // the rest of the word's digits
      while (at + 1 < text.size() && is_digit(text[at + 1])) ++at;
      continue;
    }
    if (const auto p = printed_at(text, at)) return p;
  }
  return std::nullopt;
}

std::vector<PastedTable> markdown_tables(std::string_view text) {
  std::vector<PastedTable> tables;
  std::vector<std::string> above;
  bool open = false;
  std::size_t number = 0;
  for (const std::string_view line : lines_of(text)) {
    ++number;
    std::vector<std::string> cells = cells_of(line);
    if (cells.empty()) {
      open = false;
    } else if (is_separator(cells)) {
      open = !above.empty();
      if (open) tables.push_back({above, {}});
    } else if (open) {
      tables.back().rows.push_back({number, cells});
    }
    above = std::move(cells);
  }
  return tables;
}

std::vector<std::string> plain_lines(std::string_view text) {
  std::vector<std::string> lines;
  for (const std::string_view line : lines_of(text)) lines.push_back(lower(without_marks(line)));
  return lines;
}

}  // namespace moecheck::harness
