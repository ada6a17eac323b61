// moecheck eval as it is called: what it prints, writes and exits with.
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>

#include "eval_test_support.h"
#include "harness/serve/scripted_engine.h"
#include "harness/serve/server.h"
#include "harness/text.h"

namespace moecheck::harness::eval {
namespace {

using nlohmann::json;
using test::EvalSetup;
using test::Fault;
using test::ModelServer;

struct Result {
  int exit;
  std::string text;
};
Result moecheck(const std::string& arguments) {
  FILE* pipe = popen((std::string(MOECHECK_BINARY) + " eval " + arguments + " 2>&1").c_str(), "r");
  Result r{0, {}};
  char bytes[4096];
  for (std::size_t n = 0; (n = fread(bytes, 1, sizeof bytes, pipe)) > 0;) r.text.append(bytes, n);
  r.exit = WEXITSTATUS(pclose(pipe));
  return r;
}

TEST(EvalCommand, PrintsLmEvalsTableAndWritesItsFiles) {
  const EvalSetup setup(20);
  const ModelServer server;
  const Result r = moecheck("--endpoint " + server.url() + " --data " + (setup.folder / "data") +
                            " --output " + (setup.folder / "out"));
  EXPECT_EQ(r.exit, 0) << r.text;
  EXPECT_NE(r.text.find("|strict-match    |     5|exact_match|\xE2\x86\x91  |  0.8|\xC2\xB1  |0.0918|"),
            std::string::npos)
      << r.text;
  EXPECT_NE(r.text.find("80.00% [58.40, 91.93], Wilson 95%"), std::string::npos) << r.text;
  const harness::Run run = read_run(setup.folder / "out");
  EXPECT_EQ(run.samples.size(), 20u);
  EXPECT_EQ(run.task_hash, setup.prompts.task_hash);
  const json own = json::parse(run.extra_json);
  EXPECT_EQ(own["command"], "moecheck eval --endpoint " + server.url() + " --data " +
                                shell_word(setup.folder / "data") + " --output " +
                                shell_word(setup.folder / "out"));
  EXPECT_EQ(own["server"], "somebody 9.8.7");
  EXPECT_EQ(own["server_info"]["models"][0]["id"], "tiny");
  EXPECT_EQ(own["server_info"]["counters"], nullptr);
}

TEST(EvalCommand, TheReportShowsTheCommandThatWasGiven) {
  const EvalSetup setup(20);
  const ModelServer a, b;
  ASSERT_EQ(moecheck("--ab " + a.url() + " " + b.url() + " --margin 40 --data " + (setup.folder / "data") +
                     " --output " + (setup.folder / "out"))
                .exit,
            0);
  ASSERT_EQ(moecheck("--endpoint " + a.url() + " --data " + (setup.folder / "data") + " --output " +
                     (setup.folder / "c"))
                .exit,
            0);
  const auto report = [&](const std::string& before, const std::string& after) {
    FILE* pipe = popen((std::string(MOECHECK_BINARY) + " report pr --margin 40 --a " +
                        (setup.folder / before) + " --b " + (setup.folder / after))
                           .c_str(),
                       "r");
    std::string text(1 << 16, 0);
    text.resize(fread(text.data(), 1, text.size(), pipe));
    EXPECT_EQ(pclose(pipe), 0);
    return text;
  };
  const std::string both = report("out/a", "out/b"), two = report("out/a", "c");
  const std::string line = "\nmoecheck eval --ab " + a.url() + " " + b.url() + " --margin 40";
  EXPECT_NE(both.find("A and B:\n```" + line), std::string::npos) << both;
  EXPECT_EQ(both.find("from what the result says"), std::string::npos) << both;
  EXPECT_NE(both.find("| A: server says | somebody 9.8.7 |"), std::string::npos) << both;
  EXPECT_NE(two.find("\nA:\n```" + line), std::string::npos) << two;
  EXPECT_NE(two.find("\nB:\n```\nmoecheck eval --endpoint " + a.url()), std::string::npos) << two;
}

TEST(EvalCommand, FailuresLeaveExitCodeThreeAndBounds) {
  const EvalSetup setup(20);
  const ModelServer server([](int question, int) { return question == 3 ? Fault::kBroken : Fault::kNone; });
  const std::string line = "--endpoint " + server.url() + " --data " + (setup.folder / "data") +
                           " --max-retries 1 --output " + (setup.folder / "out");
  const Result r = moecheck(line);
  EXPECT_EQ(r.exit, 3) << r.text;
  EXPECT_NE(r.text.find("1 question without an answer"), std::string::npos) << r.text;
  EXPECT_NE(r.text.find("between 75.00% (were they all wrong) and 80.00% (all right) of 20"),
            std::string::npos)
      << r.text;
  // Asked again by --resume, alone.
  const auto before = server.asked();
  EXPECT_EQ(moecheck(line + " --resume").exit, 3);
  auto after = server.asked();
  EXPECT_EQ(after[3], before.at(3) + 2);
  after[3] = before.at(3);
  EXPECT_EQ(after, before);
}

TEST(EvalCommand, AnotherConfigurationIsNotResumed) {
  const EvalSetup setup(5);
  const ModelServer server;
  const std::string line = "--endpoint " + server.url() + " --data " + (setup.folder / "data") +
                           " --output " + (setup.folder / "out");
  EXPECT_EQ(moecheck(line).exit, 0);
  const Result r = moecheck(line + " --resume --num-fewshot 3");
  EXPECT_EQ(r.exit, 2);
  EXPECT_NE(r.text.find("task hash"), std::string::npos) << r.text;
  EXPECT_EQ(moecheck(line + " --resume --max-gen-toks 99").exit, 2);
  EXPECT_EQ(moecheck(line + " --resume --concurrency 2").exit, 0);
}

TEST(EvalCommand, AbTellsARegressionAndStopsEarly) {
  const EvalSetup setup(60);
  ModelServer sound({}, 0), broken({}, 5);
  const std::string data = " --data " + (setup.folder / "data");
  const std::string arms = "--ab " + sound.url() + " " + broken.url() + data;
  const Result whole = moecheck(arms + " --output " + (setup.folder / "whole"));
  EXPECT_EQ(whole.exit, 1) << whole.text;
  EXPECT_NE(whole.text.find("REGRESSION"), std::string::npos) << whole.text;
  EXPECT_NE(whole.text.find("12 right to wrong, 0 wrong to right"), std::string::npos) << whole.text;
  EXPECT_EQ(read_run(setup.folder / "whole/b").samples.size(), 60u);
  sound.answer_ms = broken.answer_ms = 100;
  const Result early = moecheck(arms + " --stop-early --concurrency 4 --output " + (setup.folder / "early"));
  EXPECT_EQ(early.exit, 1) << early.text;
  EXPECT_NE(early.text.find("REGRESSION: stopped after"), std::string::npos) << early.text;
  const harness::Run a = read_run(setup.folder / "early/a"), b = read_run(setup.folder / "early/b");
  EXPECT_EQ(a.samples.size(), b.samples.size());
  EXPECT_LT(a.samples.size(), 60u);
}

TEST(EvalCommand, AbOfEqualServers) {
  const EvalSetup setup(40);
  const ModelServer a, b;
  const std::string arms = "--ab " + a.url() + " " + b.url() + " --data " + (setup.folder / "data");
  const Result r = moecheck(arms + " --margin 20 --output " + (setup.folder / "wide"));
  EXPECT_EQ(r.exit, 0) << r.text;
  EXPECT_NE(r.text.find("NO REGRESSION"), std::string::npos) << r.text;
  const Result narrow = moecheck(arms + " --margin 0.1 --output " + (setup.folder / "narrow"));
  EXPECT_EQ(narrow.exit, 3) << narrow.text;
  EXPECT_NE(narrow.text.find("INCONCLUSIVE"), std::string::npos) << narrow.text;
}

TEST(EvalCommand, Probe) {
  const EvalSetup setup(12);
  ModelServer server;
  server.answer_ms = 5;
  const std::string line = "--probe --endpoint " + server.url() + " --data " + (setup.folder / "data") +
                           " --concurrency 6 --output ";
  const Result same = moecheck(line + (setup.folder / "same"));
  EXPECT_EQ(same.exit, 0) << same.text;
  EXPECT_NE(same.text.find("batch-invariant on these 12 questions"), std::string::npos) << same.text;
  server.drift_above = 2;
  const Result drift = moecheck(line + (setup.folder / "drift"));
  EXPECT_NE(drift.text.find("not batch-invariant"), std::string::npos) << drift.text;
  EXPECT_NE(drift.text.find("concurrency 1 against 1 again: 0 of 12 texts differ"), std::string::npos)
      << drift.text;
}

TEST(EvalCommand, UnderLoad) {
  const EvalSetup setup(12);
  ModelServer server;
  server.answer_ms = 5;
  const Result r = moecheck("--under-load 5 --concurrency 2 --endpoint " + server.url() + " --data " +
                            (setup.folder / "data") + " --output " + (setup.folder / "out"));
  EXPECT_EQ(r.exit, 0) << r.text;
  EXPECT_NE(r.text.find("graded beside 5 other requests at a time"), std::string::npos) << r.text;
  EXPECT_EQ(server.most_at_once(), 7);
}

TEST(EvalCommand, AServerThatNeverAnswersLeavesNoResults) {
  const EvalSetup setup(3);
  const std::string out = setup.folder / "out";
  const Result r = moecheck("--endpoint http://127.0.0.1:1 --model m --max-retries 0 --data " +
                            (setup.folder / "data") + " --output " + out);
  EXPECT_EQ(r.exit, 3) << r.text;
  EXPECT_NE(r.text.find("gives no answers, 3 requests in a row failed, the last with: refused"),
            std::string::npos)
      << r.text;
  EXPECT_FALSE(std::filesystem::exists(out + "/m"));
}

TEST(EvalCommand, SaysWhatIsServedInstead) {
  const EvalSetup setup(3);
  const ModelServer server;
  const Result r = moecheck("--endpoint " + server.url() + " --model small --data " +
                            (setup.folder / "data") + " --output " + (setup.folder / "out"));
  EXPECT_NE(r.text.find("does not list the model 'small', it lists tiny"), std::string::npos) << r.text;
}

TEST(EvalCommand, RefusalsSayWhatToDo) {
  const EvalSetup setup(8);
  const std::string rest = " --max-retries 0 --data " + (setup.folder / "data") + " --output ";
  test::ScriptedServer locked(
      [](test::Exchange& e) { e.respond(401, R"({"error":{"message":"who are you?"}})"); });
  for (const char* model : {"", " --model tiny"}) {
    const Result r = moecheck("--endpoint " + locked.url() + model + rest +
                              (setup.folder / ("k" + std::string(model).substr(0, 1))));
    EXPECT_EQ(r.exit, *model == 0 ? 2 : 3) << r.text;
    EXPECT_NE(r.text.find("OPENAI_API_KEY"), std::string::npos) << r.text;
  }
}

// One letter too many in a URL: the server answers a TLS greeting with HTTP, and the words say so.
TEST(EvalCommand, HttpsToHttpIsRecognized) {
  const EvalSetup setup(3);
  std::unique_ptr<Engine> engine = make_scripted_engine(parse_scripted(""));
  ServerOptions options;
  options.model_names = {"tiny"};
  Server server(*engine, options);
  server.start();
  const std::string rest = " --max-retries 0 --data " + (setup.folder / "data") + " --output ";
  const std::string url = "--endpoint https://127.0.0.1:" + std::to_string(server.port());
  for (const char* model : {"", " --model tiny"}) {
    const Result r = moecheck(url + model + rest + (setup.folder / ("h" + std::string(model).substr(0, 1))));
    EXPECT_EQ(r.exit, *model == 0 ? 2 : 3) << r.text;
    EXPECT_NE(r.text.find("does the server speak http, not https?"), std::string::npos) << r.text;
  }
}

TEST(EvalCommand, UsageErrors) {
  const EvalSetup setup(5);
  const std::string data = " --data " + (setup.folder / "data");
  const auto refused = [](const std::string& line, const std::string& words) {
    const Result r = moecheck(line);
    EXPECT_EQ(r.exit, 2) << line << "\n" << r.text;
    EXPECT_NE(r.text.find(words), std::string::npos) << line << "\n" << r.text;
  };
  refused(data, "--endpoint URL");
  refused("--endpoint localhost:8000" + data, "has no scheme");
  refused("--endpoint http://127.0.0.1:1" + data, "refused");
  refused("--endpoint http://127.0.0.1:1 --stop-early" + data, "--ab");
  refused("--endpoint http://127.0.0.1:1 --resume" + data, "--output");
  refused("--endpoint http://127.0.0.1:1 --model m --data /nowhere", "/nowhere");
  refused("--endpoint http://127.0.0.1:1 --model m --extra-body 1 --output " + (setup.folder / "x") + data,
          "no JSON object");
}

}  // namespace
}  // namespace moecheck::harness::eval
