#include "harness/json.h"
#include "harness/record.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <limits>

#include "harness/atomic_file.h"
#include "harness/case.h"

namespace moecheck::harness {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

Record full_record() {
  Record r;
  r.case_line = "gating model=glm-4.7 policy=vllm_cuda tokens=4 seed=18446744073709551615";
  r.operator_name = "gating";
  r.implementation = "cpu!drop_last_slot";
  r.model = "glm-4.7";
  r.policy = "vllm_cuda";
  r.tier = "realistic";
  r.suite = "quick";
  r.seconds = 0.1;
  r.run_seconds = 1e-300;
  r.shrunk = "gating tokens=1";
  r.env = {"0.1.0", "abc", "GNU 12", "Release", "A CPU", "An OS", "NVIDIA H100", 16};
  Judgement& j = r.result;
  j.verdict = Verdict::kFail;
  j.reason = "37 of 32 elements \"differ\"\n\u00fc";
  j.cause = "the last slot is dropped";
  j.elements = std::numeric_limits<std::int64_t>::max();
  j.failed = 37;
  j.suspect = 2;
  j.undecided = 5;
  j.headroom = kInf;
  j.worst = Element{"topk_weights", {3, 7}, 0.1, -0.0, 5e-324, -kInf, kInf, 0, kInf, "id 7 instead of 3"};
  j.metrics = {0.5, 0.25, 1e-9, 1.0 / 3.0, -0.125};
  j.clauses = {{"determinism", Verdict::kSkip, "not promised: atomics"},
               {"guards", Verdict::kPass, ""},
               {"token_permutation", Verdict::kFail, "token 3"}};
  return r;
}

std::string refusal(std::string_view line) {
  try {
    record_from_json(line);
  } catch (const UsageError& e) {
    return e.what();
  }
  return "accepted";
}

std::string with(const char* key, nlohmann::json value) {
  auto j = nlohmann::json::parse(to_json(full_record()));
  j[key] = std::move(value);
  return j.dump();
}

TEST(Record, WhatIsWrittenIsRead) {
  const std::string line = to_json(full_record());
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_TRUE(line.starts_with(R"({"schema":"moecheck.record/1","case":"gating model=glm-4.7)")) << line;
  const Record r = record_from_json(line);
  EXPECT_EQ(to_json(r), line);  // every field is written, so equal lines are equal records
  const Record want = full_record();
  EXPECT_EQ(r.case_line, want.case_line);
  EXPECT_EQ(r.result.reason, want.result.reason);
  EXPECT_EQ(r.result.elements, want.result.elements);
  EXPECT_EQ(r.result.headroom, kInf);
  ASSERT_TRUE(r.result.worst);
  EXPECT_EQ(r.result.worst->index, want.result.worst->index);
  EXPECT_EQ(r.result.worst->expected, 0.1);
  EXPECT_TRUE(std::signbit(r.result.worst->low));
  EXPECT_EQ(r.result.worst->high, 5e-324);
  EXPECT_EQ(r.result.worst->got, -kInf);
  EXPECT_EQ(r.result.metrics.calc_diff, 1.0 / 3.0);
  ASSERT_EQ(r.result.clauses.size(), 3u);
  EXPECT_EQ(r.result.clauses[0].detail, "not promised: atomics");
  EXPECT_EQ(r.result.clauses[2].verdict, Verdict::kFail);
  EXPECT_EQ(r.env.device, "NVIDIA H100");
  EXPECT_EQ(r.env.threads, 16);
}

TEST(Record, EveryVerdictIsWrittenAndRead) {
  for (int v = 0; v <= static_cast<int>(Verdict::kWaived); ++v) {
    Record r;
    r.result.verdict = static_cast<Verdict>(v);
    EXPECT_EQ(record_from_json(to_json(r)).result.verdict, r.result.verdict);
  }
}

TEST(Record, NotANumberIsWrittenAsText) {
  Record r = full_record();
  r.result.headroom = std::nan("");
  EXPECT_NE(to_json(r).find(R"("headroom":"nan")"), std::string::npos);
  EXPECT_TRUE(std::isnan(record_from_json(to_json(r)).result.headroom));
}

TEST(Record, AnyBytesInAMessageGiveALine) {
  Record r = full_record();
  r.result.reason = "died: \xff\xc3(\x01 \xed\xa0\x80";
  EXPECT_EQ(refusal(to_json(r)), "accepted");
}

TEST(Record, UnknownKeysAreIgnoredAndMissingOnesDefault) {
  EXPECT_EQ(refusal(with("future", {{"deep", {1, 2}}})), "accepted");
  const Record r = record_from_json(
      R"({"schema":"moecheck.record/1","case":"c","operator":"o","implementation":"i","verdict":"PASS"})");
  EXPECT_EQ(r.case_line, "c");
  EXPECT_FALSE(r.result.worst);
  EXPECT_EQ(r.result.metrics.cosine, 1);
}

TEST(Record, WrongLinesAreRefusedByName) {
  const auto expect = [](const std::string& line, std::string_view words) {
    EXPECT_NE(refusal(line).find(words), std::string::npos) << refusal(line) << "\nlacks " << words;
  };
  expect("", "not JSON");
  expect("[1]", "not a JSON object");
  expect("{}", "schema is \"\"");
  expect(to_json(full_record()).substr(0, 100), "not JSON");
  expect(to_json(full_record()) + "{}", "not JSON");
  expect(std::string(1'000'000, '['), "not JSON");
  expect("{\"a\":" + std::string(1'000'000, '[') + std::string(1'000'000, ']') + "}", "schema is \"\"");
  expect(with("schema", "moecheck.record/2"), "this moecheck reads moecheck.record/1");
  expect(R"({"schema":"moecheck.record/1","case":"c","operator":"o","implementation":"i"})",
         "\"verdict\" is missing");
  expect(with("verdict", "GOOD"), "\"verdict\" is \"GOOD\"; it must be a verdict (PASS, FAIL");
  expect(with("verdict", nullptr), "\"verdict\" is null");
  expect(with("case", 3), "\"case\" is 3; it must be a string");
  expect(with("elements", 1.5), "\"elements\" is 1.5; it must be a whole number");
  expect(with("elements", 1ull << 63), "\"elements\" is 9223372036854775808");
  expect(with("headroom", "big"), "\"headroom\" is \"big\"; it must be a number");
  expect(with("worst", 1), "\"worst\" is 1; it must be an object");
  expect(with("worst", {{"index", {"a"}}}), "\"index\" is \"a\"");
  expect(with("clauses", {{"a", 1}}), "\"clauses\" is an object; it must be an array");
  expect(with("clauses", {1}), "\"clauses\" is 1");
  expect(with("env", {{"threads", 1ll << 40}}), "\"threads\" is 1099511627776");
}

TEST(Record, FilesAreReadLineByLine) {
  const std::string path =
      (std::filesystem::temp_directory_path() / fmt::format("moecheck_records_{}.jsonl", ::getpid()))
          .string();
  const std::string line = to_json(full_record());
  write_file(path, line + "\r\n\n" + line);
  EXPECT_EQ(read_records(path).size(), 2u);
  write_file(path, "");
  EXPECT_EQ(read_records(path).size(), 0u);
  write_file(path, line + "\n\n{\"schema\":1}\n");
  try {
    read_records(path);
    ADD_FAILURE() << "a bad line was read";
  } catch (const UsageError& e) {
    EXPECT_EQ(std::string(e.what()), path + ":3: \"schema\" is 1; it must be a string");
  }
  std::filesystem::remove(path);
  EXPECT_THROW(read_records(path), UsageError);
  EXPECT_THROW(read_records(std::filesystem::temp_directory_path().string()), UsageError);
}

TEST(Record, TheEnvironmentNamesTheBuildAndTheMachine) {
  const Environment& e = environment();
  EXPECT_FALSE(e.version.empty());
  EXPECT_FALSE(e.commit.empty());
  EXPECT_FALSE(e.compiler.empty());
  EXPECT_EQ(&e, &environment());
  EXPECT_EQ(e.os.empty(), !std::filesystem::exists("/etc/os-release"));
}

}  // namespace
}  // namespace moecheck::harness
