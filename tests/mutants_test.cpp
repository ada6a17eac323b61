// The mutants themselves: what is reported of one that nothing notices, scores, tables, names. That every planted fault is killed:
// faults_test.cpp, gpu_kernels_test.cpp, and the command `moecheck mutants`.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>

#include "harness/case.h"
#include "harness/fault.h"
#include "harness/mutants/process.h"
#include "harness/mutants/run.h"
#include "harness/mutants/table.h"
#include "harness/operator.h"
#include "tests/temporary_folder.h"

namespace moecheck::harness::mutants {
namespace {

namespace fs = std::filesystem;

class Mutants : public test::FolderTest {
 protected:
  // A program that takes the place of moecheck_tests, with a test for every filter.
  std::string program(const char* name, const std::string& body) const {
    std::ofstream(path(name)) << "#!/bin/sh\ncase \"$*\" in *list_tests*) [ -z \"$MOECHECK_FAULT\" ] || exit "
                                 "97; for s in Any All/TaskScoring PythonText LmEvalRun; do "
                                 "echo $s.; echo '  It/0  # GetParam() = 1'; done; exit;; esac\n"
                              << body;
    chmod(path(name).c_str(), 0700);
    return path(name);
  }
};

Mutant named(const std::string& name) { return select({.ids = {name}}).at(0); }

// A fault that changes nothing: the right code under another name.
Mutant harmless() {
  Mutant m;
  m.name = "harmless";
  m.layer = "cpu";
  m.op = "attention";
  m.what = "nothing at all";
  m.implementations = {"cpu"};
  return m;
}

Mutant in_tests(const std::string& name, const std::string& filter = "Any*") {
  Mutant m;
  m.name = name;
  m.layer = "scorer";
  m.tests = filter;
  return m;
}

TEST_F(Mutants, OneThatChangesNothingSurvivesAndOneOfTheListDoesNot) {
  const std::vector<Result> results = run({harmless(), named("newest_position_masked")}, {});
  ASSERT_EQ(results.size(), 2u);
  EXPECT_EQ(results[0].outcome, Outcome::kSurvived);
  EXPECT_TRUE(results[0].killer.empty());
  std::size_t cases = 0;
  for (const Suite s : {Suite::kQuick, Suite::kQuick, Suite::kAdversarial, Suite::kModels})
    cases += find_operator("attention")->cases(s).size();
  EXPECT_EQ(results[0].asked, static_cast<std::int64_t>(cases)) << "it survived what it was asked, all of it";
  EXPECT_EQ(results[1].outcome, Outcome::kKilled);
  EXPECT_EQ(results[1].killer, "comparison");
  EXPECT_NE(results[1].repro.find("--impl 'cpu!newest_position_masked'"), std::string::npos)
      << results[1].repro;
}

TEST_F(Mutants, WithAReasonItIsEquivalentAndTheReasonIsShown) {
  Mutant m = harmless();
  m.equivalent = "it is the same code";
  const std::vector<Result> results = run({m}, {});
  EXPECT_EQ(results.at(0).outcome, Outcome::kEquivalent);
  EXPECT_EQ(score(results).asked, 0);
  Campaign c;
  c.results = results;
  EXPECT_NE(table_markdown(c).find("nothing at all. Nothing can tell: it is the same code"),
            std::string::npos);
}

TEST_F(Mutants, AnUnknownImplementationIsNotAKill) {
  Mutant m = harmless();
  m.implementations = {"cpu!never_planted"};
  const Result r = run({m}, {}).at(0);
  EXPECT_EQ(r.outcome, Outcome::kNotRun);
  EXPECT_NE(r.detail.find("cpu!never_planted"), std::string::npos);
}

TEST_F(Mutants, ExhaustiveNamesEveryCheckThatNotices) {
  const Result r = run({named("kv_page_row_major")}, {.exhaustive = true}).at(0);
  EXPECT_EQ(r.noticed.at(0), "comparison");
  EXPECT_GE(r.noticed.size(), 2u);
}

TEST_F(Mutants, WithoutJudgingAWrongResultIsNotSeen) {
  const Result r = run({named("newest_position_masked")}, {.gate = Gate::kSanitizer}).at(0);
  EXPECT_EQ(r.outcome, Outcome::kSurvived);
  EXPECT_EQ(r.sanitizer, sanitizer_of_build());
}

TEST_F(Mutants, TestsKillByName) {
  Options o;
  o.timeout_seconds = 1.5;
  o.tests = program("tests", R"(case "$MOECHECK_FAULT" in
    fails) echo '[  FAILED  ] Suite.Test/3, where GetParam() = 4 (0 ms)'; echo '[  FAILED  ] 1 test, listed below:'; exit 1;;
    dies) kill -SEGV $$;;
    too_new) exit 97;;
    hangs) exec sleep 100;;
    *) echo '[==========] 2 tests from 1 test suite ran.'; exit 0;;
  esac
)");
  const std::vector<Result> r = run(
      {in_tests("fails"), in_tests("dies"), in_tests("too_new"), in_tests("hangs"), in_tests("passes")}, o);
  EXPECT_EQ(r[0].outcome, Outcome::kKilled);
  EXPECT_EQ(r[0].killer, "Suite.Test/3");
  EXPECT_EQ(r[1].outcome, Outcome::kKilled);
  EXPECT_EQ(r[1].killer, sanitizer_of_build().empty() ? "crash" : "sanitizer");
  EXPECT_EQ(r[2].outcome, Outcome::kNotRun);
  EXPECT_NE(r[2].detail.find("does not know it"), std::string::npos);
  EXPECT_EQ(r[3].outcome, Outcome::kKilled);
  EXPECT_EQ(r[3].killer, "timeout");
  EXPECT_EQ(r[4].outcome, Outcome::kSurvived);
}

TEST_F(Mutants, PartsOfAFilterAreAskedInOrderUpToTheFirstThatFails) {
  Options o;
  const std::string asked = path("asked");
  o.tests = program("tests", "[ -z \"$MOECHECK_FAULT\" ] || echo \"$*\" >>" + asked + R"(
  case "$MOECHECK_FAULT $*" in
    'first --gtest_filter=Any*'*|'second --gtest_filter=TaskScoring*'*) echo '[  FAILED  ] Suite.Test (0 ms)'; exit 1;;
    *) exit 0;;
  esac
)");
  const char* filter = "Any*:TaskScoring*";
  const std::vector<Result> r =
      run({in_tests("first", filter), in_tests("second", filter), in_tests("none", filter)}, o);
  EXPECT_EQ(r[0].killer, "Suite.Test");
  EXPECT_EQ(r[1].killer, "Suite.Test");
  EXPECT_NE(r[1].repro.find("--gtest_filter='TaskScoring*"), std::string::npos) << r[1].repro;
  EXPECT_EQ(r[2].outcome, Outcome::kSurvived);
  std::ifstream in(asked);
  std::string all{std::istreambuf_iterator<char>(in), {}};
  EXPECT_EQ(std::count(all.begin(), all.end(), '\n'), 1 + 2 + 2) << all;
}

// A test that fails anyway kills everything: its mutants are not run.
TEST_F(Mutants, TestsThatFailWithoutAFaultSayNothing) {
  Options o;
  o.tests = program("tests", "echo '[  FAILED  ] Suite.Broken (0 ms)'; exit 1\n");
  const Result broken = run({in_tests("any")}, o).at(0);
  EXPECT_EQ(broken.outcome, Outcome::kNotRun);
  EXPECT_EQ(broken.detail, "without a fault its tests fail: Suite.Broken");
  // One suite of a filter was renamed: what is left of it may be blind.
  EXPECT_EQ(run({in_tests("any", "Other*:Any*")}, o).at(0).detail, "no test matches Other*");
  o.tests = program("fine", "exit 0\n");
  EXPECT_EQ(run({in_tests("any", "Any*:TaskScoring*")}, o).at(0).outcome, Outcome::kSurvived);
  const std::string clean = path("clean");  // its tests pass, and would whatever the fault
  std::ofstream(clean) << "#!/bin/sh\nexit 0\n";
  chmod(clean.c_str(), 0700);
  o.tests = clean;
  EXPECT_EQ(run({in_tests("any")}, o).at(0).detail,
            clean + " is built without faults of the harness: use the preset mutants");
  o.tests.clear();
  o.why_no_tests = "not built";
  EXPECT_EQ(run({in_tests("any")}, o).at(0).detail, "not built");
}

TEST_F(Mutants, ProgramsEndInTime) {
  const Finished f = run_program({"/bin/sh", "-c", "echo $WORD; exit 3"}, {{"WORD", "said"}}, 10);
  EXPECT_EQ(WEXITSTATUS(f.status), 3);
  EXPECT_EQ(f.output, "said\n");
  const Finished late = run_program({"/bin/sh", "-c", "sleep 100 & sleep 100"}, {}, 0.2);
  EXPECT_TRUE(late.timeout);
  EXPECT_LT(late.seconds, 5);
}

TEST_F(Mutants, ResultsReadBack) {
  Result r;
  r.mutant = named("routed_scale_on_shared_slot");
  r.outcome = Outcome::kKilled;
  r.killer = "comparison";
  r.suite = "quick";
  r.repro = "moecheck repro 'x'";
  r.seconds = 0.25;
  r.asked = 7;
  r.noticed = {"comparison", "batch_split"};
  std::ofstream(path("r.jsonl")) << to_json(r) << "\n\n" << to_json(r) << "\n";
  const std::vector<Result> read = read_results(path("r.jsonl"));
  ASSERT_EQ(read.size(), 2u);
  EXPECT_EQ(to_json(read[1]), to_json(r));
  EXPECT_EQ(read[0].mutant.upstream, "vllm#44313");
  std::ofstream(path("bad.jsonl")) << to_json(r) << "\n{\"schema\": \"moecheck.record/1\"}\n";
  try {
    read_results(path("bad.jsonl"));
    FAIL() << "a record is no result of a mutant";
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find("bad.jsonl:2: schema"), std::string::npos) << e.what();
  }
}

Result result(const std::string& name, Outcome outcome, const std::string& killer, const std::string& suite) {
  Result r;
  r.mutant = named(name);
  r.outcome = outcome;
  r.killer = killer;
  r.suite = suite;
  return r;
}

// z = 1.959964: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
TEST(MutantScores, AreWilsons) {
  std::vector<Result> results(20);
  for (std::size_t i = 0; i < 20; ++i) results[i].outcome = i < 15 ? Outcome::kKilled : Outcome::kSurvived;
  results.emplace_back().outcome = Outcome::kNotRun;
  results.emplace_back().outcome = Outcome::kEquivalent;
  const Score s = score(results);
  EXPECT_EQ(s.killed, 15);
  EXPECT_EQ(s.asked, 20);
  EXPECT_NEAR(s.interval().low, 0.5313, 5e-5);
  EXPECT_NEAR(s.interval().high, 0.8881, 5e-5);
  EXPECT_EQ(text(s), "75.0% (15 of 20; 53.1% to 88.8%)");
  EXPECT_NEAR((Score{197, 197}.interval().low), 197 / (197 + 3.841459), 1e-6);
  EXPECT_EQ(text(Score{}), "not run");
}

TEST(MutantTables, ShowKillersSurvivorsAndChecksThatKillNothing) {
  Campaign c;
  c.results = {result("scale_dropped", Outcome::kKilled, "comparison", "quick"),
               result("scale_twice", Outcome::kSurvived, "", ""),
               result("order_is_random", Outcome::kKilled, "deterministic", "quick, all clauses")};
  c.results[0].mutant.upstream = "sglang#8511";
  const std::string table = table_markdown(c);
  EXPECT_NE(
      table.find("## Survivors\n\n- `scale_twice` (gating): routed_scaling_factor is multiplied in twice\n"),
      std::string::npos);
  EXPECT_NE(table.find("| comparison | all | 1 |\n"), std::string::npos) << table;
  EXPECT_NE(table.find("| deterministic | all | 1 |\n"), std::string::npos);
  EXPECT_NE(table.find("- inputs_unchanged (all)\n"), std::string::npos) << "it killed nothing";
  EXPECT_NE(table.find("- token_permutation (gating)\n"), std::string::npos);
  EXPECT_EQ(table.find("- cat_skip_equals_concat (mla_prepare)"), std::string::npos) << "it was not asked";
  EXPECT_NE(table.find("| quick, comparison and guards alone | 1 | 33.3% |"), std::string::npos);
  EXPECT_NE(table.find("| quick, all clauses | 2 | 66.7% |"), std::string::npos);
  EXPECT_NE(table.find("| TSan alone, kernels, nothing judged | – | 0 | not run | |"), std::string::npos);
  EXPECT_NE(table.find("scale_twice (**survived**)"), std::string::npos) << "in the table of upstream bugs";
  EXPECT_NE(summary_text(c).find("survived: scale_twice (gating)"), std::string::npos);
}

TEST(MutantTables, TakeTheLastResultOfEachGate) {
  Result first = result("scale_dropped", Outcome::kSurvived, "", ""), second = first, sanitized = first;
  second.outcome = Outcome::kKilled;
  sanitized.gate = Gate::kSanitizer;
  sanitized.sanitizer = "address";
  Result unplanted = first;
  unplanted.mutant.name = "planted_no_more";
  const Campaign c = campaign_of({first, sanitized, second, unplanted});
  ASSERT_EQ(c.results.size(), 1u);
  EXPECT_EQ(c.results[0].outcome, Outcome::kKilled);
  ASSERT_EQ(c.sanitizers.at("address").size(), 1u);
  EXPECT_EQ(c.sanitizers.at("address")[0].outcome, Outcome::kSurvived);
}

TEST_F(Mutants, ServedFaultsAreReadFromTheirTable) {
  std::ofstream(path("served.md"))
      << "| fault | operator | right | worse | fixed | p | shown |\n|---|---|---:|---:|---:|---:|---|\n"
         "| scale_dropped | gating | 0.00% | 63 | 0 | 2.2e-19 | yes |\n"
         "| shared_id_same (fused) | gating | 0.00% | 63 | 0 | 2.2e-19 | yes |\n"
         "| mask_zero | gating | 98.44% | 0 | 0 | 1.000 | no |\n";
  const Served s = read_served(path("served.md"));
  EXPECT_EQ(s.shown, (std::map<std::string, bool>{
                         {"scale_dropped", true}, {"shared_id_same", true}, {"mask_zero", false}}));
  std::ofstream(path("other.md")) << "# No table\n";
  EXPECT_THROW(read_served(path("other.md")), UsageError);
}

TEST(MutantNames, AreUniqueAndUnknownOnesMeetTheNearest) {
  std::set<std::string> names;
  std::set<int> numbers;
  for (const Mutant& m : all()) {
    EXPECT_TRUE(names.insert(m.name).second) << m.name << " is planted twice";
    EXPECT_TRUE(numbers.insert(m.number).second) << m.name;
    EXPECT_FALSE(m.what.empty() || m.class_.empty()) << m.name;
    EXPECT_EQ(m.tests.empty(), !m.op.empty()) << m.name;
  }
  EXPECT_GE(names.size(), 150u);
  EXPECT_EQ(select({.ids = {std::to_string(named("scale_dropped").number)}}).at(0).name, "scale_dropped");
  EXPECT_EQ(select({.classes = {"scale"}, .layers = {"streams"}}).at(0).name, "streams_scale_twice");
  const auto message = [](const Selection& s) -> std::string {
    try {
      (void)select(s);
    } catch (const UsageError& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_NE(message({.ids = {"scale_droped"}}).find("did you mean scale_dropped?"), std::string::npos);
  EXPECT_NE(message({.layers = {"scorr"}}).find("did you mean scorer?"), std::string::npos);
  EXPECT_NE(message({.ids = {"99999"}}).find("mutant '99999' is not known"), std::string::npos);
}

TEST(MutantNames, OfUpstreamBugsArePlanted) {
  std::set<std::string> names;
  for (const Mutant& m : all()) names.insert(m.name);
  for (const UpstreamBug& b : upstream_bugs()) {
    EXPECT_FALSE(b.mutants.empty() && b.why_none.empty())
        << b.reference << " has neither a mutant nor a reason";
    for (const std::string_view word : split_words(b.mutants))
      EXPECT_TRUE(names.contains(std::string(word))) << b.reference << ": " << word;
  }
}

TEST(MutantChanges, AlterWhatTheyTouch) {
  const Mutant gating = named("scale_dropped"), block = named("block_routes_padding"),
               scorer = named("scorer_keeps_commas");
  const Affected kernel = affected_by({"optimized/cpu/gating_select.cpp"});
  EXPECT_TRUE(kernel.has(gating));
  EXPECT_TRUE(kernel.has(block)) << "a block has a gate";
  EXPECT_TRUE(kernel.has(scorer)) << "unit tests may use it";
  EXPECT_FALSE(kernel.has(named("mla_cos_sin_swapped")));
  EXPECT_TRUE(affected_by({"harness/judge.cpp"}).has(gating)) << "shared by all";
  const Affected tasks = affected_by({"harness/tasks/scoring.cpp"});
  EXPECT_TRUE(tasks.has(scorer));
  EXPECT_FALSE(tasks.has(gating));
  EXPECT_FALSE(affected_by({"README.md", "reports/gpu/tables.md", "scripts/test.sh"}).has(scorer));
  EXPECT_FALSE(affected_by({"harness/operators/moe_block_cases.cpp"}).has(gating));
}

// A build that people use has no faults.
TEST(HarnessFaults, AreOffInTheCleanBuild) {
#ifndef MOECHECK_HARNESS_FAULTS
  static_assert(!HARNESS_FAULT(kJudgeBoundDoubled));
#endif
  if (std::getenv("MOECHECK_FAULT") != nullptr) GTEST_SKIP() << "MOECHECK_FAULT chooses one";
  EXPECT_FALSE(HARNESS_FAULT(kJudgeBoundDoubled));
}

struct Ran {
  int code = -1;
  std::string text;
};
Ran moecheck(const std::string& arguments) {
  const Finished f =
      run_program({"/bin/sh", "-c", fmt::format("{} mutants {} 2>&1", MOECHECK_BINARY, arguments)}, {}, 120);
  return {WIFEXITED(f.status) ? WEXITSTATUS(f.status) : 128, f.output};
}

TEST_F(Mutants, OnTheCommandLine) {
  const Ran killed =
      moecheck("--id scale_dropped --jobs 1 -v --output " + path("o.jsonl") + " --table " + path("t.md"));
  EXPECT_EQ(killed.code, 0) << killed.text;
  EXPECT_NE(killed.text.find("100.0% (1 of 1;"), std::string::npos) << killed.text;
  EXPECT_EQ(read_results(path("o.jsonl")).size(), 1u);
  EXPECT_TRUE(fs::file_size(path("t.md")) > 0);
  const Ran unknown = moecheck("--id scale_droped");
  EXPECT_EQ(unknown.code, 2);
  EXPECT_NE(unknown.text.find("did you mean scale_dropped?"), std::string::npos) << unknown.text;
  // Unit tests that pass whatever the fault is.
  const std::string blind = program("tests", "echo '[==========] 1 test from 1 test suite ran.'\n");
  const Ran survived = moecheck("--id scorer_keeps_commas --tests " + blind);
  EXPECT_EQ(survived.code, 1) << survived.text;
  EXPECT_NE(survived.text.find("survived: scorer_keeps_commas (scorer)"), std::string::npos) << survived.text;
  EXPECT_EQ(moecheck("--id scorer_keeps_commas --tests " + path("absent")).code, 2);
  const Ran nothing = moecheck("--id scorer_keeps_commas --gate sanitizer");
  EXPECT_EQ(nothing.code, 3) << nothing.text;
  // A sanitizer alone need not notice.
  EXPECT_EQ(moecheck("--id newest_position_masked --gate sanitizer").code, 0);
  EXPECT_EQ(moecheck("--no-run --with " + path("o.jsonl")).code, 0);
}

}  // namespace
}  // namespace moecheck::harness::mutants
