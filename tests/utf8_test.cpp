// UTF-8, whole and as it comes: what is valid, and how many signs stand for what is not.
#include "harness/utf8.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <vector>

namespace moecheck::harness {
namespace {

const std::string kSign = "\xEF\xBF\xBD";

std::string decoded(const std::vector<std::string>& pieces) {
  Utf8Decoder d;
  std::string text;
  for (const std::string& piece : pieces) d.add(piece, text);
  d.finish(text);
  return text;
}

// From Python 3.11: bytes.decode("utf-8", errors="replace").
TEST(Utf8, InvalidBytesBecomeAsManySignsAsInPython) {
  const std::pair<std::string, std::string> rows[] = {
      {"a\xFFz", "a" + kSign + "z"},
      {"\xE2\x82", kSign},
      {"\xE2\x82z", kSign + "z"},
      {"\xED\xA0\x80", kSign + kSign + kSign},
      {"\xC0\x80", kSign + kSign},
      {"\xF4\x90\x80\x80", kSign + kSign + kSign + kSign},
      {"\xF0\x9F\x99", kSign},
      {"\xE0\x80", kSign + kSign},
      {"\x80", kSign},
      {"\xF0\x9F\x99\xF0\x9F\x99\x82", kSign + "\xF0\x9F\x99\x82"},
  };
  for (const auto& [bytes, text] : rows) {
    EXPECT_EQ(valid_utf8(bytes), text);
    EXPECT_EQ(decoded({bytes}), text);
    std::vector<std::string> single;
    for (const char c : bytes) single.emplace_back(1, c);
    EXPECT_EQ(decoded(single), text);
  }
}

TEST(Utf8, EveryCodePointIsItself) {
  const auto bytes_of = [](char32_t c) {
    std::string s;
    const auto put = [&s](char32_t b) { s += static_cast<char>(static_cast<unsigned char>(b)); };
    if (c < 0x80) return put(c), s;
    if (c < 0x800) return put(0xC0 | c >> 6), put(0x80 | (c & 0x3F)), s;
    if (c < 0x10000) return put(0xE0 | c >> 12), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F)), s;
    put(0xF0 | c >> 18), put(0x80 | (c >> 12 & 0x3F)), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
    return s;
  };
  for (char32_t c = 0; c < 0x110800; ++c) {
    const std::string bytes = bytes_of(c);
    const bool good = c < 0xD800 || (c > 0xDFFF && c <= 0x10FFFF);
    const CodePoint got = code_point(bytes);
    ASSERT_EQ(got.valid, good) << static_cast<unsigned>(c);
    ASSERT_EQ(got.value, good ? c : 0xFFFD);
    ASSERT_EQ(got.length, good ? bytes.size() : 1);
    ASSERT_EQ(utf8_prefix(bytes), good ? bytes.size() : 0);
  }
  EXPECT_FALSE(code_point("\xC1\x81").valid);          // overlong "A"
  EXPECT_FALSE(code_point("\xE0\x9F\xBF").valid);      // overlong U+7FF
  EXPECT_FALSE(code_point("\xF0\x8F\xBF\xBF").valid);  // overlong U+FFFF
}

// Eight bytes are looked at together: a bad one anywhere among them, before, in and behind them is found.
TEST(Utf8, ABadByteIsFoundWhereverItStands) {
  for (std::size_t n = 0; n < 40; ++n) {
    EXPECT_EQ(utf8_prefix(std::string(n, 'x')), n);
    for (std::size_t at = 0; at <= n; ++at) {
      std::string bad(n, 'x'), good(n, 'x'), wanted(n, 'x');
      bad.insert(at, "\x80");
      wanted.insert(at, kSign);
      good.insert(at, "\xC3\xA9");
      EXPECT_EQ(utf8_prefix(bad), at);
      EXPECT_EQ(valid_utf8(bad), wanted);
      EXPECT_EQ(utf8_prefix(good), n + 2);
      EXPECT_EQ(valid_utf8(good), good);
    }
  }
}

RC_GTEST_PROP(Utf8, HoweverItIsCutTheTextIsTheSame, ()) {
  std::vector<std::string> pieces;
  std::string bytes;
  for (int i = *rc::gen::inRange(0, 30); i > 0; --i) {
    const std::string next =
        *rc::gen::element<std::string>("plain ascii", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x99\x82",
                                       "\xE2\x82", "\xFF", "\xED\xA0\x80", "\xF0\x9F", "\x80");
    bytes += next;
  }
  for (std::size_t at = 0; at < bytes.size();) {
    const auto n = static_cast<std::size_t>(*rc::gen::inRange(1, 13));
    pieces.push_back(bytes.substr(at, n));
    at += n;
  }
  const std::string text = valid_utf8(bytes);
  RC_ASSERT(decoded(pieces) == text);
  RC_ASSERT(utf8_prefix(text) == text.size());
  RC_ASSERT(valid_utf8(text) == text);
}

}  // namespace
}  // namespace moecheck::harness
