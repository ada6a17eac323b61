// Waivers: what is known to fail, and that the list shrinks.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <type_traits>

#include "harness/case.h"
#include "harness/implementation.h"
#include "harness/junit.h"
#include "harness/ledger/waivers.h"
#include "harness/operator.h"
#include "harness/report/html.h"
#include "harness/runner.h"
#include "harness/verdict_text.h"
#include "tests/altered_implementation.h"
#include "tests/temporary_folder.h"
#include "tests/xml_check.h"

namespace moecheck::harness::ledger {
namespace {

using std::chrono::November;
using std::chrono::year;
constexpr Date kDay = year(2026) / November / 22;
constexpr const char* kCase = "gating policy=vllm_cuda tokens=4 seed=7";

WaiverText waiver_text() {
  WaiverText t;
  t.operator_name = "gating";
  t.implementation = "cpu";
  t.where = "policy=vllm_cuda";
  t.issue = "vllm-project/vllm#44313";
  t.reason = "known in this release";
  t.added = "2026-11-01";
  return t;
}

Waivers one(WaiverText text) { return {"w.jsonl", {{3, Waiver(std::move(text))}}}; }

Record record(const char* line, Verdict v, std::int64_t failed = 0) {
  const Case c = parse_case(line);
  Record r = blank_record(c, "cpu");
  r.result.verdict = v;
  r.result.elements = 32;
  r.result.failed = failed;
  if (v != Verdict::kPass) r.result.reason = "output is wrong";
  return r;
}

Record failing() { return record(kCase, Verdict::kFail, 3); }

std::string refusal(const WaiverText& text) {
  try {
    Waiver w(text);
  } catch (const UsageError& e) {
    return e.what();
  }
  return {};
}

class LedgerFiles : public test::FolderTest {};

std::string read_failure(const std::string& path) {
  try {
    (void)read_waivers(path);
  } catch (const UsageError& e) {
    return e.what();
  }
  return {};
}

static_assert(!std::is_default_constructible_v<IssueReference> && !std::is_default_constructible_v<Waiver>);

TEST(Waivers, NoneWithoutAnIssue) {
  EXPECT_EQ(refusal(waiver_text()), "");
  WaiverText text = waiver_text();
  for (const char* issue :
       {"", "known", "#12", "vllm#12", "a/b#0", "a/b#", "a/b/c#1", "https://host", "https:///x",
        "javascript:alert(1)", "https://host/\"onload=x", "https://host/<b>", "ftp://host/x"}) {
    text.issue = issue;
    EXPECT_NE(refusal(text).find("owner/repo#123 or https://host/path"), std::string::npos) << issue;
  }
  EXPECT_EQ(IssueReference("vllm-project/vllm#44313").url(),
            "https://github.com/vllm-project/vllm/issues/44313");
  EXPECT_EQ(IssueReference("https://gitlab.example/x/-/issues/7").url(),
            "https://gitlab.example/x/-/issues/7");
}

TEST(Waivers, EveryKeyIsChecked) {
  const auto with = [](std::string WaiverText::*key, const char* value) {
    WaiverText t = waiver_text();
    t.*key = value;
    return refusal(t);
  };
  EXPECT_NE(with(&WaiverText::operator_name, "gatng").find("did you mean gating"), std::string::npos);
  EXPECT_NE(with(&WaiverText::operator_name, "").find("\"operator\" is missing"), std::string::npos);
  EXPECT_NE(with(&WaiverText::implementation, "").find("\"implementation\""), std::string::npos);
  EXPECT_NE(with(&WaiverText::reason, "").find("\"reason\""), std::string::npos);
  EXPECT_NE(with(&WaiverText::added, "").find("\"added\""), std::string::npos);
  EXPECT_NE(with(&WaiverText::added, "2026-02-30").find("no date"), std::string::npos);
  EXPECT_NE(with(&WaiverText::until, "2026-10-31").find("never apply"), std::string::npos);
  EXPECT_NE(with(&WaiverText::where, "").find("which cases"), std::string::npos);
  EXPECT_NE(with(&WaiverText::case_line, kCase).find("one of"), std::string::npos);
  EXPECT_NE(with(&WaiverText::where, "tokns=4").find("tokens"), std::string::npos);
  EXPECT_NE(with(&WaiverText::where, "tokens=four").find("four"), std::string::npos);
  EXPECT_NE(with(&WaiverText::where, "tokens=1 tokens=2").find("twice"), std::string::npos);
  EXPECT_NE(with(&WaiverText::where, "edit=nan:0:3").find("kind of edit"), std::string::npos);
  EXPECT_NE(with(&WaiverText::check, "determinstic").find("did you mean deterministic"), std::string::npos);
}

TEST(Waivers, AFailureBecomesWaivedAndKeepsAllThatWasFound) {
  Record r = failing();
  r.shrunk = "gating tokens=1";
  r.result.cause = "a cause";
  one(waiver_text()).apply(r, kDay);
  EXPECT_EQ(r.result.verdict, Verdict::kWaived);
  EXPECT_EQ(r.result.reason, "vllm-project/vllm#44313: known in this release");
  EXPECT_EQ(r.result.failed, 3);
  EXPECT_EQ(r.result.cause, "a cause");
  const Record again = record_from_json(to_json(r));
  ASSERT_TRUE(again.waived);
  EXPECT_EQ(again.waived->verdict, Verdict::kFail);
  EXPECT_EQ(again.waived->reason, "output is wrong");
  EXPECT_EQ(again.waived->issues, std::vector<std::string>{"vllm-project/vllm#44313"});
  EXPECT_EQ(to_json(again), to_json(r));
  EXPECT_FALSE(is_failure(again.result.verdict));
  const std::string xml = junit_xml({&r, 1});
  EXPECT_EQ(xml_fault(xml), "");
  EXPECT_NE(xml.find("<skipped message=\"waived: vllm-project/vllm#44313: "
                     "known in this release (FAIL: output is "
                     "wrong)\"/>"),
            std::string::npos)
      << xml;
  EXPECT_NE(verdict_text(r).find("WAIVED"), std::string::npos);
}

TEST(Waivers, OnlyWhatTheyCover) {
  const auto verdict = [](const char* where, const char* line, const char* implementation = "cpu") {
    WaiverText t = waiver_text();
    t.where = where;
    Record r = record(line, Verdict::kFail, 1);
    r.implementation = implementation;
    one(t).apply(r, kDay);
    return r.result.verdict;
  };
  EXPECT_EQ(verdict("policy=vllm_cuda", kCase), Verdict::kWaived);
  EXPECT_EQ(verdict("policy=vllm_torch", kCase), Verdict::kFail);
  EXPECT_EQ(verdict("policy=vllm_cuda", kCase, "gpu-host"), Verdict::kFail);
  EXPECT_EQ(verdict("policy=vllm_cuda", "routed_scaling tokens=4"), Verdict::kFail);
  EXPECT_EQ(verdict("policy=vllm_cuda tokens=4", kCase), Verdict::kWaived);
  EXPECT_EQ(verdict("policy=vllm_cuda tokens=5", kCase), Verdict::kFail);
  EXPECT_EQ(verdict("seed=7", kCase), Verdict::kWaived);
  EXPECT_EQ(verdict("seed=8", kCase), Verdict::kFail);
  EXPECT_EQ(verdict("dtype=f32", "gating tokens=4 dtype=f32"), Verdict::kWaived);
  EXPECT_EQ(verdict("model=glm-4.7", "gating model=glm-4.7 tokens=4"), Verdict::kWaived);
  EXPECT_EQ(verdict("model=glm-4.7", "gating tokens=4"), Verdict::kFail);
  EXPECT_EQ(verdict("edit=nan", "gating tokens=4 edit=nan:0:3"), Verdict::kWaived);
  EXPECT_EQ(verdict("edit=nan", "gating tokens=4"), Verdict::kFail);
  WaiverText whole = waiver_text();
  whole.where.clear();
  whole.operator_name.clear();  // the case names it
  whole.case_line = "gating seed=7   tokens=4 policy=vllm_cuda";
  Record same = failing(), other = record("gating policy=vllm_cuda tokens=5 seed=7", Verdict::kFail, 1);
  one(whole).apply(same, kDay);
  one(whole).apply(other, kDay);
  EXPECT_EQ(same.result.verdict, Verdict::kWaived);
  EXPECT_EQ(other.result.verdict, Verdict::kFail);
}

TEST(Waivers, OracleAndMistrustedAreNotWaivable) {
  for (int v = 0; v <= static_cast<int>(Verdict::kWaived); ++v) {
    Record r = record(kCase, static_cast<Verdict>(v), 1);
    one(waiver_text()).apply(r, kDay);
    const Verdict was = static_cast<Verdict>(v);
    const bool may = was == Verdict::kFail || was == Verdict::kSuspect || was == Verdict::kCrash ||
                     was == Verdict::kTimeout;
    EXPECT_EQ(r.result.verdict, may ? Verdict::kWaived : was);
    EXPECT_EQ(r.waived.has_value(), may);
  }
}

TEST(Waivers, AFailingCheckThatNobodyKnowsOfIsAFailure) {
  WaiverText of_clause = waiver_text(), of_elements = waiver_text();
  of_clause.check = "deterministic";
  of_elements.check = "elements";
  of_elements.issue = "vllm-project/vllm#2";
  Record r = failing();
  r.result.clauses = {{"deterministic", Verdict::kFail, "it changed"}};
  EXPECT_EQ(failing_checks(r), (std::vector<std::string>{"elements", "deterministic"}));
  Record half = r;
  one(of_clause).apply(half, kDay);
  EXPECT_EQ(half.result.verdict, Verdict::kFail);
  Record other_half = r;
  one(of_elements).apply(other_half, kDay);
  EXPECT_EQ(other_half.result.verdict, Verdict::kFail);
  Waivers both = one(of_clause);
  both.lines.push_back({4, Waiver(of_elements)});
  both.apply(r, kDay);
  EXPECT_EQ(r.result.verdict, Verdict::kWaived);
  EXPECT_EQ(r.waived->issues, (std::vector<std::string>{"vllm-project/vllm#2", "vllm-project/vllm#44313"}));
}

TEST(Waivers, EndAfterTheirLastDay) {
  WaiverText t = waiver_text();
  t.until = "2026-11-22";
  Record on_it = failing(), after = failing();
  one(t).apply(on_it, kDay);
  one(t).apply(after, year(2026) / November / 23);
  EXPECT_EQ(on_it.result.verdict, Verdict::kWaived);
  EXPECT_EQ(after.result.verdict, Verdict::kFail);
  const Waivers waivers = one(t);
  const auto audited = audit(waivers, {&after, 1}, year(2026) / November / 23);
  EXPECT_EQ(audited[0].state, WaiverState::kOutOfDate);
  EXPECT_EQ(audited[0].failing, 1);
  EXPECT_NE(attention_text(waivers, audited[0]).find("w.jsonl:3: vllm-project/vllm#44313"),
            std::string::npos);
  EXPECT_NE(attention_text(waivers, audited[0]).find("out of date: it waives nothing since 2026-11-22"),
            std::string::npos);
}

TEST(Waivers, ExpireWhenAllThatTheyCoverPasses) {
  const Waivers waivers = one(waiver_text());
  Record failed = failing();
  waivers.apply(failed, kDay);
  const Record passed = record("gating policy=vllm_cuda tokens=5", Verdict::kPass),
               skipped = record("gating policy=vllm_cuda tokens=6", Verdict::kSkip),
               other = record("gating policy=vllm_torch tokens=5", Verdict::kPass);
  const auto state = [&](std::vector<Record> records) { return audit(waivers, records, kDay)[0]; };
  EXPECT_EQ(state({failed}).state, WaiverState::kOpen);
  EXPECT_EQ(attention_text(waivers, state({failed})), "");
  EXPECT_EQ(state({passed, skipped}).state, WaiverState::kExpired);
  EXPECT_NE(attention_text(waivers, state({passed})).find("passes: delete the line"), std::string::npos);
  EXPECT_EQ(state({skipped, other}).state, WaiverState::kUnused);
  EXPECT_EQ(state({}).state, WaiverState::kUnused);
  // A case that was repaired since: what was seen last counts.
  EXPECT_EQ(state({failed, record(kCase, Verdict::kPass)}).state, WaiverState::kExpired);
  // Wider than the failure: said with both numbers.
  const AuditedWaiver wide = state({failed, passed, other});
  EXPECT_EQ(wide.state, WaiverState::kOpen);
  EXPECT_EQ(wide.failing, 1);
  EXPECT_EQ(wide.passing, 1);
  EXPECT_NE(attention_text(waivers, wide).find("1 case that it covers fails, 1 passes: narrow it"),
            std::string::npos)
      << attention_text(waivers, wide);
}

TEST(Waivers, OfACheckExpireWhenThatCheckPasses) {
  WaiverText t = waiver_text();
  t.check = "deterministic";
  const Waivers waivers = one(t);
  Record r = record(kCase, Verdict::kPass);
  const auto state = [&] { return audit(waivers, {&r, 1}, kDay)[0].state; };
  EXPECT_EQ(state(), WaiverState::kUnused) << "the clause was not asked";
  r.result.clauses = {{"deterministic", Verdict::kSkip, "not promised: atomics"}};
  EXPECT_EQ(state(), WaiverState::kUnused);
  r.result.clauses[0] = {"deterministic", Verdict::kFail, "it changed"};
  r.result.verdict = Verdict::kFail;
  EXPECT_EQ(state(), WaiverState::kOpen);
  r.result.clauses[0].verdict = Verdict::kPass;
  EXPECT_EQ(state(), WaiverState::kExpired) << "the elements fail, which it does not cover";
}

// The names that "check" may have are those that the runner writes.
TEST(Waivers, EveryClauseOfARealCheckCanBeNamed) {
  const Implementation* const cpu[] = {find_implementation("cpu")};
  const std::vector<Record> records = check_case(parse_case("gating tokens=4 experts=8 topk=2"), cpu, {});
  ASSERT_GT(records.at(0).result.clauses.size(), 6u);
  for (const ClauseResult& c : records[0].result.clauses) {
    WaiverText t = waiver_text();
    t.check = c.name;
    EXPECT_EQ(refusal(t), "");
  }
}

// Through worker processes: a known crash and a known failure are waived and not shrunk, an unknown one fails.
TEST(Waivers, ACampaignWaivesCrashesToo) {
  const Altered bad([](const Case& c, const TensorSet&, TensorSet& outputs, const RunOptions&) {
    if (c.integer("tokens") == 3) std::abort();
    outputs.view("topk_weights").set(0, 9);
  });
  const Implementation* const implementations[] = {&bad};
  WaiverText crash = waiver_text(), wrong = waiver_text();
  crash.implementation = wrong.implementation = "altered";
  crash.where = "tokens=3";
  crash.check = "crash";
  wrong.where = "tokens=2";
  Waivers waivers = one(crash);
  waivers.lines.push_back({4, Waiver(wrong)});
  CampaignOptions options;
  options.check.relations = false;
  options.amend = [&](Record& r) { waivers.apply(r, kDay); };
  std::vector<Case> cases;
  for (const char* tokens : {"1", "2", "3"})
    cases.push_back(parse_case(fmt::format("gating experts=4 topk=1 tokens={}", tokens)));
  const std::vector<Record> records = run_campaign(cases, implementations, options);
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[0].result.verdict, Verdict::kFail);
  EXPECT_NE(records[0].shrunk, "");
  for (const Record& r : {records[1], records[2]}) {
    EXPECT_EQ(r.result.verdict, Verdict::kWaived) << r.case_line;
    EXPECT_EQ(r.shrunk, "");
  }
  EXPECT_EQ(records[2].waived->verdict, Verdict::kCrash);
  for (const AuditedWaiver& a : audit(waivers, records, kDay)) EXPECT_EQ(a.state, WaiverState::kOpen);
}

TEST_F(LedgerFiles, WaiversAreReadWithPlaceAndRemedy) {
  const std::string good =
      R"({"operator": "gating", "implementation": "cpu", "where": "tokens=4", "issue": "a/b#1", "reason": "r", "added": "2026-11-01"})";
  EXPECT_EQ(read_waivers(write("w", "# known\n\n" + good + "\n")).lines.at(0).line, 3u);
  std::string no_issue = good, misspelt = good;
  no_issue.replace(no_issue.find(R"("issue": "a/b#1", )"), 18, "");
  misspelt.insert(1, R"("untill": "2026-12-01", )");
  EXPECT_NE(read_failure(write("w", "\n" + no_issue)).find("w:2: the issue is missing"), std::string::npos);
  EXPECT_NE(read_failure(write("w", misspelt)).find("\"untill\" is not known: did you mean \"until\""),
            std::string::npos);
  EXPECT_NE(read_failure(write("w", good + "\n" + good)).find("w:2: it covers what line 1 does"),
            std::string::npos);
  EXPECT_NE(read_failure(write("w", good + "\n" + good.substr(0, 40))).find("w:2: not JSON"),
            std::string::npos);
  EXPECT_NE(read_failure(write("w", "[1]")).find("no JSON object"), std::string::npos);
  EXPECT_NE(read_failure(path("none")).find("cannot be opened"), std::string::npos);
  EXPECT_NE(read_failure(folder_.path()).find("directory"), std::string::npos);
}

TEST(Waivers, TheReportHasASectionOfThem) {
  Record waived = failing(), hostile = failing();
  const Waivers waivers = one(waiver_text());
  waivers.apply(waived, kDay);
  hostile.result.verdict = Verdict::kWaived;
  hostile.waived = WaivedFailure{Verdict::kFail, "x", {"javascript:alert(1)"}};
  const Record passed = record("gating policy=vllm_cuda tokens=5", Verdict::kPass);
  const std::vector<Record> records = {waived, hostile, passed};
  const auto audited = audit(waivers, records, kDay);
  const std::string page = html_report(records, {.command = "x", .waivers = audited});
  EXPECT_NE(page.find("<section id=waived>"), std::string::npos);
  EXPECT_NE(page.find("<a href=#waived>"), std::string::npos);
  EXPECT_NE(page.find("<a href=\"https://github.com/vllm-project/vllm/issues/44313\" "
                      "rel=noreferrer>"),
            std::string::npos);
  EXPECT_NE(page.find("gating cpu where policy=vllm_cuda"), std::string::npos) << "the waiver itself";
  EXPECT_NE(page.find("moecheck repro"), std::string::npos);
  EXPECT_EQ(page.find("href=\"javascript"), std::string::npos);
  // Without any there is none.
  EXPECT_EQ(html_report({&passed, 1}).find("id=waived"), std::string::npos);
}

}  // namespace
}  // namespace moecheck::harness::ledger
