// The command line from outside: exit codes, messages that name the value and the remedy, no file left behind by a failure.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "command_support.h"
#include "harness/safetensors.h"

namespace {

namespace fs = std::filesystem;

using ::moecheck::Ran;
Ran moecheck(const std::string& arguments) { return ::moecheck::run_moecheck(arguments); }

class Cli : public testing::Test {
 protected:
  void SetUp() override {
    const testing::TestInfo* test = testing::UnitTest::GetInstance()->current_test_info();
    std::string name = test->name();
    for (char& c : name)
      if (c == '/') c = '_';
    dir_ = fs::temp_directory_path() / ("moecheck_cli_" + std::to_string(getpid()) + "_" + name);
    fs::create_directories(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }
  std::string path(const char* name) const { return (dir_ / name).string(); }
  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(dir_), fs::directory_iterator()));
  }

  fs::path dir_;
};

TEST_F(Cli, DumpRunJudgeRoundTrip) {
  const Ran dumped = moecheck("repro 'gating tokens=2 experts=8 topk=2' --dump " + path("d"));
  ASSERT_EQ(dumped.code, 0) << dumped.text;
  const Ran judged = moecheck("judge gating --inputs " + path("d/inputs.safetensors") + " --outputs " +
                              path("d/expected.safetensors"));
  EXPECT_EQ(judged.code, 0) << judged.text;
  EXPECT_NE(judged.text.find("PASS"), std::string::npos) << judged.text;
  const Ran run = moecheck("run gating --impl 'cpu!scale_dropped' --inputs " + path("d/inputs.safetensors") +
                           " --case 'policy=vllm_torch tokens=2 experts=8 topk=2' --outputs " + path("o"));
  ASSERT_EQ(run.code, 0) << run.text;
  const Ran wrong = moecheck("judge gating --case 'policy=vllm_torch tokens=2 experts=8 topk=2' --inputs " +
                             path("d/inputs.safetensors") + " --outputs " + path("o"));
  EXPECT_EQ(wrong.code, 1) << wrong.text;
  EXPECT_NE(wrong.text.find("routed_scaling_factor is not applied"), std::string::npos) << wrong.text;
}

TEST_F(Cli, FaultsOfGpuKernelsAreListedAndChosenByName) {
  EXPECT_NE(moecheck("list faults").text.find("gpu-host!id_weight_pairing"), std::string::npos);
  const Ran r = moecheck(
      "check gating --fault id_weight_pairing --case 'gating tokens=2' --no-shrink --json " + path("counts"));
  EXPECT_EQ(r.code, 1) << r.text;
  EXPECT_NE(r.text.find("FAIL  gpu-host!id_weight_pairing"), std::string::npos) << r.text;
  std::ifstream in(path("counts"));
  const std::string counts((std::istreambuf_iterator<char>(in)), {});
  EXPECT_NE(counts.find("moecheck.counts/1"), std::string::npos);
  EXPECT_NE(counts.find("\"FAIL\": 1"), std::string::npos) << counts;
}

TEST_F(Cli, BenchTakesAFileOfCases) {
  std::ofstream(path("cases")) << "# one\ngating tokens=2 experts=8 topk=2\n";
  const Ran r = moecheck("bench operators --seconds 0 --cases " + path("cases"));
  EXPECT_EQ(r.code, 0) << r.text;
  EXPECT_NE(r.text.find("gating tokens=2 experts=8 topk=2"), std::string::npos) << r.text;
}

TEST_F(Cli, StreamsShowsRacesAndReadsWhatItWrites) {
  const Ran sound = moecheck("streams show glm4_moe");
  EXPECT_EQ(sound.code, 0) << sound.text;
  EXPECT_EQ(moecheck("streams show glm4_moe --variant no_join --json " + path("p.json")).code, 1);
  const Ran r = moecheck("streams check " + path("p.json"));
  EXPECT_EQ(r.code, 1) << r.text;
  EXPECT_NE(r.text.find("missing   E -> A"), std::string::npos) << r.text;
  std::ofstream(path("bad.json")) << "{\"schema\": \"moecheck.stream_program/1\", \"steps\": 3}";
  const Ran bad = moecheck("streams check " + path("bad.json"));
  EXPECT_EQ(bad.code, 2) << bad.text;
  EXPECT_NE(bad.text.find("bad.json"), std::string::npos) << bad.text;
}

TEST_F(Cli, StreamsRunExecutesBlocksFilesAndRefusesTheRest) {
  const Ran sound = moecheck("streams run glm4_moe --orders 3 --record " + path("r.json"));
  EXPECT_EQ(sound.code, 0) << sound.text;
  EXPECT_EQ(moecheck("streams check " + path("r.json")).code, 0);
  const Ran graph =
      moecheck("streams run glm4_moe --orders 2 --capturing --case 'moe_block tokens=3 hidden=16'");
  EXPECT_EQ(graph.code, 0) << graph.text;
  EXPECT_NE(graph.text.find("none lost, none gained"), std::string::npos) << graph.text;
  const Ran without = moecheck("streams run glm4_moe --without 'cur.wait(alt)' --orders 4");
  EXPECT_EQ(without.code, 1) << without.text;
  EXPECT_NE(without.text.find("missing   E -> A"), std::string::npos) << without.text;
  const std::size_t repeat = without.text.find("repeat    moecheck ");
  ASSERT_NE(repeat, std::string::npos) << without.text;
  EXPECT_EQ(moecheck(without.text.substr(repeat + 19, without.text.find('\n', repeat) - repeat - 19)).code,
            1);
  // A race that one order does not show is a failure all the same.
  EXPECT_EQ(moecheck("streams run glm4_moe --variant in_place --orders 1").code, 1);
  ASSERT_EQ(moecheck("streams show glm4_moe --variant no_fork --json " + path("p.json")).code, 1);
  EXPECT_EQ(moecheck("streams run " + path("p.json")).code, 1);
  for (const char* bad :
       {"streams run glm5", "streams run glm4_moe --without x", "streams run glm4_moe --impl gpu",
        "streams run indexer --case moe_block", "streams run glm4_moe --case 'moe_block n_shared=0'",
        "streams overlap glm4_moe --impl gpu-host", "streams run /no/such.json"}) {
    const Ran r = moecheck(bad);
    EXPECT_EQ(r.code, 2) << bad << r.text;
    EXPECT_EQ(r.text.find("internal"), std::string::npos) << r.text;
  }
}

TEST_F(Cli, GivenValuesThatNoKernelMayReadAreRefused) {
  using moecheck::harness::TensorSet;
  ASSERT_EQ(moecheck("repro 'indexer_cache tokens=4' --dump " + path("d")).code, 0);
  std::map<std::string, std::string> metadata;
  TensorSet inputs = moecheck::harness::read_safetensors(path("d/inputs.safetensors"), &metadata);
  inputs.view("slot_mapping").set_int(2, 1 << 30);
  moecheck::harness::write_safetensors(path("bad"), inputs, metadata);
  for (const std::string& verb : {"judge indexer_cache --outputs " + path("d/expected.safetensors"),
                                  "run indexer_cache --outputs " + path("o")}) {
    const Ran r = moecheck(verb + " --inputs " + path("bad"));
    EXPECT_EQ(r.code, 2) << r.text;
    EXPECT_NE(r.text.find("slot_mapping[2] = 1073741824 lies past the cache"), std::string::npos) << r.text;
  }
  EXPECT_FALSE(fs::exists(path("o")));
}

TEST_F(Cli, RecordsReportAndJUnitAreWritten) {
  const Ran r = moecheck("check gating --impl cpu --case 'tokens=2 experts=8 topk=2' --records " +
                         path("r.jsonl") + " --junit " + path("j.xml") + " --report " + path("h.html"));
  EXPECT_EQ(r.code, 0) << r.text;
  EXPECT_EQ(files(), 3u);
  EXPECT_EQ(moecheck("report " + path("r.jsonl") + " -o " + path("again.html")).code, 0);
}

TEST_F(Cli, AFailingCheckExitsWithOneAndPrintsTheReproLine) {
  const Ran r =
      moecheck("check moe_block --fault routed_scale_on_shared_slot --model glm-4.7 --suite models --jobs 2");
  EXPECT_EQ(r.code, 1) << r.text;
  EXPECT_NE(r.text.find("vllm#44313"), std::string::npos) << "the cause is named";
  EXPECT_NE(r.text.find("moecheck repro '"), std::string::npos);
}

// The repro line of a failure repeats it, in at most 2 tokens and 4 experts.
TEST_F(Cli, TheScaleBugShrinksAndRepeats) {
  const Ran r = moecheck("check moe_block --fault routed_scale_on_shared_slot --no-relations --jobs 2");
  const std::size_t at = r.text.find("  moecheck repro '");
  ASSERT_NE(at, std::string::npos) << r.text;
  const std::string line = r.text.substr(at + 11, r.text.find('\n', at) - at - 11);
  const Ran again = moecheck(line);
  EXPECT_EQ(again.code, 1) << again.text;
  EXPECT_NE(line.find("experts=1"), std::string::npos) << line;
  EXPECT_NE(line.find("tokens=1"), std::string::npos) << line;
  const Ran named = moecheck(
      "diagnose scale --case 'moe_block model=glm-4.7 tokens=2 hidden=64 intermediate=32' --impl "
      "'cpu!routed_scale_on_shared_slot'");
  EXPECT_EQ(named.code, 1) << named.text;
  EXPECT_NE(named.text.find("vllm#44313"), std::string::npos) << named.text;
}

struct BadUse {
  const char* name;
  const char* arguments;  // @ is the test's own folder
  const char* said;
};

class CliRefuses : public Cli, public testing::WithParamInterface<BadUse> {};

TEST_P(CliRefuses, WithExitCodeTwoAndARemedy) {
  std::string arguments = GetParam().arguments;
  for (std::size_t at; (at = arguments.find('@')) != std::string::npos;)
    arguments.replace(at, 1, dir_.string());
  std::ofstream(dir_ / "garbage") << "this is no tensor file, whatever its name says";
  const Ran r = moecheck(arguments);
  EXPECT_EQ(r.code, 2) << r.text;
  EXPECT_NE(r.text.find(GetParam().said), std::string::npos) << r.text;
  EXPECT_EQ(files(), 1u) << "something was left behind";
}

INSTANTIATE_TEST_SUITE_P(
    Cli, CliRefuses,
    testing::Values(BadUse{"verb", "chekc", "chekc"},
                    BadUse{"operator", "check gatng", "did you mean gating?"},
                    BadUse{"implementation", "check gating --impl gpu", "cpu"},
                    BadUse{"fault", "check gating --fault nonsense", "moecheck list faults"},
                    BadUse{"suite", "check gating --suite quik", "did you mean quick?"},
                    BadUse{"policy", "check gating --policy vllm_cda", "did you mean vllm_cuda?"},
                    BadUse{"model", "check gating --model glm", "did you mean glm-4"},
                    BadUse{"case", "check --case 'gating tokens=many'", "not a whole number"},
                    BadUse{"suite_and_case", "check --suite quick --case 'gating'", "exclude each other"},
                    BadUse{"records_folder", "check gating --case tokens=1 --records @/none/r.jsonl",
                           "cannot be written"},
                    BadUse{"report_folder", "check gating --case tokens=1 --report @/none/r.html", "r.html"},
                    BadUse{"cases_file", "check --cases @/none", "cannot be read"},
                    BadUse{"repro_refused", "repro 'gating policy=sglang_fused experts=160'", "160"},
                    BadUse{"judge_no_file", "judge gating --case tokens=1 --outputs @/none.safetensors",
                           "none.safetensors"},
                    BadUse{"judge_garbage", "judge gating --case tokens=1 --outputs @/garbage", "garbage"},
                    BadUse{"judge_no_case", "judge gating --outputs @/garbage", "--case is needed"},
                    BadUse{"run_unwritable", "run gating --case tokens=1 --outputs @/none/o.safetensors",
                           "o.safetensors"},
                    BadUse{"report_garbage", "report @/garbage -o @/h.html", "garbage"},
                    BadUse{"diagnose_nothing", "diagnose scale", "--case or --tensors"},
                    BadUse{"list_topic", "list kernels", "operators"}),
    [](const auto& test) { return std::string(test.param.name); });

TEST_F(Cli, WrongShapesNameTheTensor) {
  ASSERT_EQ(moecheck("repro 'gating tokens=2 experts=8 topk=2' --impl cpu --dump " + path("d")).code, 0);
  const Ran r = moecheck("judge gating --case 'tokens=3 experts=8 topk=2' --inputs " +
                         path("d/inputs.safetensors") + " --outputs " + path("d/expected.safetensors"));
  EXPECT_EQ(r.code, 2) << r.text;
  EXPECT_NE(r.text.find("router_logits"), std::string::npos) << r.text;
  EXPECT_NE(r.text.find("[3, 8]"), std::string::npos) << r.text;
}

TEST_F(Cli, NothingToRunIsExitCodeThree) {
  EXPECT_EQ(moecheck("check gating --case 'policy=sglang_fused experts=160'").code, 3);
  EXPECT_EQ(moecheck("check routed_scaling --policy sglang_fused").code, 3);
}

TEST_F(Cli, EveryVerbHasHelpAndEveryTopicAList) {
  for (const char* verb : {"", "check", "repro", "run", "judge", "diagnose", "diagnose scale", "list",
                           "bench", "bench operators", "bench judging", "report"}) {
    const Ran r = moecheck(std::string(verb) + " --help");
    EXPECT_EQ(r.code, 0) << verb;
    EXPECT_LT(std::count(r.text.begin(), r.text.end(), '\n'), 60) << "one page: " << verb;
  }
  for (const char* topic :
       {"operators", "implementations", "policies", "models", "suites", "clauses", "faults"})
    for (const char* form : {"", " --json"}) {
      const Ran r = moecheck(std::string("list ") + topic + form);
      EXPECT_EQ(r.code, 0) << topic;
      EXPECT_GT(r.text.size(), 100u) << topic;
    }
}

}  // namespace
