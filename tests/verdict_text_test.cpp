#include "harness/verdict_text.h"

#include <gtest/gtest.h>

#include <limits>

#include "harness/report/aggregate.h"
#include "tests/synthetic_records.h"

namespace moecheck::harness {
namespace {

TEST(VerdictText, AFailureSaysWhatIsWrongAndHowToRepeatIt) {
  EXPECT_EQ(
      verdict_text(synthetic_failure()),
      "FAIL  cpu!scale_shared_slot  routed_scaling model=glm-4.7 policy=vllm tokens=64 dtype=bf16 seed=7\n"
      "  reason    output is wrong beyond its proven bound\n"
      "  smallest  routed_scaling experts=2 topk=1 tokens=1\n"
      "  worst     output[3, 17]\n"
      "    got       0.782227\n"
      "    expected  0.312893, accepted [0.3125, 0.314453]\n"
      "    error     0.469 = 479x the bound 0.00098\n"
      "  counts    1,024 of 9,216 elements beyond the bound (11%), 2 suspect, 1 undecided\n"
      "  cause     the shared slot is 2.5 times the expected: routed_scaling_factor is applied to it\n"
      "  broken    token_permutation: token 3: output[3, 17] changed when row 3 moved to row 0\n"
      "  moecheck repro 'routed_scaling experts=2 topk=1 tokens=1' --impl 'cpu!scale_shared_slot'\n");
}

TEST(VerdictText, WithoutASmallestCaseTheCaseItselfIsRepeated) {
  Record r = synthetic_failure();
  r.shrunk.clear();
  r.implementation = "cpu";
  EXPECT_EQ(
      repro_command(r),
      "moecheck repro 'routed_scaling model=glm-4.7 policy=vllm tokens=64 dtype=bf16 seed=7' --impl cpu");
}

TEST(VerdictText, AnExactElementNeedsNoInterval) {
  Record r = synthetic_failure();
  r.result.worst = Element{"topk_ids",         {3}, 3, 3, 3, 7, 4, 0, std::numeric_limits<double>::infinity(),
                           "id 7 instead of 3"};
  const std::string text = verdict_text(r);
  EXPECT_NE(text.find("  worst     topk_ids[3]: id 7 instead of 3\n"), std::string::npos) << text;
  EXPECT_NE(text.find("    expected  3, accepted 3 only\n"), std::string::npos) << text;
  EXPECT_NE(text.find("    error     4, where the bits must be equal\n"), std::string::npos) << text;
}

TEST(VerdictText, ABrokenClauseAloneDoesNotBlameAnElement) {
  Record r = synthetic_failure();
  r.result.failed = r.result.suspect = 0;
  const std::string text = verdict_text(r);
  EXPECT_EQ(text.find("worst"), std::string::npos) << text;
  EXPECT_NE(text.find("broken    token_permutation"), std::string::npos) << text;
}

TEST(VerdictText, WhatNeedsNoActionTakesOneLine) {
  Record r;
  r.case_line = "gating tokens=4";
  r.implementation = "cpu";
  r.result.elements = 1024;
  r.result.headroom = 0.123;
  EXPECT_EQ(verdict_text(r), "PASS  cpu  gating tokens=4  (1,024 elements, at most 12.3% of the bound)\n");
  r.result.headroom = 0;
  EXPECT_EQ(verdict_text(r), "PASS  cpu  gating tokens=4  (1,024 elements, exact)\n");
  r.result.verdict = Verdict::kUndecided;
  r.result.undecided = 2;
  r.result.reason = "near-ties";
  EXPECT_EQ(verdict_text(r),
            "UNDECIDED  cpu  gating tokens=4  (1,024 elements, exact, 2 undecided: near-ties)\n");
  r.result = {};
  r.result.verdict = Verdict::kSkip;
  r.result.reason = "no device";
  EXPECT_EQ(verdict_text(r), "SKIP  cpu  gating tokens=4  (no device)\n");
  r.result = {};
  EXPECT_EQ(verdict_text(r), "PASS  cpu  gating tokens=4\n");
}

TEST(VerdictText, ColoursOnlyWhereAsked) {
  EXPECT_EQ(verdict_text(synthetic_failure()).find('\x1b'), std::string::npos);
  EXPECT_NE(verdict_text(synthetic_failure(), true).find("\x1b[1;31mFAIL\x1b[0m"), std::string::npos);
  const auto records = synthetic_campaign(1);
  EXPECT_EQ(summary_text(records).find('\x1b'), std::string::npos);
  EXPECT_NE(summary_text(records, true).find('\x1b'), std::string::npos);
}

TEST(VerdictText, HostileBytesDoNotReachTheTerminal) {
  Record r = synthetic_failure();
  r.case_line = r.shrunk = "gating \x1b]0;owned\x07 \xff";
  r.implementation = "\x1b[2J";
  r.result.reason = r.result.cause = "line one\nline \x1b two\r";
  r.result.worst->output = r.result.worst->note = "\x08\x08";
  r.result.clauses = {{"\x1b", Verdict::kFail, "\x1b"}};
  for (const std::string& text : {verdict_text(r), summary_text(std::vector<Record>{r})})
    for (const char c : text) EXPECT_TRUE(c == '\n' || static_cast<unsigned char>(c) >= 0x20) << text;
  EXPECT_NE(verdict_text(r).find("  cause     line one\n            line \\x1b two\n"), std::string::npos)
      << verdict_text(r);
}

TEST(Summary, CountsEveryRecordOnce) {
  const auto records = synthetic_campaign(2);
  std::int64_t total = 0, failures = 0, passes = 0;
  for (const report::Group& g : report::group_records(records)) {
    total += g.tally.total();
    failures += g.tally.failures();
    passes += g.tally[Verdict::kPass];
    std::int64_t in_cells = 0;
    for (const report::Cell& c : g.cells) in_cells += c.tally.total();
    EXPECT_EQ(in_cells, g.tally.total());
  }
  std::int64_t want_failures = 0, want_passes = 0;
  for (const Record& r : records) {
    want_failures += is_failure(r.result.verdict);
    want_passes += r.result.verdict == Verdict::kPass;
  }
  EXPECT_EQ(total, std::ssize(records));
  EXPECT_EQ(failures, want_failures);
  EXPECT_EQ(passes, want_passes);
}

TEST(Summary, SkipsAreGroupedByReason) {
  Record skip;
  skip.operator_name = "gating";
  skip.implementation = "hip";
  skip.result.verdict = Verdict::kSkip;
  skip.result.reason = "no device";
  const std::string text = summary_text(std::vector<Record>(3, skip));
  EXPECT_NE(text.find("     3x SKIP  gating hip: no device\n"), std::string::npos) << text;
  EXPECT_NE(text.find("hip: no case ran: nothing is known\n"), std::string::npos) << text;
  EXPECT_EQ(summary_text({}), "no checks were made\n");
}

TEST(Summary, NoFailureIsAStatementAboutDifferentCases) {
  std::vector<Record> records;
  for (int i = 0; i < 2000; ++i) {
    Record& r = records.emplace_back();
    r.operator_name = "gating";
    r.implementation = "cpu";
    r.case_line = "gating seed=" + std::to_string(i / 2);  // every case twice: no new evidence
  }
  EXPECT_NE(summary_text(records).find(
                "cpu: 0 failures in 1,000 cases bounds the failure rate by 3/1000 = 0.3% at 95%\n"),
            std::string::npos)
      << summary_text(records);
  EXPECT_EQ(report::evidence_text({1, 0}), "0 failures in 1 case bounds the failure rate by 95% at 95%");
  EXPECT_EQ(report::evidence_text({29, 0}), "0 failures in 29 cases bounds the failure rate by 10% at 95%");
  EXPECT_EQ(report::evidence_text({1000, 2}), "2 of 1,000 cases failed");
  records.front().result.verdict = Verdict::kFail;  // its repetition passes: it fails all the same
  EXPECT_NE(summary_text(records).find("cpu: 1 of 1,000 cases failed\n"), std::string::npos);
}

TEST(Summary, ClausesAreKeptBrokenNotPromisedOrNotAsked) {
  using report::clause_state, report::ClauseState;
  EXPECT_EQ(clause_state({"c", Verdict::kPass, ""}), ClauseState::kKept);
  EXPECT_EQ(clause_state({"c", Verdict::kFail, "x"}), ClauseState::kBroken);
  EXPECT_EQ(clause_state({"c", Verdict::kSkip, "not promised: atomics"}), ClauseState::kNotPromised);
  EXPECT_EQ(clause_state({"c", Verdict::kSkip, "one token"}), ClauseState::kNotAsked);
}

}  // namespace
}  // namespace moecheck::harness
