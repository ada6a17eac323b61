#include "harness/tasks/regrading.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>

#include "harness/tasks/python_text.h"
#include "harness/tasks/scoring.h"
#include "harness/utf8.h"

namespace moecheck::harness {
namespace {

constexpr bool is_ascii_digit(char c) { return c >= '0' && c <= '9'; }

// Python's \d: category Nd. Every block holds its digits in order from zero, most of them ten.
constexpr char32_t kZeros[] = {
    0x660,   0x6F0,   0x7C0,   0x966,   0x9E6,   0xA66,   0xAE6,   0xB66,   0xBE6,   0xC66,   0xCE6,
    0xD66,   0xDE6,   0xE50,   0xED0,   0xF20,   0x1040,  0x1090,  0x17E0,  0x1810,  0x1946,  0x19D0,
    0x1A80,  0x1A90,  0x1B50,  0x1BB0,  0x1C40,  0x1C50,  0xA620,  0xA8D0,  0xA900,  0xA9D0,  0xA9F0,
    0xAA50,  0xABF0,  0xFF10,  0x104A0, 0x10D30, 0x11066, 0x110F0, 0x11136, 0x111D0, 0x112F0, 0x11450,
    0x114D0, 0x11650, 0x116C0, 0x11730, 0x118E0, 0x11950, 0x11C50, 0x11D50, 0x11DA0, 0x16A60, 0x16AC0,
    0x16B50, 0x1D7CE, 0x1D7D8, 0x1D7E2, 0x1D7EC, 0x1D7F6, 0x1E140, 0x1E2F0, 0x1E950, 0x1FBF0};

// The length in bytes of the digit at text[at], 0 where there is none.
std::size_t digit_at(std::string_view text, std::size_t at) {
  if (at >= text.size()) return 0;
  if (is_ascii_digit(text[at])) return 1;
  if (static_cast<unsigned char>(text[at]) < 0x80) return 0;
  const CodePoint c = code_point(text, at);
  const char32_t* block = std::upper_bound(std::begin(kZeros), std::end(kZeros), c.value);
  return block != std::begin(kZeros) && c.value - block[-1] < 10 ? c.length : 0;
}

std::size_t digits_end(std::string_view text, std::size_t at) {
  while (const std::size_t length = digit_at(text, at)) at += length;
  return at;
}

std::string without_commas(std::string_view text) {
  std::string out(text);
  std::erase(out, ',');
  return out;
}

// The last match that end(at) finds in a scan from the left; end(at) == at where nothing matches there.
template <class End>
std::string_view last_match(std::string_view text, End end) {
  std::string_view found;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t to = end(at);
    if (to > at) found = text.substr(at, to - at);
    at = to > at ? to : at + 1;
  }
  return found;
}

// Whether ast.literal_eval takes it: ASCII only, no leading zeros in an integer other than zero, at most 4,300 digits
// in an integer (CPython's limit since 3.10.7).
bool is_literal(std::string_view text) {
  if (!text.empty() && text[0] == '-') text.remove_prefix(1);
  if (text.empty()) return false;
  if (!std::all_of(text.begin(), text.end(), [](char c) { return is_ascii_digit(c) || c == '.'; }))
    return false;
  if (text.find('.') != text.npos) return true;
  if (text.size() > 4300) return false;
  return text[0] != '0' || text.find_first_not_of('0') == text.npos;
}

std::string literal_or_invalid(std::string_view text) {
  return std::string(is_literal(text) ? text : kInvalidText);
}

// Sign, digits before and after the point, without zeros that say nothing: "-0018.50" is "-18.5", "-0.0" is "0".
std::string canonical(std::string_view text) {
  const bool negative = !text.empty() && text[0] == '-';
  if (negative) text.remove_prefix(1);
  const std::size_t point = std::min(text.find('.'), text.size());
  std::string_view whole = text.substr(0, point);
  std::string_view part = point < text.size() ? text.substr(point + 1) : std::string_view();
  while (!whole.empty() && whole.front() == '0') whole.remove_prefix(1);
  while (!part.empty() && part.back() == '0') part.remove_suffix(1);
  std::string out(whole.empty() ? "0" : whole);
  if (!part.empty()) out.append(".").append(part);
  return negative && out != "0" ? "-" + out : out;
}

}  // namespace

std::string last_number(std::string_view given) {
  const std::string text = without_commas(given);
  const auto run = [&](std::size_t at) {
    while (at < text.size() && is_ascii_digit(text[at])) ++at;
    return at;
  };
  const std::string_view found = last_match(text, [&](std::size_t at) {
    const std::size_t first = at + (text[at] == '-' ? 1 : 0);
    std::size_t end = run(first);
    if (end == first) return at;
    if (end < text.size() && text[end] == '.')
      if (const std::size_t part = run(end + 1); part > end + 1) end = part;
    return end;
  });
  return std::string(found.empty() ? kInvalidText : found);
}

std::string last_integer(std::string_view given) {
  const std::string text = without_commas(given);
  return literal_or_invalid(last_match(text, [&](std::size_t at) { return digits_end(text, at); }));
}

std::string last_literal(std::string_view given) {
  const std::string text = without_commas(given);
  return literal_or_invalid(last_match(text, [&](std::size_t at) {
    const std::size_t first = at + (text[at] == '-' ? 1 : 0);
    std::size_t end = digits_end(text, first);
    if (end == first) return at;
    if (end < text.size() && text[end] == '.') end = digits_end(text, end + 1);
    return end;
  }));
}

bool same_decimal(std::string_view a, std::string_view b) {
  return a != kInvalidText && b != kInvalidText && canonical(a) == canonical(b);
}

bool same_literal(std::string_view a, std::string_view b) {
  if (a == kInvalidText || b == kInvalidText) return false;
  if (a.find('.') == a.npos && b.find('.') == b.npos) return canonical(a) == canonical(b);
  return std::strtod(std::string(a).c_str(), nullptr) == std::strtod(std::string(b).c_str(), nullptr);
}

}  // namespace moecheck::harness
