// What users read when their data is no JSON: file, line, column and what is wrong, not the library's names.
#include "harness/json_error.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "harness/case.h"
#include "harness/json.h"
#include "harness/tasks/files.h"

namespace moecheck::harness {
namespace {

template <class Work>
std::string words_of(Work work, std::size_t line) {
  try {
    work();
  } catch (const std::exception& e) {
    return json_error_at("a.json", line, e);
  }
  return "nothing was thrown";
}

std::string parsed(const char* text, std::size_t line) {
  return words_of([&] { (void)nlohmann::json::parse(text).size(); }, line);
}

TEST(JsonError, SaysWhereAndWhat) {
  EXPECT_EQ(parsed("{", 7),
            "a.json:7: not JSON: unexpected end of input; expected string literal (column 2)");
  EXPECT_TRUE(parsed("{\"a\": tru}", 1).starts_with("a.json:1: not JSON: invalid literal; last read: "))
      << parsed("{\"a\": tru}", 1);
  // In a text of several lines the place is that line's.
  EXPECT_TRUE(parsed("{\n \"a\": 1,\n}", 1).starts_with("a.json:3: not JSON: unexpected '}'"))
      << parsed("{\n \"a\": 1,\n}", 1);
  EXPECT_TRUE(parsed("{\n \"a\": 1,\n}", 0).starts_with("a.json:3: not JSON: "));
  EXPECT_TRUE(parsed("", 0).starts_with("a.json:1: not JSON: "));
  EXPECT_EQ(parsed("[1e999]", 1).find("json.exception"), std::string::npos);
}

TEST(JsonError, WhatIsMissingIsSaidInItsOwnWords) {
  const nlohmann::json j = {{"a", "text"}};
  const auto missing = [&] { (void)j.at("doc_id").size(); };
  EXPECT_EQ(words_of(missing, 3), "a.json:3: key 'doc_id' not found");
  EXPECT_EQ(words_of(missing, 0), "a.json: key 'doc_id' not found");
  EXPECT_EQ(words_of([&] { (void)j.at("a").get<int>(); }, 3), "a.json:3: type must be number, but is string");
  EXPECT_EQ(words_of([] { throw UsageError("mine"); }, 3), "a.json:3: mine");
}

TEST(JsonError, TheRemedyStandsBehindTextThatIsNoJson) {
  const auto why = [](const char* text) -> std::string {
    try {
      each_line(
          "rows.jsonl", text,
          [](std::string_view line, std::size_t) { (void)nlohmann::json::parse(line).at("x").size(); },
          "one row a line");
    } catch (const UsageError& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(why("{\"x\": 1}\n\n{\"x\" 2}\n"),
            "rows.jsonl:3: not JSON: unexpected number literal; expected ':' (column 6); one row a line");
  EXPECT_EQ(why("{\"x\": 1}\n{}\n"), "rows.jsonl:2: key 'x' not found");
}

}  // namespace
}  // namespace moecheck::harness
