// The scanner against nlohmann's parser: the same texts taken, the same told, over texts that are nearly JSON.
#include "harness/http/json_scan.h"

#include <gtest/gtest.h>

#include "harness/json.h"
#include "harness/random.h"

namespace moecheck::harness::http {
namespace {

using nlohmann::ordered_json;

// All that is told, as a text.
struct Written final : JsonEvents {
  bool null() override { return add("n"); }
  bool boolean(bool v) override { return add(v ? "t" : "f"); }
  bool number(double v, std::int64_t i) override {
    return add("#" + std::to_string(v) + (i != -1 ? "/" + std::to_string(i) : ""));
  }
  bool string(std::string_view v) override { return add("'" + std::string(v) + "'"); }
  bool key(std::string_view v) override { return add("k" + std::string(v) + ":"); }
  bool open(bool list) override { return add(list ? "[" : "{"); }
  bool close() override { return add("."); }
  bool add(const std::string& s) {
    all += s + " ";
    return true;
  }
  std::string all;
};

struct Theirs {  // nlohmann's events, told to the same
  Written out;
  bool null() { return out.null(); }
  bool boolean(bool v) { return out.boolean(v); }
  bool number_integer(std::int64_t v) { return out.number(static_cast<double>(v), v); }
  bool number_unsigned(std::uint64_t v) {
    return out.number(static_cast<double>(v), v > INT64_MAX ? -1 : static_cast<std::int64_t>(v));
  }
  bool number_float(double v, const std::string&) { return out.number(v, -1); }
  bool string(std::string& v) { return out.string(v); }
  bool binary(std::vector<std::uint8_t>&) { return false; }
  bool start_object(std::size_t) { return out.open(false); }
  bool key(std::string& v) { return out.key(v); }
  bool end_object() { return out.close(); }
  bool start_array(std::size_t) { return out.open(true); }
  bool end_array() { return out.close(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) { return false; }
};

bool expect_same(const std::string& text) {
  Written mine;
  Theirs theirs;
  const bool taken = scan_json(text, mine);
  EXPECT_EQ(taken, ordered_json::sax_parse(text, &theirs)) << text;
  if (taken) {
    EXPECT_EQ(mine.all, theirs.out.all) << text;
  }
  return taken;
}

TEST(JsonScan, TakesWhatIsJson) {
  for (const char* text : {"{}",
                           "[]",
                           " [ ] ",
                           "null",
                           "true",
                           "false",
                           "0",
                           "-0",
                           "-1.5e+3",
                           "1E2",
                           "0.0",
                           "9223372036854775807",
                           "9223372036854775808",
                           "18446744073709551616",
                           "-9223372036854775809",
                           "1e-999",
                           "\"\"",
                           "\"\\u00e9\\n\\/\"",
                           "\"\\ud83d\\ude42\"",
                           "\"\xF0\x9F\x99\x82\xC3\xA9\xE2\x82\xAC\"",
                           "{\"a\":[1,{\"b\":null},[]],\"a\":2}",
                           "\xEF\xBB\xBF[1]",
                           "\"\x7F\"",
                           "[[[[1],2],3],4]",
                           "{\"\":\"\"}",
                           "\t\r\n1 \n"})
    EXPECT_TRUE(expect_same(text)) << text;
}

TEST(JsonScan, RefusesWhatIsNot) {
  for (const char* text : {"",
                           " ",
                           "{",
                           "[",
                           "{]",
                           "[}",
                           "[1,]",
                           "[,1]",
                           "{\"a\"}",
                           "{\"a\":}",
                           "{\"a\":1,}",
                           "{1:2}",
                           "{a:1}",
                           "01",
                           "-",
                           "1.",
                           ".5",
                           "1e",
                           "1e+",
                           "+1",
                           "1e999",
                           "-1e999",
                           "nul",
                           "True",
                           "nan",
                           "Infinity",
                           "'a'",
                           "\"",
                           "\"\\\"",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\\u12g4\"",
                           "\"\\u-123\"",
                           "\"\\ud83d\"",
                           "\"\\ud83dx\"",
                           "\"\\ud83d\\u0041\"",
                           "\"\\ude42\"",
                           "\"\n\"",
                           "\"\t\"",
                           "\"\x80\"",
                           "\"\xC0\xAF\"",
                           "\"\xED\xA0\x80\"",
                           "\"\xF4\x90\x80\x80\"",
                           "\"\xE2\x82\"",
                           "\"\xE2\x82",
                           "1 2",
                           "{} []",
                           "[1 2]",
                           "{\"a\" 1}",
                           "{\"a\":1 \"b\":2}",
                           "/**/1",
                           "\xEF\xBB",
                           "\xEF\xBB\xBF",
                           "]",
                           "}",
                           ",",
                           ":"})
    EXPECT_FALSE(expect_same(text)) << text;
  const std::string zero("\"\0\"", 3);
  EXPECT_FALSE(expect_same(zero));
}

TEST(JsonScan, DepthHasAnEnd) {
  const auto nested = [](std::size_t n) { return std::string(n, '[') + std::string(n, ']'); };
  Written w;
  EXPECT_TRUE(scan_json(nested(kDeepestJson), w));
  EXPECT_FALSE(scan_json(nested(kDeepestJson + 1), w));
  EXPECT_FALSE(scan_json(std::string(1 << 20, '['), w));
}

TEST(JsonScan, WritesStringsAsTheOtherDoes) {
  for (std::uint64_t round = 0; round < 5000; ++round) {
    const Random random(round, "strings");
    constexpr std::string_view kPieces[] = {"a",
                                            "\"",
                                            "\\",
                                            "\n",
                                            "\x01",
                                            "\x1F",
                                            "\x7F",
                                            "/",
                                            "\xC3\xA9",
                                            "\xE2\x82\xAC",
                                            "\xF0\x9F\x99\x82",
                                            " question",
                                            "\b\f\r\t",
                                            "\xE2\x82",
                                            "\xFF"};
    const std::size_t kinds = std::size(kPieces) - (round % 8 == 0 ? 0 : 2);  // the last two are no UTF-8
    std::string text;
    for (std::uint64_t i = 0; i < round % 12; ++i)
      text += kPieces[static_cast<std::size_t>(random.integer(i, 0, static_cast<std::int64_t>(kinds) - 1))];
    std::string mine = "x", theirs = "x";
    bool valid = true;
    try {
      theirs += nlohmann::json(text).dump();
    } catch (const nlohmann::json::exception&) {
      valid = false;
    }
    ASSERT_EQ(append_json(mine, text), valid);
    if (valid) {
      ASSERT_EQ(mine, theirs);
    }
  }
}

// Events as servers send them, cut, swapped and with bytes changed.
TEST(JsonScan, AgreesOnDamagedEvents) {
  const std::string events[] = {
      R"({"id":"cmpl-1","object":"text_completion","created":1763800000,"model":"tiny","choices":[{"index":0,"text":" \u20ac \ud83d\ude42\n","logprobs":{"tokens":["a"],"token_logprobs":[-0.25,null],"top_logprobs":[{"a":-2.5e-1}]},"finish_reason":null}],"usage":null})",
      "{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\xE2\x82\xAC\xF0\x9F\x99\x82\"},"
      "\"token_ids\":[1,2,-3]}],"
      "\"usage\":{\"prompt_tokens\":12,\"prompt_tokens_details\":{\"cached_tokens\":0}}}",
      "[[],{},[{}],\"\\\\\\\"\\/\\b\\f\\n\\r\\t\",1.0,-0.0,1e5,true,false,null]"};
  const std::string alphabet = "{}[]\",:\\/ \n\t0123456789.eE+-utrfalsn\x01\x7F\x80\xBF\xC3\xE2\xED\xF0\xF4";
  int taken = 0;
  for (std::uint64_t round = 0; round < 20000; ++round) {
    const Random random(round, "json");
    std::string text = events[round % std::size(events)];
    const auto place = [&](std::uint64_t i) {
      return static_cast<std::size_t>(random.integer(i, 0, static_cast<std::int64_t>(text.size()) - 1));
    };
    for (std::uint64_t edit = 0; edit < 1 + round % 3; ++edit) {
      if (text.size() < 2) break;
      const std::size_t at = place(10 * edit);
      const char c = alphabet[static_cast<std::size_t>(
          random.integer(10 * edit + 1, 0, static_cast<std::int64_t>(alphabet.size()) - 1))];
      switch (random.integer(10 * edit + 2, 0, 4)) {
        case 0:
          text[at] = c;
          break;
        case 1:
          text.insert(at, 1, c);
          break;
        case 2:
          text.erase(at, 1);
          break;
        case 3:
          std::swap(text[at], text[place(10 * edit + 3)]);
          break;
        default:
          text.resize(at);
      }
    }
    taken += expect_same(text) ? 1 : 0;
    if (HasFailure()) return;
  }
  EXPECT_GT(taken, 1000);
}

}  // namespace
}  // namespace moecheck::harness::http
