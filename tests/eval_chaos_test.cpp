// The fault list, end to end: the evaluator against the embedded server, whose chaos mode plays each fault, in both APIs,
// streamed and not. What is on disk in the end is, but for times and attempts, that of a run without faults.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <array>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include "eval_test_support.h"
#include "harness/serve/scripted_engine.h"
#include "harness/serve/server.h"

namespace moecheck::harness::eval {
namespace {

using test::Process;
using test::TemporaryFolder;
using Json = nlohmann::ordered_json;

constexpr int kQuestions = 64;
const std::string kData = MOECHECK_SOURCE_DIR "/datasets/word_problems";

std::string read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string only_file(const std::string& folder, const std::string& prefix) {
  std::string found;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    if (entry.path().filename().string().starts_with(prefix)) {
      EXPECT_EQ(found, "") << "two files " << prefix;
      found = entry.path();
    }
  return found;
}

// The document of a journal's line, where that line is an answer. By its text: thousands of lines are read.
std::optional<std::int64_t> answered_document(const std::string& line) {
  const std::size_t at = line.find("\"doc_id\":");
  if (at == line.npos || line.find("\"failed\": true") != line.npos) return std::nullopt;
  return std::atoll(line.c_str() + at + 9);
}

// The scripted engine, which answers the test questions, most of them rightly. It watches a journal: a question that comes
// here after its answer was written there is counted.
class WatchedEngine final : public Engine {
 public:
  WatchedEngine(const std::string& answers, const std::vector<Document>& questions, const std::string& timing)
      : inner_(make_scripted_engine(parse_scripted("burst=7,accuracy=0.8,answers=" + answers + timing))),
        questions_(questions) {}

  void watch(const std::string& journal) {
    const std::lock_guard lock(mutex_);
    journal_.close();
    journal_.clear();
    path_ = journal;
    answered_.clear();
  }
  int asked() const {
    const std::lock_guard lock(mutex_);
    return asked_;
  }
  int asked_after_answer() const {
    const std::lock_guard lock(mutex_);
    return asked_after_answer_;
  }

  const Tokenizer& tokenizer() const override { return inner_->tokenizer(); }
  std::int64_t max_model_len() const override { return inner_->max_model_len(); }
  EngineStatistics statistics() const override { return inner_->statistics(); }
  void submit(GenerationRequest request, OnUpdate on_update) override {
    std::string prompt;
    for (const TokenId id : request.prompt) prompt += tokenizer().bytes(id);
    {
      const std::lock_guard lock(mutex_);
      ++asked_;
      read_journal();
      const std::size_t at = prompt.rfind("Question: ") + 10;
      asked_after_answer_ += answered_.contains(prompt.substr(at, prompt.find("\nAnswer:", at) - at)) ? 1 : 0;
    }
    inner_->submit(std::move(request), std::move(on_update));
  }

 private:
  void read_journal() {
    if (!journal_.is_open()) journal_.open(path_, std::ios::binary);
    journal_.clear();
    for (std::string piece; std::getline(journal_, piece); line_.clear()) {
      line_ += piece;
      if (journal_.eof()) return journal_.clear();  // the rest of the line is to come
      if (const auto doc = answered_document(line_))
        answered_.insert(questions_.at(static_cast<std::size_t>(*doc)).question);
    }
  }

  std::unique_ptr<Engine> inner_;
  const std::vector<Document>& questions_;
  mutable std::mutex mutex_;
  std::string path_, line_;
  std::ifstream journal_;
  std::set<std::string> answered_;
  int asked_ = 0, asked_after_answer_ = 0;
};

ServerOptions server_options(const std::string& chaos) {
  ServerOptions o;
  o.model_names = {"tiny"};
  o.chaos = chaos;
  o.chaos_seed = 3;
  o.http.drain_seconds = 1;
  return o;
}

// The data, and its solutions with signs that take two to four bytes.
struct World {
  World() : data(read_dataset(kData)) {
    std::ofstream out(folder / "answers.jsonl");
    for (std::size_t i = 0; i < data.test.size(); ++i) {
      std::string answer;
      for (const char c : data.test[i].answer) {
        if (c == '*')
          answer += "\u00d7";
        else if (c == '=')
          answer += " \u2192 ";
        else if (c == '\n')
          answer += " \U0001F642\n";
        else
          answer += c;
      }
      out << Json{{"question", data.test[i].question}, {"answer", answer}}.dump() << "\n";
    }
  }
  const PromptSet& prompts(Api api) const { return api == Api::kChat ? chat : completions; }
  std::string answers() const { return folder / "answers.jsonl"; }

  TemporaryFolder folder;
  Dataset data;
  PromptSet completions = make(Api::kCompletions), chat = make(Api::kChat);

 private:
  PromptSet make(Api api) const {
    PromptOptions o;
    o.api = api;
    o.limit = kQuestions;
    return make_prompts(require_task("gsm8k"), data, o);
  }
};
const World& world() {
  static const World w;
  return w;
}

// What a run leaves on disk, without times, attempts and the name of the server.
struct OnDisk {
  std::vector<std::string> rows;  // of samples_*.jsonl: texts, extractions, scores, hashes
  std::string results;            // scores, counts, task hash
  std::multiset<std::int64_t> journaled;
};

OnDisk on_disk(const std::string& folder, bool usage = true) {
  OnDisk d;
  std::ifstream samples(only_file(folder, "samples_"));
  // The rows end in {..., "prompt_tokens", "completion_tokens", "attempts", "latency_s", "ttft_s", "error"}.
  for (std::string line; std::getline(samples, line);) {
    const std::size_t end = line.rfind(usage ? ", \"attempts\": " : ", \"prompt_tokens\": ");
    EXPECT_NE(end, line.npos) << line;
    d.rows.push_back(line.substr(0, end));
  }
  const Json all = Json::parse(read(only_file(folder, "results_")));
  const Json& own = all["moecheck"];
  d.results = Json{all["results"],  all["n-samples"], all["task_hashes"], all["n-shot"],     own["outcomes"],
                   own["answered"], own["failed"],    own["failures"],    own["test_sha256"]}
                  .dump();
  std::ifstream journal(folder + "/journal.jsonl");
  for (std::string line; std::getline(journal, line);)
    if (const auto doc = answered_document(line)) d.journaled.insert(*doc);
  return d;
}

void expect_equal(const OnDisk& d, const OnDisk& expected) {
  ASSERT_EQ(d.rows.size(), expected.rows.size());
  for (std::size_t i = 0; i < d.rows.size(); ++i) ASSERT_EQ(d.rows[i], expected.rows[i]);
  EXPECT_EQ(d.results, expected.results);
  EXPECT_EQ(d.journaled, expected.journaled);
}

struct Way {
  Api api;
  bool stream;
};

Settings quick_settings(bool stream) {
  Settings s;
  s.stream = stream;
  s.concurrency = kQuestions;
  s.retry.first_s = 0.01;
  s.retry.longest_s = 0.05;
  s.limits.total_s = 20;
  return s;
}

// Evaluates into `folder`; returns the arm's counts and what the server counted.
struct Counts {
  std::map<std::string, std::int64_t> errors;
  std::int64_t retries = 0, http_requests = 0;
  int asked_after_answer = 0;
  double seconds = 0;
};

std::int64_t http_requests(std::uint16_t port) {
  const std::string text =
      http::get(fmt::format("http://127.0.0.1:{}/metrics", port), {}, http::Limits{}).body;
  const std::size_t at = text.find("\nmoecheck:http_requests_total{");
  return at == text.npos ? -1 : std::atoll(text.c_str() + text.find("} ", at) + 2) - 1;  // less this one
}

Counts evaluate(const Way& way, const std::string& chaos, const std::string& folder, double timeout = 20) {
  WatchedEngine engine(world().answers(), world().data.test, "");
  engine.watch(folder + "/journal.jsonl");
  Server server(engine, server_options(chaos));
  server.start();
  Settings settings = quick_settings(way.stream);
  settings.limits.total_s = timeout;
  Evaluation e(world().prompts(way.api), world().data, settings,
               {{http::parse_endpoint(fmt::format("http://127.0.0.1:{}", server.port())), "tiny"}});
  e.attach(0, std::make_unique<Journal>(folder, e.run_settings(0), false));
  const http::Nanoseconds start = http::now();
  http::Client client;
  EXPECT_EQ(e.run(client, [] { return true; }), End::kComplete) << e.arms()[0].last_error;
  Counts o;
  o.seconds = static_cast<double>(http::now() - start) * 1e-9;
  harness::Run run = e.run_of_arm(0);
  run.base_url = "http://here";
  write_run(folder, run);
  o.errors = e.arms()[0].errors;
  o.retries = e.arms()[0].retries;
  o.asked_after_answer = engine.asked_after_answer();
  o.http_requests = http_requests(server.port());
  return o;
}

// The run without faults, made once for each way.
const OnDisk& sound(const Way& way, bool usage = true) {
  static std::mutex mutex;
  static std::map<std::pair<Api, bool>, std::array<OnDisk, 2>> runs;
  const std::lock_guard lock(mutex);
  const auto [run, is_new] = runs.try_emplace({way.api, way.stream});
  if (is_new) {
    const TemporaryFolder folder;
    EXPECT_EQ(evaluate(way, "", folder / "out").retries, 0);
    run->second = {on_disk(folder / "out", false), on_disk(folder / "out", true)};
    EXPECT_EQ(run->second[1].rows.size(), 2u * kQuestions);
  }
  return run->second[usage ? 1 : 0];
}

struct Case {
  const char* name;
  const char* chaos;
  std::vector<std::string> errors;  // that attempts may be counted under, streamed; empty: no attempt fails
  std::vector<std::string> plain_errors;  // not streamed
  double at_least_s = 0;                  // that the run takes, for the server asked it to wait or was late
  double timeout_s = 20;
  bool usage = true;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class EvalChaos : public testing::TestWithParam<Case> {};

void check(const Case& c, const Way& way) {
  SCOPED_TRACE(fmt::format("{} {}", way.api == Api::kChat ? "chat" : "completions",
                           way.stream ? "streamed" : "whole"));
  const TemporaryFolder folder;
  const Counts o = evaluate(way, c.chaos, folder / "out", c.timeout_s);
  expect_equal(on_disk(folder / "out", c.usage), sound(way, c.usage));
  EXPECT_EQ(o.asked_after_answer, 0);
  const std::vector<std::string>& kinds = way.stream ? c.errors : c.plain_errors;
  std::int64_t met = 0;
  for (const auto& [kind, n] : o.errors) {
    EXPECT_NE(std::find(kinds.begin(), kinds.end(), kind), kinds.end())
        << n << " attempts counted as " << kind;
    met += n;
  }
  EXPECT_EQ(o.retries, met);
  // Every request is one that the evaluator knows of. The transport may repeat one of its own accord on a kept connection
  // that ended, so there may be more after those faults.
  const bool ends = std::string_view(c.chaos).find("re") == 0;  // reset, refuse
  if (!ends) {
    EXPECT_EQ(o.http_requests, kQuestions + o.retries);
  }
  if (!kinds.empty()) {
    EXPECT_GE(o.http_requests - kQuestions, kQuestions / 4) << "the fault was not met";
  }
  EXPECT_GE(o.seconds, c.at_least_s);
}

TEST_P(EvalChaos, NothingIsLostAndNothingAskedTwice) {
  const Case& c = GetParam();
  std::vector<std::future<void>> ways;  // beside each other: most of the time they wait
  for (const Api api : {Api::kCompletions, Api::kChat})
    for (const bool stream : {false, true})
      ways.push_back(std::async(std::launch::async, [&c, api, stream] { check(c, {api, stream}); }));
  for (auto& w : ways) w.get();
}

const std::vector<std::string> kNone, kCut = {"cut-short"}, kReset = {"reset"}, kBusy = {"rate-limited"},
                                      kDown = {"server-error"};
const Case kCases[] = {
    {"connection_reset", "reset=0.5", kReset, kReset},
    {"connection_closed", "refuse=0.5", kReset, kReset},
    {"status_429_seconds", "429=0.5:1s,max_faults=1", kBusy, kBusy, 1.0},
    {"status_429_date", "429_date=0.5:0s", kBusy, kBusy},
    {"status_503_seconds", "503=0.5:0s", kDown, kDown},
    {"status_503_date", "503_date=0.5:2s,max_faults=1", kDown, kDown, 1.0},
    {"status_500", "500=0.5", kDown, kDown},
    {"timeout", "timeout=0.5,max_faults=1", {"timeout"}, {"timeout"}, 0.6, 0.6},
    {"truncated_stream", "truncate=0.5", kCut, kCut},
    {"cut_stream", "cut=0.5", kCut, {"invalid-json"}},
    // Whole all the same, by its finish_reason and the end of HTTP (it was taken for cut short once).
    {"missing_done", "no_done=0.5", kNone, kNone},
    {"missing_usage", "no_usage=1", kNone, kNone, 0, 20, false},
    {"split_utf8", "split=0.5", kNone, kNone},
    {"multi_token_chunks", "multi_token=1", kNone, kNone},
    {"invalid_json", "invalid_json=0.5", {"invalid-json"}, {"invalid-json"}},
    {"wrong_content_type", "wrong_type=0.5", {"wrong-content-type"}, {"wrong-content-type"}},
    {"error_in_stream", "error_event=0.5", {"error-in-stream", "server-error"}, kDown},
    {"slow_first_token", "slow_first=0.5:200ms", kNone, kNone, 0.2},
    {"forms_of_streams",
     "split=0.2,usage_last=0.5,usage_every=0.3,role_only=0.5,comments=0.5,crlf=0.5,bom=0.5", kNone, kNone},
    {"all_together",
     "reset=0.06,refuse=0.06,429=0.04:0s,429_date=0.04:0s,503=0.04:0s,503_date=0.04:0s,500=0.06,timeout=0.03,"
     "slow_first=0.06:50ms,truncate=0.06,cut=0.06,no_done=0.06,invalid_json=0.06,wrong_type=0.06,error_event="
     "0.06,"
     "split=0.2,multi_token=0.3,no_usage=0.2,role_only=0.2,comments=0.2,crlf=0.2,bom=0.2,max_faults=2",
     {"reset", "rate-limited", "server-error", "timeout", "cut-short", "invalid-json", "wrong-content-type",
      "error-in-stream"},
     {"reset", "rate-limited", "server-error", "timeout", "cut-short", "invalid-json", "wrong-content-type"},
     0,
     1.0,
     false},
};

INSTANTIATE_TEST_SUITE_P(All, EvalChaos, testing::ValuesIn(kCases),
                         [](const auto& tested) { return std::string(tested.param.name); });

// Connections are refused until the server has come up, and again while it is away in the middle.
TEST(EvalChaosServer, RefusedUntilItIsUpAndWhileItIsAway) {
  const TemporaryFolder folder;
  const Way way{Api::kCompletions, true};
  WatchedEngine engine(world().answers(), world().data.test, ",ttft=20");
  engine.watch(folder / "out/journal.jsonl");
  ServerOptions options = server_options("");
  options.http.port = Server(engine, options).port();  // free again
  Settings settings = quick_settings(true);
  settings.concurrency = 8;
  settings.retry.max_retries = 100;
  Evaluation e(world().prompts(way.api), world().data, settings,
               {{http::parse_endpoint(fmt::format("http://127.0.0.1:{}", options.http.port)), "tiny"}});
  e.attach(0, std::make_unique<Journal>(folder / "out", e.run_settings(0), false));
  http::Client client;
  std::optional<Server> server;
  int ticks = 0;
  bool away = false;
  const End end = e.run(client, [&] {
    ++ticks;
    const std::int64_t answered = e.arms()[0].answered;
    if (server && !away && answered > 0 && answered < kQuestions) {
      server.reset();
      away = true;
    } else if (!server && ticks >= 2) {
      server.emplace(engine, options);
      server->start();
    }
    return true;
  });
  EXPECT_EQ(end, End::kComplete) << e.arms()[0].last_error;
  EXPECT_GE(e.arms()[0].errors.at("refused"), 16);
  harness::Run run = e.run_of_arm(0);
  run.base_url = "http://here";
  write_run(folder / "out", run);
  expect_equal(on_disk(folder / "out"), sound(way));
  EXPECT_EQ(engine.asked_after_answer(), 0);
}

std::vector<std::string> command(const std::string& url, const std::string& out, const Way& way,
                                 bool resume) {
  std::vector<std::string> c = {
      MOECHECK_BINARY, "eval", "--endpoint",    url,
      "--data",        kData,  "--limit",       std::to_string(kQuestions),
      "--output",      out,    "--concurrency", "16",
      "--max-retries", "20",   "--api",         way.api == Api::kChat ? "chat" : "completions"};
  if (way.stream) c.emplace_back("--stream");
  if (resume) c.emplace_back("--resume");
  return c;
}

// The program itself, killed in the middle of faults, again and again.
void kill_and_resume(const Way& way) {
  sound(way);
  const TemporaryFolder folder;
  WatchedEngine engine(world().answers(), world().data.test, ",ttft=40");
  const std::string journal = folder / "out/journal.jsonl", log = folder / "log";
  engine.watch(journal);
  Server server(engine,
                server_options("reset=0.1,500=0.1,truncate=0.1,invalid_json=0.1,split=0.3,max_faults=1"));
  server.start();
  const std::string url = fmt::format("http://127.0.0.1:{}", server.port());
  const auto lines = [&journal] {
    const std::string text = read(journal);
    return std::count(text.begin(), text.end(), '\n');
  };
  std::int64_t kept = 0;
  int kills = 0;
  for (const std::int64_t after : {8, 20, 40}) {
    const Process p(command(url, folder / "out", way, kills > 0), log);
    const http::Nanoseconds late = http::now() + 10 * http::kSecond;
    while (lines() < 1 + after && http::now() < late)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    kill(p.id, SIGKILL);
    ASSERT_EQ(p.wait(), -SIGKILL) << read(log);
    ++kills;
    ASSERT_GE(lines(), 1 + after) << read(log);
    EXPECT_GE(lines(), kept) << "an answer was lost";
    EXPECT_LT(lines(), 1 + kQuestions) << "killed too late to tell anything";
    kept = lines();
  }
  ASSERT_EQ(Process(command(url, folder / "out", way, true), log).wait(), 0) << read(log);
  const OnDisk d = on_disk(folder / "out");
  expect_equal(d, sound(way));
  EXPECT_EQ(engine.asked_after_answer(), 0);
  // Once more: there is nothing left to ask.
  const int before = engine.asked();
  ASSERT_EQ(Process(command(url, folder / "out", way, true), log).wait(), 0) << read(log);
  EXPECT_EQ(engine.asked(), before);
  expect_equal(on_disk(folder / "out"), d);
}

TEST(EvalChaosKilled, CompletionsWhole) { kill_and_resume({Api::kCompletions, false}); }
TEST(EvalChaosKilled, ChatStreamed) { kill_and_resume({Api::kChat, true}); }

}  // namespace
}  // namespace moecheck::harness::eval
