// The journal: whatever kills a run, it loses nothing that was finished and asks nothing twice.
#include "harness/eval/journal.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <thread>

#include "eval_test_support.h"
#include "harness/case.h"

namespace moecheck::harness::eval {
namespace {

using test::EvalSetup;
using test::Fault;
using test::ModelServer;
using test::Process;
using test::TemporaryFolder;

const RunSettings kSettings = {{"task", "gsm8k"}, {"model", "tiny"}};

Sample sample(std::int64_t doc, const std::string& completion, bool failed = false) {
  Sample s;
  s.doc_id = doc;
  s.doc_json = "{}";
  s.completion = completion;
  s.failed = failed;
  return s;
}

std::string read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

template <class Work>
std::string refusal(Work work) {
  try {
    work();
  } catch (const UsageError& e) {
    return e.what();
  }
  return "nothing was refused";
}

TEST(EvalJournal, WhatWasWrittenIsFound) {
  const TemporaryFolder folder;
  {
    Journal j(folder / "out", kSettings, false);
    EXPECT_TRUE(j.found().empty());
    j.append(sample(3, "a\nb\xC3\xA9"));
    j.append(sample(1, "", true));
    j.append(sample(1, "second try"));
    j.append_results("there.json");
  }
  {
    const Journal j(folder / "out", kSettings, true);
    ASSERT_EQ(j.found().size(), 2u);
    EXPECT_EQ(j.found()[0].completion, "a\nb\xC3\xA9");
    EXPECT_EQ(j.found()[1].completion, "second try");
    EXPECT_FALSE(j.found()[1].failed);
    EXPECT_EQ(j.results(), "there.json");
    EXPECT_EQ(j.dropped_bytes(), 0);
  }
  Journal(folder / "out", kSettings, true).append(sample(5, "more"));
  EXPECT_EQ(Journal(folder / "out", kSettings, true).results(), "") << "older than the last sample";
}

TEST(EvalJournal, CutAnywhereItKeepsEveryWholeLine) {
  const TemporaryFolder folder;
  {
    Journal j(folder.path(), kSettings, false);
    for (int i = 0; i < 3; ++i) j.append(sample(i, "text " + std::to_string(i)));
  }
  const std::string path = folder / "journal.jsonl", whole = read(path);
  for (std::size_t n = 0; n <= whole.size(); ++n) {
    // Around the ends of lines, and some places within.
    if (n % 23 != 0 && n < whole.size() && whole[n] != '\n' && whole[n - 1] != '\n') continue;
    std::ofstream(path, std::ios::binary | std::ios::trunc) << whole.substr(0, n);
    const auto lines = std::count(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n), '\n');
    {
      Journal j(folder.path(), kSettings, true);
      ASSERT_EQ(static_cast<std::int64_t>(j.found().size()), std::max<std::int64_t>(0, lines - 1))
          << "cut at byte " << n;
      j.append(sample(9, "after"));
    }
    const Journal again(folder.path(), kSettings, true);
    ASSERT_EQ(again.found().back().completion, "after") << "cut at byte " << n;
    ASSERT_EQ(again.dropped_bytes(), 0);
  }
}

TEST(EvalJournal, RefusalsNameTheReason) {
  const TemporaryFolder folder;
  {
    Journal j(folder.path(), kSettings, false);
    j.append(sample(0, "x"));
    EXPECT_NE(refusal([&] { Journal(folder.path(), kSettings, true); }).find("another moecheck"),
              std::string::npos);
  }
  EXPECT_NE(refusal([&] { Journal(folder.path(), kSettings, false); }).find("--resume"), std::string::npos);
  RunSettings other = kSettings;
  other[1].second = "large";
  const std::string why = refusal([&] { Journal(folder.path(), other, true); });
  EXPECT_NE(why.find("its model is 'tiny', this one's 'large'"), std::string::npos) << why;
  const std::string path = folder / "journal.jsonl", whole = read(path);
  std::ofstream(path, std::ios::app) << "rubbish\n" << whole.substr(whole.find('\n') + 1);
  EXPECT_NE(refusal([&] { Journal(folder.path(), kSettings, true); }).find("line 3 is damaged"),
            std::string::npos);
  std::ofstream(path, std::ios::trunc) << "{\"other\":1}\n";
  EXPECT_NE(refusal([&] { Journal(folder.path(), kSettings, true); }).find("does not begin as a journal"),
            std::string::npos);
  std::ofstream(folder / "file") << "x";
  EXPECT_NE(refusal([&] { Journal(folder / "file", kSettings, false); }).find("--output"), std::string::npos);
}

TEST(EvalJournal, RubbishInTheLastLineIsDropped) {
  const TemporaryFolder folder;
  Journal(folder.path(), kSettings, false).append(sample(0, "x"));
  std::ofstream(folder / "journal.jsonl", std::ios::app) << std::string(100, '\0') << "\n";
  const Journal j(folder.path(), kSettings, true);
  EXPECT_EQ(j.found().size(), 1u);
  EXPECT_EQ(j.dropped_bytes(), 101);
}

TEST(EvalJournal, WhatIsCountedIsOnDisk) {
  EvalSetup setup(40);
  ModelServer server;
  server.answer_ms = 60;
  setup.settings.concurrency = 4;
  auto e = setup.evaluation({server.url()});
  e->attach(0, std::make_unique<Journal>(setup.folder / "out", e->run_settings(0), false));
  http::Client client;
  int ticks = 0;
  EXPECT_EQ(e->run(client,
                   [&] {
                     ++ticks;
                     const std::string text = read(setup.folder / "out/journal.jsonl");
                     EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1 + e->arms()[0].answered);
                     return true;
                   }),
            End::kComplete);
  EXPECT_GE(ticks, 2);
}

TEST(EvalJournal, StoppedAndResumedRepeatsNothing) {
  EvalSetup setup(40);
  setup.settings.retry.max_retries = 0;
  // Question 5 fails until that is in the journal: a failure in flight when a session ends is not.
  ModelServer server([&](int question, int) {
    const bool told = read(setup.folder / "out/journal.jsonl").find("\"doc_id\": 5,") != std::string::npos;
    return question == 5 && !told ? Fault::kBroken : Fault::kNone;
  });
  server.answer_ms = 60;
  setup.settings.concurrency = 4;
  std::int64_t answered = 0;
  for (int session = 0; session < 20 && answered < 40; ++session) {
    auto e = setup.evaluation({server.url()});
    e->attach(0, std::make_unique<Journal>(setup.folder / "out", e->run_settings(0), session > 0));
    EXPECT_EQ(e->arms()[0].resumed, answered);
    http::Client client;
    e->run(client, [&] { return false; });  // stopped by the first tick
    answered = e->arms()[0].answered;
  }
  EXPECT_EQ(answered, 40);
  auto e = setup.evaluation({server.url()});
  e->attach(0, std::make_unique<Journal>(setup.folder / "out", e->run_settings(0), true));
  http::Client client;
  EXPECT_EQ(e->run(client, [] { return true; }), End::kComplete);
  EXPECT_EQ(summarize(e->run_of_arm(0)).filters[0].accuracy.right, 32);
  // Those in flight when a session ended were asked again, no finished one was.
  const std::string text = read(setup.folder / "out/journal.jsonl");
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1 + 40 + 1) << "header, answers, one failure";
  EXPECT_EQ(server.asked().size(), 40u);
}

TEST(EvalJournal, SamplesOfOtherPromptsAreRefused) {
  EvalSetup setup(5);
  const auto e = setup.evaluation({"http://localhost:1"});
  { Journal(setup.folder / "out", e->run_settings(0), false).append(sample(0, "x")); }
  EXPECT_NE(refusal([&] {
              e->attach(0, std::make_unique<Journal>(setup.folder / "out", e->run_settings(0), true));
            }).find("document 0 is not of these prompts"),
            std::string::npos);
}

// ---- The program itself, killed

std::vector<std::string> command(const EvalSetup& setup, const std::string& url, const std::string& out,
                                 bool resume) {
  std::vector<std::string> c = {
      MOECHECK_BINARY,       "eval",          "--endpoint", url,        "--data",
      setup.folder / "data", "--concurrency", "4",          "--output", setup.folder / out};
  if (resume) c.emplace_back("--resume");
  return c;
}

std::string only_file(const std::string& folder, const std::string& prefix) {
  std::string found;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().filename().string().starts_with(prefix)) {
      EXPECT_EQ(found, "") << "two files " << prefix;
      found = entry.path();
    }
  return found;
}

// The rows of the newest samples_*.jsonl without what differs from run to run. A kill while results were being written
// may leave an older one, of the same samples.
std::vector<std::string> rows(const std::string& folder) {
  std::string newest;
  for (const auto& entry : std::filesystem::directory_iterator(folder + "/tiny"))
    if (entry.path().filename().string().starts_with("samples_"))
      newest = std::max(newest, entry.path().string());
  std::ifstream in(newest);
  std::vector<std::string> all;
  for (std::string line; std::getline(in, line);) {
    nlohmann::ordered_json j = nlohmann::ordered_json::parse(line);
    j["moecheck"].erase("latency_s");
    j["moecheck"].erase("attempts");
    j["moecheck"].erase("error");
    all.push_back(j.dump());
  }
  return all;
}

TEST(EvalKilled, ResumesWithNothingLostAndNothingRepeated) {
  EvalSetup setup(60);
  ModelServer server;
  ASSERT_EQ(Process(command(setup, server.url(), "whole", false), setup.folder / "log").wait(), 0)
      << read(setup.folder / "log");
  std::map<int, int> asked_before = server.asked();
  server.answer_ms = 20;
  int kills = 0;
  std::int64_t kept = 0;
  for (int session = 0; session < 30; ++session) {
    const Process p(command(setup, server.url(), "killed", session > 0), setup.folder / "log");
    std::this_thread::sleep_for(std::chrono::milliseconds(60 + 7 * session));
    kill(p.id, SIGKILL);
    const int end = p.wait();
    const std::string text = read(setup.folder / "killed/journal.jsonl");
    const auto lines = std::count(text.begin(), text.end(), '\n');
    EXPECT_GE(lines, kept) << "an answer was lost";
    kept = lines;
    if (end == 0) break;
    ASSERT_EQ(end, -SIGKILL) << read(setup.folder / "log");
    ++kills;
  }
  EXPECT_GE(kills, 2);
  ASSERT_EQ(Process(command(setup, server.url(), "killed", true), setup.folder / "log").wait(), 0)
      << read(setup.folder / "log");
  EXPECT_EQ(rows(setup.folder / "killed"), rows(setup.folder / "whole"));
  // A question may be asked again only when the kill fell between its request and its answer's line: at most 4 are
  // between at a time.
  const std::string text = read(setup.folder / "killed/journal.jsonl");
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1 + 60 + 1)
      << "header, one line per question, results";
  int extra = 0;
  for (const auto& [question, times] : server.asked()) extra += times - asked_before[question] - 1;
  EXPECT_LE(extra, 4 * kills);
}

TEST(EvalKilled, AnInterruptEndsInOrder) {
  EvalSetup setup(60);
  ModelServer server;
  server.answer_ms = 100;
  const Process p(command(setup, server.url(), "out", false), setup.folder / "log");
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  kill(p.id, SIGINT);
  EXPECT_EQ(p.wait(), 3);
  const std::string log = read(setup.folder / "log");
  EXPECT_NE(log.find("--resume"), std::string::npos) << log;
  EXPECT_EQ(Process(command(setup, server.url(), "out", false), setup.folder / "log").wait(), 2);
  server.answer_ms = 0;
  EXPECT_EQ(Process(command(setup, server.url(), "out", true), setup.folder / "log").wait(), 0);
  // Once more: nothing is left to ask, and no second results file appears.
  const auto asked = server.asked();
  EXPECT_EQ(Process(command(setup, server.url(), "out", true), setup.folder / "log").wait(), 0);
  EXPECT_EQ(server.asked(), asked);
  EXPECT_NE(only_file(setup.folder / "out/tiny", "results_"), "");
}

}  // namespace
}  // namespace moecheck::harness::eval
