#pragma once
// UTF-8 (Unicode 15, table 3-7: nothing overlong, no surrogates, nothing past U+10FFFF), in one place.
#include <cstddef>
#include <string>
#include <string_view>

namespace moecheck::harness {

// The code point at text[at], which must exist, and its length in bytes; a byte that is not UTF-8 there is U+FFFD of
// length 1, and not valid.
struct CodePoint {
  char32_t value = 0;
  std::size_t length = 1;
  bool valid = true;
};
CodePoint code_point(std::string_view text, std::size_t at = 0);

// How many bytes at the start of `text` are whole UTF-8 sequences.
std::size_t utf8_prefix(std::string_view text);

// `text` with U+FFFD for what is not UTF-8, one for each longest start of a sequence (Unicode 15, section 3.9), as
// Python's bytes.decode("utf-8", "replace") does.
std::string valid_utf8(std::string_view text);

// The same as it comes, cut anywhere.
class Utf8Decoder {
 public:
  void add(std::string_view bytes, std::string& text);
  void finish(std::string& text);  // what is incomplete becomes U+FFFD

 private:
  std::string partial_;  // the start of a sequence, valid so far
};

}  // namespace moecheck::harness
