// Shards and their records: who does what, and the files joined afterwards.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "harness/case.h"
#include "harness/fuzz/record_log.h"
#include "harness/fuzz/shard.h"
#include "tests/temporary_folder.h"

namespace moecheck::harness {
namespace {

namespace fs = std::filesystem;

class FuzzRecords : public test::FolderTest {
 protected:
  Merged merge(const std::vector<std::string>& files) const {
    return merge_records(files, path("out.jsonl"));
  }
  std::string refusal(const std::vector<std::string>& files) const {
    try {
      merge(files);
      return "accepted";
    } catch (const UsageError& e) {
      EXPECT_FALSE(fs::exists(path("out.jsonl"))) << "half a file is worse than none";
      return e.what();
    }
  }
};

Record record(int i, Verdict verdict = Verdict::kPass, const std::string& version = "1") {
  Record r;
  r.case_line = "gating seed=" + std::to_string(i);
  r.operator_name = "gating";
  r.implementation = "cpu";
  r.suite = kDrawn;
  r.result.verdict = verdict;
  r.result.headroom = 0.01 * i;
  r.env.version = version;
  r.env.commit = "abc";
  return r;
}

std::string line(const Record& r) { return to_json(r) + "\n"; }

TEST_F(FuzzRecords, MergeJoinsAndDropsDuplicates) {
  const std::string a = write("a", line(record(1)) + line(record(2)) + "\n"),
                    b = write("b", line(record(2)) + line(record(3)));
  const Merged m = merge({a, b});
  EXPECT_EQ(m.lines, 3);
  EXPECT_EQ(m.duplicates, 1);
  EXPECT_TRUE(m.notes.empty());
  EXPECT_EQ(read_records(path("out.jsonl")).size(), 3u);
  EXPECT_NE(m.tally.text().find("cpu, random cases: 0 failures in 3 cases"), std::string::npos)
      << m.tally.text();
  EXPECT_NE(m.tally.text().find("3.0%"), std::string::npos) << "the largest error over its bound\n"
                                                            << m.tally.text();
}

TEST_F(FuzzRecords, TheBoundCountsDrawnCasesThatCouldFail) {
  CampaignTally tally;
  for (int i = 0; i < 60; ++i) tally.add(record(i));
  Record r = record(60);
  for (const std::string_view suite : {kFedBack, kReplayed, std::string_view("quick")}) {
    r.suite = suite;
    tally.add(r);
  }
  tally.add(record(61, Verdict::kSkip));
  tally.add(record(62, Verdict::kMistrusted));
  EXPECT_NE(tally.text().find("0 failures in 60 cases bounds the failure rate by 3/60 = 5%"),
            std::string::npos)
      << tally.text();
  EXPECT_EQ(tally.failures(), 0);
  tally.add(record(63, Verdict::kCrash));
  EXPECT_NE(tally.text().find("1 of 61 cases failed"), std::string::npos) << tally.text();
  EXPECT_EQ(tally.failures(), 1);
}

TEST_F(FuzzRecords, VerdictsThatDisagreeAreBothKept) {
  const Merged m = merge({write("a", line(record(1)) + line(record(1, Verdict::kFail)) + line(record(1)))});
  EXPECT_EQ(m.lines, 2);
  EXPECT_EQ(m.duplicates, 1);
  ASSERT_EQ(m.notes.size(), 1u);
  EXPECT_NE(m.notes[0].find("1 record differ"), std::string::npos) << m.notes[0];
  EXPECT_EQ(m.tally.failures(), 1);
}

TEST_F(FuzzRecords, ATornLastLineIsLeftOutAndSaid) {
  const std::string whole = line(record(1)), torn = line(record(2));
  for (std::size_t cut = 1; cut + 1 < torn.size(); cut += 7) {
    const Merged m = merge({write("torn", whole + torn.substr(0, cut)), write("b", line(record(3)))});
    EXPECT_EQ(m.lines, 2) << cut;
    ASSERT_EQ(m.notes.size(), 1u) << cut;
    EXPECT_NE(m.notes[0].find("torn:2: "), std::string::npos) << m.notes[0];
  }
  const Merged m = merge({write("torn", whole + torn.substr(0, torn.size() - 1))});
  EXPECT_EQ(m.lines, 2) << "only the newline is missing";
  EXPECT_TRUE(m.notes.empty());
}

TEST_F(FuzzRecords, WhatDoesNotBelongTogetherIsRefused) {
  const std::string good = line(record(1));
  EXPECT_NE(refusal({write("a", good + "{\"half\": \n" + good)}).find("a:2: "), std::string::npos);
  EXPECT_NE(refusal({write("a", good), write("b", line(record(2, Verdict::kPass, "2")))})
                .find("b:1: written by moecheck 2"),
            std::string::npos);
  std::string other = good;
  other.replace(other.find("record/1"), 8, "record/2");
  EXPECT_NE(refusal({write("a", good + other)}).find("record/2"), std::string::npos);
  EXPECT_NE(refusal({write("a", good + other.substr(0, other.size() - 1))}).find("record/2"),
            std::string::npos)
      << "another schema is not a torn line";
  EXPECT_NE(refusal({path("missing")}).find("missing"), std::string::npos);
  EXPECT_NE(refusal({folder_.path()}).find("directory"), std::string::npos);
  Record commit = record(2);
  commit.env.commit = "def";
  EXPECT_EQ(merge({write("a", good + line(commit))}).notes.size(), 1u)
      << "two commits are possible, and said";
}

TEST_F(FuzzRecords, ALogAppendsWholeLinesBehindATornOne) {
  write("log", line(record(1)) + "{\"torn");
  {
    RecordLog log(path("log"));
    EXPECT_EQ(log.torn_bytes(), 6);
    log.write(record(2));
    EXPECT_EQ(read_records(path("log")).size(), 2u) << "written at once";
  }
  RecordLog again(path("log"));
  EXPECT_EQ(again.torn_bytes(), 0);
  again.write(record(3));
  EXPECT_EQ(read_records(path("log")).size(), 3u);
  write("long", std::string(10000, 'x'));
  EXPECT_EQ(RecordLog(path("long")).torn_bytes(), 10000);
  EXPECT_THROW(RecordLog(path("no/such/folder")), UsageError);
}

Shard shard_in(const std::map<std::string, std::string>& environment) {
  return shard_of_environment([&](const char* name) {
    const auto it = environment.find(name);
    return it == environment.end() ? nullptr : it->second.c_str();
  });
}

TEST(FuzzShard, ComesFromWhatStartedTheProcess) {
  EXPECT_EQ(shard_in({}).count, 1);
  EXPECT_EQ(shard_in({{"OMPI_COMM_WORLD_RANK", "2"},
                      {"OMPI_COMM_WORLD_SIZE", "4"},
                      {"SLURM_PROCID", "0"},
                      {"SLURM_NTASKS", "1"}})
                .index,
            2);
  EXPECT_EQ(shard_in({{"PMI_RANK", "1"}, {"PMI_SIZE", "3"}}).count, 3);
  EXPECT_EQ(shard_in({{"SLURM_PROCID", "1"}, {"SLURM_NTASKS", "3"}}).index, 1);
  const Shard array = shard_in({{"SLURM_ARRAY_TASK_ID", "7"},
                                {"SLURM_ARRAY_TASK_COUNT", "4"},
                                {"SLURM_ARRAY_TASK_MIN", "5"},
                                {"SLURM_PROCID", "0"}});
  EXPECT_EQ(array.index, 2);
  EXPECT_EQ(array.count, 4);
  EXPECT_EQ(shard_in({{"JOB_COMPLETION_INDEX", "3"}, {"JOB_COMPLETIONS", "5"}}).index, 3);
  EXPECT_THROW(shard_in({{"JOB_COMPLETION_INDEX", "3"}}), UsageError) << "all pods would do the same";
  EXPECT_THROW(shard_in({{"PMI_RANK", "3"}, {"PMI_SIZE", "3"}}), UsageError);
  EXPECT_THROW(
      shard_in(
          {{"SLURM_ARRAY_TASK_ID", "9"}, {"SLURM_ARRAY_TASK_COUNT", "3"}, {"SLURM_ARRAY_TASK_MIN", "1"}}),
      UsageError)
      << "an array with gaps";
}

TEST(FuzzShard, IsWrittenAsIOfN) {
  EXPECT_EQ(parse_shard("3/4").index, 3);
  EXPECT_EQ(parse_shard("0/1").count, 1);
  for (const char* bad : {"", "1", "4/4", "-1/4", "1/0", "a/b", "1/4x", "1/", "/4", "0/0"})
    EXPECT_THROW(parse_shard(bad), UsageError) << bad;
  EXPECT_EQ(path_of_shard("a.b/run.jsonl", {2, 4, ""}), "a.b/run.2-of-4.jsonl");
  EXPECT_EQ(path_of_shard("a.b/run", {2, 4, ""}), "a.b/run.2-of-4");
  EXPECT_EQ(path_of_shard("a/.run", {2, 4, ""}), "a/.run.2-of-4");
  EXPECT_EQ(path_of_shard("run.jsonl", {0, 1, ""}), "run.jsonl");
}

}  // namespace
}  // namespace moecheck::harness
