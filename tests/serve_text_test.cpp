// From bytes to text: UTF-8 and stop strings, whatever the tokens' boundaries.
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <optional>

#include "harness/serve/text_stream.h"
#include "harness/text.h"

namespace {

using moecheck::harness::Utf8Decoder;
using moecheck::harness::serve::TextStream;

// Bytes from a small alphabet, so that stop strings occur, overlap and nearly occur.
std::string text_over(const std::string& alphabet, std::size_t longest) {
  const auto size = *rc::gen::inRange<std::size_t>(0, longest + 1);
  std::string text;
  for (std::size_t i = 0; i < size; ++i) text += alphabet[*rc::gen::inRange<std::size_t>(0, alphabet.size())];
  return text;
}

std::vector<std::string> cut_anywhere(const std::string& text) {
  std::vector<std::string> pieces;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t n = *rc::gen::inRange<std::size_t>(1, 6);
    pieces.push_back(text.substr(at, n));
    at += n;
  }
  return pieces;
}

struct Streamed {
  std::vector<std::string> deltas;
  std::string text;
  bool stopped = false;
};

Streamed stream(const std::vector<std::string>& pieces, const std::vector<std::string>& stops) {
  TextStream s(stops);
  Streamed out;
  for (const std::string& piece : pieces) {
    out.stopped = s.add(piece);
    out.deltas.push_back(s.take());
    if (out.stopped) break;
  }
  s.finish();
  out.deltas.push_back(s.take());
  for (const std::string& d : out.deltas) out.text += d;
  return out;
}

std::string decoded(const std::string& bytes) {
  std::string text;
  Utf8Decoder d;
  d.add(bytes, text);
  d.finish(text);
  return text;
}

// The definition, written the slow way: the first byte at which any stop string is complete.
std::string stopped_text(const std::string& text, const std::vector<std::string>& stops, bool& stopped) {
  stopped = false;
  for (std::size_t end = 1; end <= text.size(); ++end) {
    std::size_t longest = 0;
    for (const std::string& s : stops)
      if (!s.empty() && s.size() <= end && text.compare(end - s.size(), s.size(), s) == 0)
        longest = std::max(longest, s.size());
    if (longest == 0) continue;
    stopped = true;
    return text.substr(0, end - longest);
  }
  return text;
}

RC_GTEST_PROP(ServeText, AStopStringIsFoundWhereverTokensCutIt, ()) {
  const std::string text = text_over("aab", 40);
  std::vector<std::string> stops;
  for (int i = *rc::gen::inRange(0, 5); i > 0; --i) stops.push_back(text_over("aab", 6));
  const Streamed out = stream(cut_anywhere(text), stops);
  bool stopped = false;
  const std::string expected = stopped_text(text, stops, stopped);
  RC_ASSERT(out.text == expected);
  RC_ASSERT(out.stopped == stopped);
}

RC_GTEST_PROP(ServeText, ADeltaNeverHoldsWhatAStopTakesBack, ()) {
  // Whatever was delivered stays a start of the final text: nothing is unsaid.
  const std::string text = text_over("Q:\n a", 60);
  const std::vector<std::string> stops{"Q:", "\n\n", "a a"};
  bool stopped = false;
  const std::string expected = stopped_text(text, stops, stopped);
  std::string so_far;
  for (const std::string& delta : stream(cut_anywhere(text), stops).deltas) {
    so_far += delta;
    RC_ASSERT(expected.compare(0, so_far.size(), so_far) == 0);
  }
}

RC_GTEST_PROP(ServeText, EveryDeltaIsUtf8AndTogetherTheyAreTheWhole, ()) {
  // Valid characters of every length beside stray and cut bytes.
  std::string bytes;
  for (int i = *rc::gen::inRange(0, 30); i > 0; --i)
    bytes += *rc::gen::element<std::string>("a", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x99\x82", "\xE2\x82",
                                            "\xFF", "\xED\xA0\x80", "\xF0\x9F", "\x80", "\n");
  const Streamed out = stream(cut_anywhere(bytes), {});
  for (const std::string& delta : out.deltas) RC_ASSERT(decoded(delta) == delta);
  RC_ASSERT(out.text == decoded(bytes));
}

RC_GTEST_PROP(ServeText, StopsOfSeveralBytesInTextOfSeveralBytes, ()) {
  std::string bytes;
  for (int i = *rc::gen::inRange(0, 20); i > 0; --i)
    bytes += *rc::gen::element<std::string>("\xC3\xA9", "\xE2\x82\xAC", "x", "\xF0\x9F\x99\x82");
  const std::vector<std::string> stops{"\xE2\x82\xACx", "\xF0\x9F\x99\x82\xC3\xA9"};
  bool stopped = false;
  const Streamed out = stream(cut_anywhere(bytes), stops);
  RC_ASSERT(out.text == stopped_text(bytes, stops, stopped));
  for (const std::string& delta : out.deltas) RC_ASSERT(decoded(delta) == delta);
}

TEST(ServeText, ThePromptIsNotSearchedForStops) {
  TextStream s({"Question:"});
  s.add_prompt("Question: a? Quest");
  EXPECT_FALSE(s.add("ion: b"));
  s.finish();
  EXPECT_EQ(s.take(), "Question: a? Question: b");
}

}  // namespace
