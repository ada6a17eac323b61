#pragma once
// From tokens' bytes to text that a client may see: whole UTF-8 sequences only, and nothing of a stop string.
#include <string>
#include <string_view>
#include <vector>

#include "harness/utf8.h"

namespace moecheck::harness::serve {

// The text up to the stop string that is complete first; of those complete at the same byte, the longest counts. Thus
// the text depends on the bytes alone, not on how tokens cut them.
class TextStream {
 public:
  explicit TextStream(const std::vector<std::string>& stops);

  void add_prompt(std::string_view bytes);  // no stop is looked for in it
  // Returns whether a stop string is complete; then nothing may be added any more.
  bool add(std::string_view bytes);
  void finish();       // no more comes: what was held back is text
  std::string take();  // the text since the last call

 private:
  struct Stop {
    std::string text;
    std::vector<std::size_t> fallback;  // of Knuth, Morris and Pratt
    std::size_t matched = 0;            // the longest start of `text` that ends what was added
  };

  std::vector<Stop> stops_;
  std::string held_;  // could still be a part of a stop string
  std::string text_;
  Utf8Decoder decoder_;
  bool stopped_ = false;
};

}  // namespace moecheck::harness::serve
