#include "harness/text.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "harness/utf8.h"

namespace moecheck::harness {
namespace {

bool is_hidden(char32_t c) {
  return (c >= 0x80 && c < 0xA0) ||                      // C1 controls: some terminals obey them
         c == 0x061C || (c >= 0x200B && c <= 0x200F) ||  // zero width, direction marks
         (c >= 0x2028 && c <= 0x202E) ||
         (c >= 0x2060 && c <= 0x206F) ||         // separators, bidi embeddings and isolates
         c == 0xFEFF || (c & 0xFFFE) == 0xFFFE;  // byte order mark, noncharacters (not XML)
}

void append_printable(std::string& out, std::string_view text, const CodePoint& c) {
  const char32_t code = c.value;
  if (!c.valid)
    out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[0]));
  else if (code == '\n')
    out += "\\n";
  else if (code == '\t')
    out += "\\t";
  else if (code == '\r')
    out += "\\r";
  else if (code < 0x20 || code == 0x7F)
    out += fmt::format("\\x{:02x}", static_cast<unsigned>(code));
  else if (is_hidden(code))
    out += fmt::format("\\u{{{:04x}}}", static_cast<unsigned>(code));
  else
    out.append(text.substr(0, c.length));
}

}  // namespace

std::string printable(std::string_view text) { return printable(text, std::string_view::npos); }

std::string printable(std::string_view text, std::size_t limit) {
  std::string out;
  while (!text.empty()) {
    if (out.size() >= limit) return out + "...";
    const CodePoint c = code_point(text);
    append_printable(out, text, c);
    text.remove_prefix(c.length);
  }
  return out;
}

std::vector<std::string> printable_lines(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    lines.push_back(printable(line));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return lines;
}

std::string markup_escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string grouped(std::int64_t n) {
  std::string digits = fmt::format("{}", n);
  const std::size_t first = n < 0 ? 1 : 0;
  for (std::size_t i = digits.size(); i > first + 3;) {
    i -= 3;
    digits.insert(i, 1, ',');
  }
  return digits;
}

std::string count(std::int64_t n, std::string_view singular) {
  return fmt::format("{} {}{}", grouped(n), singular, n == 1 ? "" : "s");
}

std::vector<std::string> tell_apart(std::initializer_list<double> values) {
  std::vector<std::string> texts;
  for (int precision = 6; precision <= 17; ++precision) {
    texts.clear();
    for (const double v : values) texts.push_back(fmt::format("{:.{}g}", v, precision));
    bool apart = true;
    for (std::size_t i = 0; i < values.size(); ++i)
      for (std::size_t k = 0; k < i; ++k)
        if (texts[i] == texts[k] && std::memcmp(values.begin() + i, values.begin() + k, sizeof(double)) != 0)
          apart = false;
    if (apart) break;
  }
  return texts;
}

std::string ratio_text(double ratio) {
  if (std::isnan(ratio)) return "nan";
  if (std::isinf(ratio)) return "inf";
  if (ratio > 1e4) return fmt::format("{:.1e}x", ratio);
  if (ratio > 1)
    return fmt::format("{:.3g}x", ratio < 1.01 ? 1.01 : ratio);  // never "1x" for something beyond the bound
  if (ratio > 0 && ratio < 0.001) return "<0.1%";
  // Cut, not rounded, near the bound: "100.0%" means the bound itself.
  return fmt::format("{:.1f}%", ratio < 1 && ratio > 0.999 ? 99.9 : 100 * ratio);
}

std::string coordinates_text(const std::vector<std::int64_t>& index) {
  return fmt::format("[{}]", fmt::join(index, ", "));
}

std::string shell_quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'')
      out += "'\\''";
    else
      out += c;
  }
  out += '\'';
  return out;
}

std::string shell_word(std::string_view text) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=:,+@%";
  const bool plain = !text.empty() && text.find_first_not_of(kPlain) == std::string_view::npos;
  return plain ? std::string(text) : shell_quoted(text);
}

}  // namespace moecheck::harness
