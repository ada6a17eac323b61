// Python's random numbers, JSON and texts, and SHA-256, against values from CPython and from the standard.
#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <stdexcept>

#include "harness/json.h"
#include "harness/tasks/files.h"
#include "harness/tasks/python_random.h"
#include "harness/tasks/python_text.h"
#include "harness/tasks/sha256.h"
#include "tasks_test_support.h"

namespace moecheck::harness {
namespace {

using Json = nlohmann::ordered_json;

TEST(PythonRandom, draws_are_cpythons) {
  const Json golden = parse_json(read_text(kGolden + "lm_eval_prompts/python_random.json"));
  for (const Json& row : golden["bits"]) {
    PythonRandom random(row["seed"].get<std::uint64_t>());
    for (const Json& bits : row["bits"]) EXPECT_EQ(random.bits(32), bits.get<std::uint32_t>()) << row["seed"];
    int i = 0;
    for (const int k : {1, 5, 13}) EXPECT_EQ(random.bits(k), row["small"][i++].get<std::uint32_t>());
  }
  std::optional<PythonRandom> random;
  std::uint64_t seed = 1;
  int count = 0;
  for (const Json& row : golden["samples"]) {  // one generator per seed, drawn from in turn
    if (!random || row["seed"] != seed) random.emplace(seed = row["seed"].get<std::uint64_t>());
    EXPECT_EQ(random->sample(row["n"].get<std::int32_t>(), row["k"].get<std::int32_t>()),
              row["drawn"].get<std::vector<std::int32_t>>())
        << row;
    ++count;
  }
  EXPECT_GE(count, 30);
  EXPECT_THROW((void)random->sample(3, 4), std::invalid_argument);
}

TEST(PythonRandom, first_draws_of_gsm8k) {
  PythonRandom random(1234);
  EXPECT_EQ(random.sample(7473, 5), (std::vector<std::int32_t>{6374, 3610, 957, 61, 742}));
  EXPECT_EQ(random.sample(7473, 5), (std::vector<std::int32_t>{7462, 6610, 4769, 286, 5501}));
  EXPECT_EQ(random.sample(7473, 5), (std::vector<std::int32_t>{5677, 687, 806, 6279, 2905}));
}

TEST(PythonText, json_is_pythons) {
  const Json j = parse_json(
      R"({"b": [1, 2.0, true, null], "a": "x\"\\\n\u001f\u007f\u00e9\ud83e\udd5a", "e": {}, "l": []})");
  EXPECT_EQ(python_json(j),
            "{\"b\": [1, 2.0, true, null], \"a\": \"x\\\"\\\\\\n\\u001f\x7f\xC3\xA9\xF0\x9F\xA5\x9A\", "
            "\"e\": {}, \"l\": []}");
  EXPECT_EQ(python_json(parse_json("{\"q\": [1, {\"x\": \"y\"}], \"e\": []}"), 2),
            "{\n  \"q\": [\n    1,\n    {\n      \"x\": \"y\"\n    }\n  ],\n  \"e\": []\n}");
}

TEST(PythonText, floats_are_pythons_repr) {
  const std::pair<double, const char*> rows[] = {{0, "0.0"},
                                                 {-0.0, "-0.0"},
                                                 {1, "1.0"},
                                                 {256, "256.0"},
                                                 {0.1, "0.1"},
                                                 {1e-5, "1e-05"},
                                                 {1e-4, "0.0001"},
                                                 {1.5e-7, "1.5e-07"},
                                                 {1e16, "1e+16"},
                                                 {1e15, "1000000000000000.0"},
                                                 {123456.789, "123456.789"},
                                                 {2.0 / 3, "0.6666666666666666"},
                                                 {1.0 / 3 + 5e-17, "0.33333333333333337"},
                                                 {1e22, "1e+22"},
                                                 {-1.25e300, "-1.25e+300"}};
  for (const auto& [value, text] : rows) EXPECT_EQ(python_float(value), text);
  EXPECT_EQ(python_float(NAN), "NaN");
}

TEST(PythonText, broken_json_text_is_mended) {
  EXPECT_EQ(parse_json("{\"a\": \"\\ud83d\"}")["a"].get<std::string>(), "\xEF\xBF\xBD");
  EXPECT_EQ(parse_json("{\"a\": \"\\udd5a x\"}")["a"].get<std::string>(), "\xEF\xBF\xBD x");
  EXPECT_EQ(parse_json("{\"a\": \"\\\\ud83d\"}")["a"].get<std::string>(), "\\ud83d");  // an escaped backslash
  // One sign for one cut character, as Python's decoder does (it was one for each byte).
  EXPECT_EQ(parse_json("{\"a\": \"\xE2\x82\"}")["a"].get<std::string>(), "\xEF\xBF\xBD");
  EXPECT_EQ(parse_json("{\"a\": \"\xED\xA0\x80\"}")["a"].get<std::string>().size(),
            9u);  // a surrogate in UTF-8
  EXPECT_TRUE(parse_json("{\"a\": NaN, \"b\": -Infinity, \"c\": \"NaN\"}")["b"].is_null());
  EXPECT_EQ(parse_json("{\"c\": \"NaN\"}")["c"].get<std::string>(), "NaN");
  EXPECT_THROW((void)parse_json("{"), nlohmann::json::parse_error);
}

TEST(PythonText, mending_touches_nothing_else) {
  const std::string text =
      R"({"-Infinity": [NaN, -1, "\\", "N\"NaN", "\ud83e\udd5a\ud83e", -Infinity, null], "I": "\u00e9"})";
  EXPECT_EQ(
      python_json(parse_json(text)),
      "{\"-Infinity\": [null, -1, \"\\\\\", \"N\\\"NaN\", \"\xF0\x9F\xA5\x9A\xEF\xBF\xBD\", null, null], "
      "\"I\": \"\xC3\xA9\"}");
  EXPECT_THROW((void)parse_json("{\"a\": \"\\"), nlohmann::json::parse_error);
}

// Runs of plain bytes and single escapes, at every place of a string.
TEST(PythonText, strings_are_escaped_wherever_it_is_needed) {
  for (std::size_t n = 0; n < 20; ++n)
    for (std::size_t at = 0; at <= n; ++at) {
      std::string text(n, 'x'), wanted(n, 'x');
      text.insert(at, "\b");
      wanted.insert(at, "\\b");
      EXPECT_EQ(python_json_string(text), "\"" + wanted + "\"");
    }
  EXPECT_EQ(python_json_string(std::string("\0\x1f\f\t\r\"", 6)), "\"\\u0000\\u001f\\f\\t\\r\\\"\"");
}

TEST(PythonText, strip_is_pythons) {
  EXPECT_EQ(python_strip(" \t\n\x1c x y\xC2\xA0\xE3\x80\x80\r"), "x y");
  EXPECT_EQ(python_strip("\xE2\x80\x8B x"), "\xE2\x80\x8B x");  // U+200B is no white space
  EXPECT_EQ(python_strip(" \n"), "");
  EXPECT_EQ(python_strip("x\x80\x80"), "x\x80\x80");
}

TEST(Sha256Test, published_vectors) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256_hex(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  for (const std::size_t n : {55u, 56u, 63u, 64u, 65u, 119u, 120u}) {  // padding, and pieces
    Sha256 pieces;
    const std::string text(n, 'x');
    for (const char c : text) pieces.add(std::string_view(&c, 1));
    EXPECT_EQ(pieces.hex(), sha256_hex(text)) << n;
  }
}

}  // namespace
}  // namespace moecheck::harness
