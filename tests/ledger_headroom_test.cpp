// Headroom kept per commit: a planted worsening is flagged, and nothing else
// is.
#include "harness/ledger/headroom.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "harness/case.h"
#include "harness/operator.h"
#include "harness/runner.h"
#include "tests/temporary_folder.h"

namespace moecheck::harness::ledger {
namespace {

Record record(const std::string& line, Verdict v, std::int64_t failed = 0) {
  Record r = blank_record(parse_case(line), "cpu");
  r.result.verdict = v;
  r.result.elements = 32;
  r.result.failed = failed;
  return r;
}

std::vector<Record> checks(int n, double scale, const char* commit = "aaa") {
  std::vector<Record> records;
  for (int i = 0; i < n; ++i) {
    Record& r = records.emplace_back(record(fmt::format("gating seed={}", i + 1).c_str(), Verdict::kPass));
    r.result.headroom = scale * (i + 1) / n;
    r.result.metrics.max_relative_row = 1e-3 * scale;
    r.env.commit = commit;
  }
  return records;
}

Drift only_drift(const std::vector<Record>& now, const std::vector<Record>& then, DriftRule rule = {}) {
  const auto drifts = compare_headroom(measure_headroom(now), measure_headroom(then), "last", rule);
  EXPECT_EQ(drifts.size(), 1u);
  return drifts.at(0);
}

TEST(HeadroomLedger, MaximumAndNearestRank) {
  std::vector<Record> records = checks(200, 0.5);
  records.push_back(record("gating tokens=9", Verdict::kFail, 1));
  records.back().result.headroom = 7;
  records.push_back(record("gating tokens=10", Verdict::kSkip));
  for (Record& r : records) r.env.commit = "aaa";
  records.push_back(records[0]);  // seen again, worse: the last counts
  records.back().result.headroom = 0.2;
  const auto lines = measure_headroom(records);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0].cases, 200);
  EXPECT_EQ(lines[0].failed, 1);
  EXPECT_EQ(lines[0].max, 0.5);
  EXPECT_EQ(lines[0].q99, 0.495);  // number 198 of 200
  EXPECT_EQ(lines[0].worst, "gating seed=200");
  EXPECT_EQ(lines[0].key.dtype, std::string(parse_case("gating").choice("dtype")));
  EXPECT_EQ(headroom_from_json(to_json(lines[0])), lines[0]);
}

TEST(HeadroomLedger, APlantedWorseningIsFlaggedAndNoOther) {
  const std::vector<Record> then = checks(40, 0.2);
  EXPECT_FALSE(only_drift(checks(40, 0.2, "bbb"), then).drifted());
  EXPECT_FALSE(only_drift(checks(40, 0.29, "bbb"), then).drifted());
  EXPECT_FALSE(only_drift(checks(40, 0.02, "bbb"), then).drifted()) << "better";
  const Drift d = only_drift(checks(40, 0.32, "bbb"), then);
  EXPECT_EQ(d.figures, (std::vector<std::string>{"max", "q99"}));
  const std::string text = drift_text(d);
  EXPECT_NE(text.find("drifted since aaa, 40 cases"), std::string::npos) << text;
  EXPECT_NE(text.find("20.0% to 32.0%, 1.6 times"), std::string::npos) << text;
  EXPECT_NE(text.find("worst now gating seed=40"), std::string::npos) << text;
  EXPECT_FALSE(only_drift(checks(40, 0.32, "bbb"), then, {.threshold = 2}).drifted());
  // Far from the bound there is nothing to worry about; what was exact may move
  // up to there.
  EXPECT_FALSE(only_drift(checks(40, 0.04, "bbb"), checks(40, 0.001)).drifted());
  EXPECT_TRUE(only_drift(checks(40, 0.06, "bbb"), checks(40, 0)).drifted());
}

TEST(HeadroomLedger, ManyCasesThatMoveUnderAnOddOneAreSeen) {
  std::vector<Record> then = checks(200, 0.1), now = checks(200, 0.3, "bbb");
  then[199].result.headroom = now[199].result.headroom = 0.6;
  EXPECT_EQ(only_drift(now, then).figures, std::vector<std::string>{"q99"});
}

TEST(HeadroomLedger, AtTheBoundTheRowErrorIsCompared) {
  std::vector<Record> then = checks(40, 1), now = checks(40, 1, "bbb");
  EXPECT_FALSE(only_drift(now, then).drifted());
  for (Record& r : now) r.result.metrics.max_relative_row *= 2;
  EXPECT_EQ(only_drift(now, then).figures, std::vector<std::string>{"row_error"});
}

TEST(HeadroomLedger, OtherCasesTooFewOrFailingOnesAreNotCompared) {
  const auto why = [](const std::vector<Record>& now, const std::vector<Record>& then) {
    const Drift d = only_drift(now, then);
    EXPECT_FALSE(d.drifted());
    return d.not_compared;
  };
  EXPECT_NE(why(checks(41, 0.9, "bbb"), checks(40, 0.2)).find("40 then, 41 now"), std::string::npos);
  std::vector<Record> same_count = checks(40, 0.9, "bbb");
  same_count[3].case_line = "gating seed=99";
  EXPECT_NE(why(same_count, checks(40, 0.2)).find("other cases"), std::string::npos);
  EXPECT_NE(why(checks(9, 0.9, "bbb"), checks(9, 0.2)).find("fewer than 10"), std::string::npos);
  std::vector<Record> broken = checks(40, 0.9, "bbb");
  broken[0].result.verdict = Verdict::kFail;
  EXPECT_NE(why(broken, checks(40, 0.2)).find("1 case failed"), std::string::npos);
  EXPECT_NE(why(checks(40, 0.9), checks(40, 0.2)).find("no line"), std::string::npos)
      << "a commit is not compared with itself";
}

TEST(HeadroomLedger, CommitsAreFoundByTheBeginningOfTheirNames) {
  const auto now = measure_headroom(checks(40, 0.4, "now"));
  std::vector<Headroom> ledger;
  for (const auto& [commit, scale] : {std::pair("abc1", 0.1), std::pair("abd2", 0.35)})
    for (const Headroom& h : measure_headroom(checks(40, scale, commit))) ledger.push_back(h);
  const auto drifted = [&](const char* against) {
    return compare_headroom(now, ledger, against, {}).at(0).drifted();
  };
  EXPECT_TRUE(drifted("abc"));
  EXPECT_FALSE(drifted("abd2"));
  EXPECT_FALSE(drifted("last"));
  EXPECT_THROW(drifted("ab"), UsageError);
  EXPECT_THROW(drifted("f00"), UsageError);
  EXPECT_THROW(drifted(""), UsageError);
  std::vector<Record> two = checks(3, 0.1, "a");
  two[1].env.commit = "b";
  EXPECT_THROW((void)measure_headroom(two), UsageError);
}

class HeadroomFiles : public test::FolderTest {};

TEST_F(HeadroomFiles, ALedgerKeepsOneLinePerCommitAndGroup) {
  const std::string path = this->path("l.jsonl");
  append_ledger(path, measure_headroom(checks(12, 0.1, "aaa")));
  append_ledger(path, measure_headroom(checks(12, 0.2, "bbb")));
  append_ledger(path, measure_headroom(checks(12, 0.3, "aaa")));
  const auto lines = read_ledger(path);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].commit, "aaa");
  EXPECT_EQ(lines[0].max, 0.3);
  EXPECT_EQ(lines[1].commit, "bbb");
  EXPECT_THROW(append_ledger(path, measure_headroom(checks(12, 0.1, "unknown"))), UsageError);
  EXPECT_THROW(append_ledger(this->path("none/l"), lines), UsageError);
  // A torn line is named and nothing is added to it.
  const std::string whole = to_json(lines[0]);
  const std::string torn = write("torn", whole + "\n" + whole.substr(0, whole.size() / 2));
  try {
    append_ledger(torn, lines);
    FAIL() << "a torn ledger was taken";
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find("torn:2: "), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("damaged or cut off"), std::string::npos) << e.what();
  }
  EXPECT_EQ(std::filesystem::file_size(torn), whole.size() + 1 + whole.size() / 2);
  EXPECT_THROW((void)read_ledger(write("x", "{\"schema\": \"moecheck.record/1\"}\n")), UsageError);
}

}  // namespace
}  // namespace moecheck::harness::ledger
