#pragma once
// Words and numbers for people: what the console, JUnit and the HTML report share.
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace moecheck::harness {

// `text` as valid UTF-8 that is safe on a terminal and in XML. Invalid bytes, control characters (newline
// and tab included) and characters that reorder or hide what surrounds them become visible: \xff, \n,
// \u{202e}.
std::string printable(std::string_view text);
// The same, cut to about `limit` bytes with "..." where it is longer: for names taken from files.
std::string printable(std::string_view text, std::size_t limit);
// The same, but line breaks stay: one entry per line.
std::vector<std::string> printable_lines(std::string_view text);

// & < > " as entities, for XML and HTML: element content, and attributes in double quotes.
std::string markup_escaped(std::string_view text);

// ASCII alone, whatever the locale.
constexpr char lower_ascii(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

std::string grouped(std::int64_t n);                           // 1,234,567
std::string count(std::int64_t n, std::string_view singular);  // "1 case", "2,048 cases"

// Each number as short as it can be while different numbers look different: a bf16 neighbour never prints
// like its neighbour.
std::vector<std::string> tell_apart(std::initializer_list<double> values);
// An error over its bound: "12.3%" up to the bound, "479x" beyond it, "inf" where the bound is 0.
std::string ratio_text(double ratio);
std::string coordinates_text(const std::vector<std::int64_t>& index);  // "[3, 17]"

// `text` in single quotes for a POSIX shell; they also keep an interactive one from expanding "!".
std::string shell_quoted(std::string_view text);
// The same, but bare where nothing in it is special.
std::string shell_word(std::string_view text);

}  // namespace moecheck::harness
