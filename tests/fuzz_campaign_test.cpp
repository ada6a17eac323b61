// Fuzzing campaigns: the same cases for any number of jobs and shards, causes told once, nothing reported is lost.
#include "harness/fuzz/campaign.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "altered_implementation.h"
#include "harness/fuzz/case_source.h"
#include "harness/fuzz/tally.h"
#include "tests/temporary_folder.h"

namespace moecheck::harness {
namespace {

namespace fs = std::filesystem;

class FuzzCampaign : public test::FolderTest {
 protected:
  std::set<std::string> files(const std::string& folder) const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(path(folder)))
      names.insert(entry.path().filename().string());
    return names;
  }
};

constexpr int kCases = 200;  // of two operators: one island of each, and more than half of the next

FuzzOptions small_campaign(std::initializer_list<const char*> ops, std::initializer_list<const char*> impls) {
  FuzzOptions o;
  for (const char* op : ops) o.operators.push_back(find_operator(op));
  for (const char* impl : impls) o.implementations.push_back(find_implementation(impl));
  o.check = {false, false, 1};
  o.shrink = false;
  o.seed = 5;
  o.cases = kCases;
  return o;
}

struct Seen {
  std::multiset<std::string> records;  // case, implementation, suite, verdict
  std::set<std::string> causes;
  std::map<std::string, int> suites;
  int failures = 0;

  void add(FuzzOptions o) {
    o.on_record = [this](const Record& r) {
      records.insert(r.case_line + " | " + r.implementation + " | " + r.suite + " | " +
                     std::string(name(r.result.verdict)));
      ++suites[r.suite];
      failures += is_finding(r);
    };
    for (const FuzzFinding& f : run_fuzz(o)) causes.insert(f.cause.key());
  }
};

TEST_F(FuzzCampaign, JobsAndShardsDoNotMatter) {
  FuzzOptions o = small_campaign({"moe_align", "routed_scaling"},
                                 {"cpu", "cpu!align_counts_minus_one", "cpu!combine_drops_last_slot"});
  Seen one;
  one.add(o);
  EXPECT_EQ(one.records.size(), 3u * kCases);
  EXPECT_GT(one.failures, 10);
  EXPECT_GE(one.causes.size(), 2u);
  EXPECT_EQ(one.suites[std::string(kDrawn)] + one.suites[std::string(kFedBack)], 3 * kCases);
  EXPECT_GT(one.suites[std::string(kFedBack)], 0)
      << "no case came near enough to its bound to be changed further";
  for (const int jobs : {2, 3}) {
    o.jobs = jobs;
    Seen other;
    other.add(o);
    EXPECT_EQ(other.records, one.records) << jobs << " jobs";
    EXPECT_EQ(other.causes, one.causes);
  }
  Seen shards;
  for (const int i : {0, 1}) {
    o.shard = {i, 2, "--shard"};
    shards.add(o);
    EXPECT_LT(shards.records.size(), i == 0 ? one.records.size() : one.records.size() + 1);
  }
  EXPECT_EQ(shards.records, one.records);
  EXPECT_EQ(shards.causes, one.causes);
  o.shard = {};
  o.seed = 6;
  Seen another;
  another.add(o);
  EXPECT_NE(another.records, one.records) << "the seed is not used";
}

TEST_F(FuzzCampaign, DrawnCasesCanRunAndComeBackFromTheirLine) {
  for (const Operator* op : operators()) {
    const CaseSource source(*op);
    std::set<std::string> different;
    Case parent(op->schema());
    for (int i = 0; i < 60; ++i) {
      RandomChoices choices(3, std::to_string(i));
      const Case c = i % 2 == 0 ? source.draw(choices) : source.changed(parent, choices);
      EXPECT_EQ(op->refusal(c), std::nullopt) << c.str();
      EXPECT_TRUE(source.fits(c)) << c.str();
      EXPECT_EQ(parse_case(c.str()), c) << c.str();
      different.insert(c.str());
      parent = c;
    }
    EXPECT_GT(different.size(), 50u) << op->name();
  }
}

TEST_F(FuzzCampaign, BytesAreChoicesToo) {
  const CaseSource source(*find_operator("experts"));
  std::vector<std::uint8_t> bytes(200);
  std::set<std::string> different;
  for (std::size_t i = 0; i < 50; ++i) {
    for (std::size_t j = 0; j < bytes.size(); ++j)
      bytes[j] = static_cast<std::uint8_t>(Random(i, "bytes").bits(j));
    ByteChoices choices(bytes);
    const Case c = source.draw(choices);
    EXPECT_TRUE(source.fits(c)) << c.str();
    different.insert(c.str());
  }
  EXPECT_GT(different.size(), 45u);
  ByteChoices none({});
  EXPECT_TRUE(source.fits(source.draw(none)));
  const std::uint8_t two[] = {1, 2};
  ByteChoices choices(two);
  EXPECT_EQ(choices.below(1), 0u) << "nothing to choose takes no byte";
  EXPECT_EQ(choices.below(1000), 0x0102u);
}

TEST_F(FuzzCampaign, ACauseIsOneFileHoweverManyCasesShowIt) {
  FuzzOptions o = small_campaign({"routed_scaling"}, {"cpu!combine_drops_last_slot"});
  o.cases = 32;
  o.shrink = true;
  const Corpus corpus(path("corpus"));
  o.corpus = &corpus;
  o.tensors = true;
  const std::vector<FuzzFinding> findings = run_fuzz(o);
  ASSERT_FALSE(findings.empty());
  std::int64_t times = 0;
  std::size_t cases = 0;
  for (const FuzzFinding& f : findings) {
    times += f.times;
    EXPECT_TRUE(f.repeats);
    EXPECT_TRUE(fs::exists(f.path)) << f.path;
    EXPECT_FALSE(f.record.shrunk.empty());
  }
  for (const std::string& file : files("corpus")) cases += file.ends_with(".case");
  EXPECT_EQ(cases, findings.size());
  EXPECT_EQ(files("corpus").size(), 4 * findings.size()) << "inputs, expected and outputs beside each";
  EXPECT_GT(times, 3 * static_cast<std::int64_t>(findings.size()));

  // Replayed first, and known.
  const Corpus again(path("corpus"));
  o.corpus = &again;
  o.cases = 0;
  std::vector<Record> records;
  o.on_record = [&](const Record& r) { records.push_back(r); };
  for (const FuzzFinding& f : run_fuzz(o)) EXPECT_TRUE(f.known);
  ASSERT_EQ(records.size(), findings.size());
  for (const Record& r : records) {
    EXPECT_EQ(r.suite, kReplayed);
    EXPECT_TRUE(is_finding(r)) << r.case_line;
  }
  // Mended: the entries' implementation, corrected.
  int mended = 0;
  CorpusEntry entry = again.entries().front();
  entry.cause.implementation = "cpu";
  Corpus(path("right")).store(entry);
  const Corpus right(path("right"));
  o.corpus = &right;
  o.implementations = {find_implementation("cpu")};
  o.on_mended = [&](const CorpusEntry& e, const Record&) {
    ++mended;
    EXPECT_EQ(e.c, entry.c);
  };
  EXPECT_TRUE(run_fuzz(o).empty());
  EXPECT_EQ(mended, 1);
}

TEST_F(FuzzCampaign, WhatAWaiverCoversIsNoFinding) {
  FuzzOptions o = small_campaign({"routed_scaling"}, {"cpu!combine_drops_last_slot"});
  o.cases = 32;
  const Corpus corpus(path("corpus"));
  ASSERT_FALSE(run_fuzz(o).empty());
  o.corpus = &corpus;
  o.amend = [](Record& r) {
    if (is_failure(r.result.verdict)) r.result.verdict = Verdict::kWaived;
  };
  std::int64_t waived = 0;
  o.on_record = [&](const Record& r) { waived += r.result.verdict == Verdict::kWaived; };
  EXPECT_TRUE(run_fuzz(o).empty());
  EXPECT_GT(waived, 0);
  EXPECT_TRUE(files("corpus").empty());
}

TEST_F(FuzzCampaign, CrashesCostOneCaseAndHangsTheirTime) {
  FuzzOptions o = small_campaign({"routed_scaling"}, {});
  const Altered crashing([](const Case& c, const TensorSet&, TensorSet&, const RunOptions&) {
    if (c.integer("tokens") > 60) std::abort();
    if (c.integer("topk") > 40)
      for (;;) pause();
  });
  o.implementations = {&crashing};
  o.timeout_seconds = 0.3;
  o.cases = 64;
  o.jobs = 2;
  std::map<Verdict, int> verdicts;
  o.on_record = [&](const Record& r) { ++verdicts[r.result.verdict]; };
  const std::vector<FuzzFinding> findings = run_fuzz(o);
  EXPECT_EQ(findings.size(), 2u) << "one crash, one hang";
  EXPECT_GT(verdicts[Verdict::kCrash], 1);
  EXPECT_GT(verdicts[Verdict::kTimeout], 0);
  EXPECT_GT(verdicts[Verdict::kPass], 20);
  int all = 0;
  for (const auto& [verdict, n] : verdicts) all += n;
  EXPECT_EQ(all, 64);
}

TEST_F(FuzzCampaign, CorpusEntriesComeBackAndGarbageIsRefused) {
  Cause cause{"gating", "cpu!x", Verdict::kSuspect, "elements of topk_ids", "one\nline \xff"};
  const CorpusEntry entry{parse_case("gating tokens=2 seed=9"), cause,
                          "gating tokens=40 seed=9, case 3 of seed 1", "abc"};
  const CorpusEntry back = parse_corpus_entry(to_text(entry), "x");
  EXPECT_EQ(back.c, entry.c);
  EXPECT_EQ(back.cause.implementation, cause.implementation);
  EXPECT_EQ(back.cause.verdict, cause.verdict);
  EXPECT_EQ(back.cause.check, cause.check);
  EXPECT_EQ(back.found, entry.found);
  EXPECT_EQ(back.commit, entry.commit);
  EXPECT_EQ(parse_corpus_entry(to_text(back), "x").cause.key(), back.cause.key());

  write("README.md", "not of the corpus");
  write("by_hand.case", "gating tokens=1\n");
  const Corpus corpus(folder_.path());
  ASSERT_EQ(corpus.entries().size(), 1u);
  EXPECT_TRUE(corpus.entries()[0].cause.implementation.empty());
  const std::pair<const char*, const char*> bad[] = {
      {"\x7f\x45\x4c\x46\x02\x01\n", "bad.case"},
      {"", "holds no case line"},
      {"# only a comment\n", "holds no case line"},
      {"gating tokens=1\ngating tokens=2\n", "two case lines"},
      {"gating tokenz=1\n", "tokens"},
      {"# moecheck corpus/2\ngating tokens=1\n", "another format"},
      {"# verdict: GREAT\ngating tokens=1\n", "GREAT"},
  };
  for (const auto& [text, message] : bad) {
    write("bad.case", text);
    try {
      Corpus{folder_.path()};
      ADD_FAILURE() << "accepted: " << text;
    } catch (const UsageError& e) {
      EXPECT_NE(std::string(e.what()).find("bad.case"), std::string::npos) << e.what();
      EXPECT_NE(std::string(e.what()).find(message), std::string::npos) << e.what();
    }
  }
  write("file", "");
  EXPECT_THROW(Corpus(path("file")), UsageError);
}

TEST_F(FuzzCampaign, NumbersDoNotMakeACauseAndChecksDo) {
  Record r;
  r.operator_name = "gating";
  r.implementation = "cpu";
  r.result.verdict = Verdict::kFail;
  r.result.failed = 1;
  r.result.worst = Element{};
  r.result.worst->output = "topk_weights";
  r.result.cause = "the weights are 0.4 times the expected";
  Record same = r, check = r, impl = r, crash = r, other_crash = r;
  same.result.cause = "the weights are 0.41 times the expected";
  same.case_line = "another";
  check.result.worst->output = "topk_ids";
  impl.implementation = "cpu-baseline";
  crash.result = {};
  crash.result.verdict = Verdict::kCrash;
  crash.result.reason = "the process that ran it ended with signal 11 (Segmentation fault)";
  other_crash.result = crash.result;
  other_crash.result.reason = "the process that ran it ended with signal 6 (Aborted)";
  EXPECT_EQ(cause_of(r).id(), cause_of(same).id());
  std::set<std::string> ids;
  for (const Record& one : {r, check, impl, crash, other_crash}) ids.insert(cause_of(one).id());
  EXPECT_EQ(ids.size(), 5u);
  r.result.verdict = Verdict::kMistrusted;
  EXPECT_FALSE(is_finding(r)) << "chance draws cases that could not have failed";
}

// The program, killed in the middle, and started again.
TEST_F(FuzzCampaign, KilledItLosesNothingThatItReported) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const std::string corpus = path("corpus"), records = path("records.jsonl");
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(ends[1], STDOUT_FILENO);
    close(ends[0]);
    close(ends[1]);
    execl(MOECHECK_BINARY, MOECHECK_BINARY, "fuzz", "routed_scaling", "moe_align", "--impl",
          "cpu!combine_drops_last_slot", "--impl", "cpu!align_counts_minus_one", "--corpus", corpus.c_str(),
          "--records", records.c_str(), "--time", "60s", "--seed", "5", "--no-relations", "--jobs", "2",
          nullptr);
    _exit(127);
  }
  close(ends[1]);
  std::string said;
  std::set<std::string> reported;
  for (char c; reported.size() < 2 && read(ends[0], &c, 1) == 1;) {
    said += c;
    const std::size_t at = said.rfind("  corpus: ");
    if (c == '\n' && at != std::string::npos && said.find('\n', at) == said.size() - 1)
      reported.insert(said.substr(at + 10, said.size() - at - 11));
  }
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  close(ends[0]);
  ASSERT_EQ(reported.size(), 2u) << said;
  for (const std::string& file : reported) {
    std::ifstream in(file);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    EXPECT_NO_THROW(parse_corpus_entry(text, file)) << text;
  }
  std::ifstream in(records);
  std::string first;
  std::getline(in, first);
  EXPECT_NO_THROW(record_from_json(first)) << "records are there before the end";

  // Again: what was reported comes first, as known.
  FILE* pipe = popen((std::string(MOECHECK_BINARY) +
                      " fuzz routed_scaling moe_align --impl 'cpu!combine_drops_last_slot' --impl "
                      "'cpu!align_counts_minus_one' "
                      "--cases 1 --seed 5 --no-relations --corpus " +
                      corpus + " --records " + records)
                         .c_str(),
                     "r");
  std::string text;
  char chunk[4096];
  for (std::size_t n; (n = fread(chunk, 1, sizeof chunk, pipe)) > 0;) text.append(chunk, n);
  EXPECT_EQ(WEXITSTATUS(pclose(pipe)), 1) << text;
  std::size_t known = 0;
  for (std::size_t at = 0; (at = text.find("known: the corpus has it", at)) != std::string::npos; ++at)
    ++known;
  EXPECT_GE(known, reported.size()) << text;
  EXPECT_NO_THROW(read_records(records)) << "a torn line was cut off before the next was written";
}

}  // namespace
}  // namespace moecheck::harness
