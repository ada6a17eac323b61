#include "harness/json_error.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "harness/text.h"

namespace moecheck::harness {
namespace {

constexpr std::string_view kPrefix = "[json.exception.", kParse = "[json.exception.parse_error.";
constexpr std::size_t kLongest = 300;

struct Problem {
  bool no_json = false;
  std::size_t line = 1, column = 0;  // column 0: not told
  std::string words;
};

// The number behind `word`, which is cut off with it; 0 where there is none.
std::size_t number_behind(std::string_view& text, std::string_view word) {
  if (!text.starts_with(word)) return 0;
  std::size_t n = 0;
  const char* const from = text.data() + word.size();
  const char* const end = std::from_chars(from, text.data() + text.size(), n).ptr;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return n;
}

// nlohmann's messages: "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error while parsing object
// key - unexpected end of input; expected string literal", and "[json.exception.out_of_range.403] key 'x' not found".
Problem problem_of(const std::exception& e) {
  std::string_view text = e.what();
  if (!text.starts_with(kPrefix)) return {false, 1, 0, printable(text, kLongest)};
  Problem p;
  p.no_json = text.starts_with(kParse);
  const std::size_t name = text.find("] ");
  if (name != text.npos) text.remove_prefix(name + 2);
  if (!p.no_json) return {false, 1, 0, printable(text, kLongest)};
  p.line = std::max<std::size_t>(1, number_behind(text, "parse error at line "));
  p.column = number_behind(text, ", column ");
  if (text.starts_with(": ")) text.remove_prefix(2);
  if (const std::size_t dash = text.find(" - "); text.starts_with("syntax error") && dash != text.npos)
    text.remove_prefix(dash + 3);
  p.words = printable(text, kLongest);
  return p;
}

std::string words(const Problem& p) {
  if (!p.no_json) return p.words;
  return p.column == 0 ? "not JSON: " + p.words : fmt::format("not JSON: {} (column {})", p.words, p.column);
}

}  // namespace

std::string json_error_at(const std::string& path, std::size_t line, const std::exception& e) {
  const Problem p = problem_of(e);
  if (line == 0 && !p.no_json) return fmt::format("{}: {}", printable(path), words(p));
  return fmt::format("{}:{}: {}", printable(path), std::max<std::size_t>(1, line) + p.line - 1, words(p));
}

std::string json_error(const std::exception& e) { return words(problem_of(e)); }

bool is_no_json(const std::exception& e) { return problem_of(e).no_json; }

}  // namespace moecheck::harness
