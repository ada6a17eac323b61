#include "harness/junit.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "harness/case.h"
#include "harness/verdict_text.h"
#include "tests/synthetic_records.h"
#include "tests/xml_check.h"

namespace moecheck::harness {
namespace {

std::int64_t occurrences(std::string_view text, std::string_view word) {
  std::int64_t n = 0;
  for (std::size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + word.size()))
    ++n;
  return n;
}

TEST(Junit, HoldsEveryRecordOnceWithItsOutcome) {
  const auto records = synthetic_campaign(12);
  const std::string xml = junit_xml(records);
  EXPECT_EQ(xml_fault(xml), "");
  std::int64_t failures = 0, errors = 0, skipped = 0;
  for (const Record& r : records) {
    const Verdict v = r.result.verdict;
    const bool died = v == Verdict::kCrash || v == Verdict::kTimeout;
    errors += died;
    failures += is_failure(v) && !died;
    skipped += v == Verdict::kSkip || v == Verdict::kWaived;
  }
  ASSERT_GT(errors, 0);
  EXPECT_EQ(occurrences(xml, "<testcase "), std::ssize(records));
  EXPECT_EQ(occurrences(xml, "<failure "), failures);
  EXPECT_EQ(occurrences(xml, "<error "), errors);
  EXPECT_EQ(occurrences(xml, "<skipped "), skipped);
  EXPECT_NE(xml.find(fmt::format(
                "<testsuites name=\"moecheck\" tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\"",
                records.size(), failures, errors, skipped)),
            std::string::npos);
  EXPECT_NE(xml.find("<testsuite name=\"gating.cpu-scalar\""), std::string::npos);
  EXPECT_NE(xml.find("<property name=\"commit\" value=\"4f1c2d9a77be\"/>"), std::string::npos);
}

TEST(Junit, AFailureHoldsTheConsoleText) {
  const Record r = synthetic_failure();
  const std::string xml = junit_xml({&r, 1});
  EXPECT_NE(xml.find("<failure type=\"FAIL\" message=\"output is wrong beyond its proven bound\">" +
                     verdict_text(r) + "</failure>"),
            std::string::npos)
      << xml;
  EXPECT_NE(
      xml.find("<testcase classname=\"routed_scaling.cpu!scale_shared_slot\" name=\"" + r.case_line + "\""),
      std::string::npos)
      << xml;
}

TEST(Junit, AnyBytesGiveWellFormedXml) {
  std::string every;
  for (int c = 0; c < 256; ++c) every += static_cast<char>(c);
  every += "]]> <!-- --> &amp; </failure> \xef\xbf\xbf \xed\xa0\x80";
  for (int v = 0; v <= static_cast<int>(Verdict::kWaived); ++v) {
    Record r = synthetic_failure();
    r.case_line = r.operator_name = r.implementation = r.shrunk = every;
    r.result.verdict = static_cast<Verdict>(v);
    r.result.reason = r.result.cause = r.result.worst->output = r.result.worst->note = every;
    r.result.clauses = {{every, Verdict::kFail, every}};
    r.env = {every, every, every, every, every, every, every, 1};
    EXPECT_EQ(xml_fault(junit_xml({&r, 1})), "");
  }
  EXPECT_EQ(xml_fault(junit_xml({})), "");
}

TEST(Junit, EveryVerdictIsCountedWhereItBelongs) {
  const auto counts = [](Verdict v) {
    Record r = synthetic_failure();
    r.result.verdict = v;
    const std::string xml = junit_xml({&r, 1});
    const std::size_t at = xml.find("failures=");
    return xml.substr(at, xml.find(" time=", at) - at);
  };
  const char *passed = "failures=\"0\" errors=\"0\" skipped=\"0\"",
             *failed = "failures=\"1\" errors=\"0\" skipped=\"0\"",
             *error = "failures=\"0\" errors=\"1\" skipped=\"0\"",
             *skipped = "failures=\"0\" errors=\"0\" skipped=\"1\"";
  for (const Verdict v : {Verdict::kPass, Verdict::kUndecided}) EXPECT_EQ(counts(v), passed) << name(v);
  for (const Verdict v : {Verdict::kFail, Verdict::kSuspect, Verdict::kMistrusted, Verdict::kOracle})
    EXPECT_EQ(counts(v), failed) << name(v);
  for (const Verdict v : {Verdict::kCrash, Verdict::kTimeout}) EXPECT_EQ(counts(v), error) << name(v);
  for (const Verdict v : {Verdict::kSkip, Verdict::kWaived}) EXPECT_EQ(counts(v), skipped) << name(v);
}

TEST(Junit, TheCheckerOfTheseTestsFindsFaults) {
  EXPECT_NE(xml_fault("<a>"), "");
  EXPECT_NE(xml_fault("<a></b>"), "");
  EXPECT_NE(xml_fault("<a x=\"<\"/>"), "");
  EXPECT_NE(xml_fault("<a>&nbsp;</a>"), "");
  EXPECT_NE(xml_fault("<a>\x01</a>"), "");
  EXPECT_NE(xml_fault("<a>\xff</a>"), "");
  EXPECT_NE(xml_fault("<a x=1/>"), "");
  EXPECT_EQ(xml_fault("<?xml version=\"1.0\"?>\n<a x=\"1\"><b/>&lt;</a>"), "");
}

TEST(Junit, IsWrittenWholeOrNotAtAll) {
  const std::string path =
      (std::filesystem::temp_directory_path() / fmt::format("moecheck_junit_{}.xml", ::getpid())).string();
  const auto records = synthetic_campaign(1);
  write_junit(path, records);
  std::ifstream in(path);
  EXPECT_EQ(std::string((std::istreambuf_iterator<char>(in)), {}), junit_xml(records));
  std::filesystem::remove(path);
  EXPECT_THROW(write_junit(path + "/none/x.xml", records), UsageError);
}

}  // namespace
}  // namespace moecheck::harness
