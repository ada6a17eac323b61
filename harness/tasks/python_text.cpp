#include "harness/tasks/python_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "harness/json.h"
#include "harness/utf8.h"

namespace moecheck::harness {
namespace {

using Json = nlohmann::ordered_json;

// Bytes that stand for themselves in a JSON string of Python's: all but controls, the quote and the backslash.
constexpr std::array<bool, 256> kPlain = [] {
  std::array<bool, 256> plain{};
  for (std::size_t c = 0x20; c < 256; ++c) plain[c] = c != '"' && c != '\\';
  return plain;
}();

void append_string(std::string& out, std::string_view text) {
  constexpr std::string_view kFrom = "\"\\\n\r\t\f\b", kTo = "\"\\nrtfb";
  out += '"';
  const char* const end = text.data() + text.size();
  for (const char* at = text.data(); at != end; ++at) {
    const char* const first = at;
    while (at != end && kPlain[static_cast<unsigned char>(*at)]) ++at;
    out.append(first, at);
    if (at == end) break;
    if (const std::size_t i = kFrom.find(*at); i != kFrom.npos)
      out.append({'\\', kTo[i]});
    else
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(*at));
  }
  out += '"';
}

void append(std::string& out, const Json& v, int indent, int depth) {
  const auto line = [&](int d) {
    if (indent >= 0) out.append("\n").append(static_cast<std::size_t>(indent * d), ' ');
  };
  switch (v.type()) {
    case Json::value_t::string:
      append_string(out, v.get_ref<const std::string&>());
      return;
    case Json::value_t::number_float:
      out += python_float(v.get<double>());
      return;
    case Json::value_t::object:
    case Json::value_t::array:
      break;
    default:
      out += v.dump();
      return;
  }
  out += v.is_object() ? '{' : '[';
  bool first = true;
  for (const auto& item : v.items()) {
    if (!first) out += indent >= 0 ? "," : ", ";
    first = false;
    line(depth + 1);
    if (v.is_object()) {
      append_string(out, item.key());
      out += ": ";
    }
    append(out, item.value(), indent, depth + 1);
  }
  if (!first) line(depth);
  out += v.is_object() ? '}' : ']';
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// The value of \uXXXX at text[at], or -1.
int escape_at(std::string_view text, std::size_t at) {
  if (at + 6 > text.size() || text[at] != '\\' || text[at + 1] != 'u') return -1;
  int value = 0;
  for (std::size_t i = at + 2; i < at + 6; ++i) {
    const int digit = hex_digit(text[i]);
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

bool is_high(int unit) { return unit >= 0xD800 && unit <= 0xDBFF; }
bool is_low(int unit) { return unit >= 0xDC00 && unit <= 0xDFFF; }

// The word of Python's three non-numbers at text[at], or empty.
std::string_view non_number(std::string_view text, std::size_t at) {
  for (const std::string_view word : {"NaN", "Infinity", "-Infinity"})
    if (text.substr(at, word.size()) == word) return word;
  return {};
}

// `text` with halves of surrogate pairs as U+FFFD and Python's non-numbers as null; empty where it has neither.
std::string mended(std::string_view text) {
  std::string clean;
  std::size_t copied = 0;  // of `text` into `clean`
  const auto replace = [&](std::size_t at, std::size_t length, std::string_view by) {
    clean.append(text, copied, at - copied).append(by);
    copied = at + length;
  };
  bool quoted = false;
  for (std::size_t at = 0; (at = text.find_first_of(quoted ? "\"\\" : "\"NI-", at)) != text.npos;) {
    if (text[at] == '"') {
      quoted = !quoted;
      ++at;
    } else if (!quoted) {
      const std::string_view word = non_number(text, at);
      if (!word.empty()) replace(at, word.size(), "null");
      at += std::max<std::size_t>(1, word.size());
    } else {
      const int unit = escape_at(text, at);
      const bool pair = is_high(unit) && is_low(escape_at(text, at + 6));
      if (!pair && (is_high(unit) || is_low(unit))) replace(at, 6, "\\ufffd");
      at += pair ? 12 : unit >= 0 ? 6 : 2;
    }
  }
  if (copied > 0) clean.append(text, copied);
  return clean;
}

}  // namespace

std::string python_float(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  std::string text(buffer, end);  // shortest digits that read back: d.ddde+XX
  const std::size_t e = text.find('e');
  const int exponent = std::stoi(text.substr(e + 1));
  if (exponent < -4 || exponent >= 16) return text;
  const bool negative = text[0] == '-';
  std::string digits;
  for (const char c : text.substr(0, e))
    if (c >= '0' && c <= '9') digits += c;
  std::string out = negative ? "-" : "";
  if (exponent < 0) return out + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  const auto whole = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() <= whole) return out + digits + std::string(whole - digits.size(), '0') + ".0";
  return out + digits.substr(0, whole) + "." + digits.substr(whole);
}

std::string python_json(const Json& value, int indent) {
  std::string out;
  append(out, value, indent, 0);
  return out;
}

std::string python_json_string(std::string_view text) {
  std::string out;
  append_string(out, text);
  return out;
}

std::string_view python_strip(std::string_view text) {
  const auto is_space = [](char32_t c) {
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000;
  };
  while (!text.empty()) {
    const CodePoint c = code_point(text, 0);
    if (!is_space(c.value)) break;
    text.remove_prefix(c.length);
  }
  while (!text.empty()) {
    std::size_t at = text.size() - 1;
    while (at > 0 && text.size() - at < 4 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
    const CodePoint c = code_point(text, at);
    if (at + c.length != text.size() || !is_space(c.value)) break;
    text.remove_suffix(c.length);
  }
  return text;
}

Json parse_json(std::string_view raw) {
  std::string valid;
  if (utf8_prefix(raw) < raw.size()) raw = valid = valid_utf8(raw);
  const std::string clean = mended(raw);
  return Json::parse(clean.empty() ? raw : clean);
}

}  // namespace moecheck::harness
