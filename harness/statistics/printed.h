#pragma once
// Numbers and tables as people paste them: rounded, bold, with a percent sign, in Markdown.
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moecheck::harness {

// A number that was rounded to `digits` decimals: it stands for [low(), high()].
struct Printed {
  double value = 0;  // 94.69% is 94.69
  int digits = 0;
  bool percent = false;
  std::size_t end = 0;  // where it ends in the text it was read from

  double half() const;  // half a unit of the last digit
  double low() const { return value - half(); }
  double high() const { return value + half(); }
};

// The number that begins at text[at]: digits with thousands commas and a decimal point, a sign ("-", "+" or U+2212)
// and a "%" that may stand after a space. nullopt where there is none.
std::optional<Printed> printed_at(std::string_view text, std::size_t at);
// The first number at or after `from` that is no part of a word (the 8 of gsm8k is).
std::optional<Printed> first_printed(std::string_view text, std::size_t from = 0);

struct TableRow {
  std::size_t line = 0;  // from 1
  std::vector<std::string> cells;
};

struct PastedTable {
  std::vector<std::string> header;
  std::vector<TableRow> rows;
};

// The Markdown tables in a text. Cells come without white space around them and without ** and `.
std::vector<PastedTable> markdown_tables(std::string_view text);
// The text line by line, ** and ` removed, in lower case.
std::vector<std::string> plain_lines(std::string_view text);
std::string lower(std::string_view text);  // ASCII

}  // namespace moecheck::harness
