#pragma once
// A folder of small problems, and a model that answers them over HTTP: always the same answer to the same prompt, some of
// them wrong, with faults on request.
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <string>

#include "harness/eval/evaluation.h"
#include "harness/json.h"
#include "scripted_server.h"
#include "temporary_folder.h"

namespace moecheck::test {

inline void write_problems(const std::string& directory, int test, int train) {
  std::filesystem::create_directories(directory);
  for (const auto& [name, n, first] : {std::tuple("test", test, 100), std::tuple("train", train, 5000)}) {
    std::ofstream out(directory + "/" + name + ".jsonl");
    for (int i = 0; i < n; ++i) {
      const int a = first + i, b = 7 + i % 5;
      out << nlohmann::ordered_json{{"question", "Zo\xC3\xAB has " + std::to_string(a) + " pens and buys " +
                                                     std::to_string(b) + ". How many?"},
                                    {"answer", std::to_string(a) + " + " + std::to_string(b) + ".\n#### " +
                                                   std::to_string(a + b)}}
                 .dump()
          << "\n";
    }
  }
}

enum class Fault {
  kNone,
  kReset,
  kClose,
  kTooMany,      // 429, Retry-After 0.05
  kTooManyDate,  // 429, Retry-After as a date
  kUnavailable,  // 503, Retry-After 0
  kBroken,       // 500
  kSilent,       // never answers
  kSlowFirst,    // right, but late
  kTruncated,    // the connection ends within the answer
  kCut,          // the HTTP ends well, the answer does not
  kNoDone,
  kNoFinish,
  kInvalidJson,
  kHtml,
  kErrorEvent,
  kSplit,       // right, byte by byte
  kMultiToken,  // right, the whole text in one event
  kNoUsage,     // right
};

class ModelServer {
 public:
  using Choice = std::function<Fault(int question, int attempt)>;  // both from 0

  explicit ModelServer(Choice choice = {}, int wrong_every = 5)
      : choice_(std::move(choice)), wrong_every_(wrong_every), server_([this](Exchange& e) { answer(e); }) {}

  std::string url() const { return server_.url(); }
  int most_at_once() const { return server_.most_at_once(); }
  // How often each question was asked.
  std::map<int, int> asked() const {
    const std::lock_guard lock(mutex_);
    return asked_;
  }
  std::vector<std::string> bodies() const {
    const std::lock_guard lock(mutex_);
    return bodies_;
  }
  std::atomic<int> answer_ms{0};
  std::atomic<int> drift_above{1 << 30};  // with more requests than that at once the words differ

 private:
  using Json = nlohmann::ordered_json;

  static std::string last_question(const Json& body) {
    const std::string text = body.contains("messages") ? body["messages"].back()["content"].get<std::string>()
                                                       : body["prompt"].get<std::string>();
    return text.substr(text.rfind("Question: "));
  }
  std::string words(int a, int b) const {
    const int sum = a + b + (wrong_every_ > 0 && (a - 100) % wrong_every_ == 4 ? 1 : 0);
    return " Zo\xC3\xAB \xF0\x9F\x96\x8A has " + std::to_string(a) + " + " + std::to_string(b) + ".\n#### " +
           std::to_string(sum);
  }
  void answer(Exchange& e) {
    if (e.path == "/v1/models")
      return e.respond(200,
                       R"({"object":"list","data":[{"id":"tiny","object":"model","owned_by":"somebody"}]})");
    if (e.path == "/version") return e.respond(200, R"({"version":"9.8.7"})");
    if (e.path != "/v1/completions" && e.path != "/v1/chat/completions") return e.respond(404, "{}");
    const Json body = Json::parse(e.body);
    const std::string question = last_question(body);
    const int a = std::atoi(question.c_str() + question.find("has ") + 4);
    const int b = std::atoi(question.c_str() + question.find("buys ") + 5);
    const int running = ++running_;
    int attempt = 0;
    {
      const std::lock_guard lock(mutex_);
      attempt = asked_[a - 100]++;
      bodies_.push_back(e.body);
    }
    if (answer_ms > 0) e.wait(answer_ms);
    std::string text = words(a, b);
    if (running > drift_above) text = " So" + text;
    const Fault fault = choice_ ? choice_(a - 100, attempt) : Fault::kNone;
    if (!refuse(e, fault)) respond(e, body, fault, text);
    --running_;
  }
  static bool refuse(Exchange& e, Fault fault) {
    const std::string type = "Content-Type: application/json\r\n";
    const std::string error = R"({"error":{"message":"try later","type":"overloaded","code":1}})";
    char date[64];
    const std::time_t soon = std::time(nullptr);
    std::strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", std::gmtime(&soon));
    switch (fault) {
      case Fault::kReset:
        return e.reset(), true;
      case Fault::kClose:
        return e.close(), true;
      case Fault::kTooMany:
        return e.respond(429, error, type + "Retry-After: 0.05\r\n"), true;
      case Fault::kTooManyDate:
        return e.respond(429, error, type + "Retry-After: " + date + "\r\n"), true;
      case Fault::kUnavailable:
        return e.respond(503, error, type + "Retry-After: 0\r\n"), true;
      case Fault::kBroken:
        return e.respond(500, "Internal Server Error", "Content-Type: text/plain\r\n"), true;
      case Fault::kSilent:
        return e.wait(60000), true;
      case Fault::kHtml:
        return e.respond(200, "<html>Bad gateway</html>", "Content-Type: text/html\r\n"), true;
      case Fault::kSlowFirst:
        return e.wait(100), false;
      default:
        return false;
    }
  }
  static Json choice_of(const Json& body, const std::string& text, const Json& finish) {
    Json c{{"index", 0}, {"finish_reason", finish}};
    const char* part = body.value("stream", false) ? "delta" : "message";
    if (body.contains("messages"))
      c[part] = {{"role", "assistant"}, {"content", text}};
    else
      c["text"] = text;
    return {{"id", "x"}, {"model", "tiny"}, {"choices", {c}}};
  }
  static void respond(Exchange& e, const Json& body, Fault fault, const std::string& text) {
    const Json usage{{"prompt_tokens", 100}, {"completion_tokens", 12}, {"total_tokens", 112}};
    if (!body.value("stream", false)) {
      Json whole = choice_of(body, text, fault == Fault::kNoFinish ? Json() : Json("stop"));
      if (fault != Fault::kNoUsage) whole["usage"] = usage;
      std::string bytes = whole.dump();
      if (fault == Fault::kInvalidJson || fault == Fault::kCut) bytes.resize(bytes.size() / 2);
      if (fault == Fault::kErrorEvent) bytes = R"({"error":{"message":"CUDA error"}})";
      if (fault != Fault::kTruncated) return e.respond(200, bytes);
      e.send("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " +
             std::to_string(bytes.size()) + "\r\n\r\n");
      e.send(bytes.substr(0, bytes.size() / 2));
      return e.close();
    }
    stream(e, body, fault, text, usage);
  }
  static void stream(Exchange& e, const Json& body, Fault fault, const std::string& text, const Json& usage) {
    const std::size_t step = fault == Fault::kMultiToken ? text.size() : 7;
    std::string events;
    const auto add = [&](const Json& j) { events += "data: " + j.dump() + "\n\n"; };
    for (std::size_t at = 0; at < text.size();) {
      std::size_t end = std::min(at + step, text.size());
      while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
      add(choice_of(body, text.substr(at, end - at), nullptr));
      at = end;
    }
    const std::size_t middle = events.find("\n\n", events.size() / 2) + 2;
    if (fault == Fault::kInvalidJson) events.insert(middle, "data: {\"choices\": [\n\n");
    if (fault == Fault::kErrorEvent)
      events.insert(middle, "data: {\"error\":{\"message\":\"CUDA error\"}}\n\n");
    if (fault == Fault::kCut) events.resize(middle);
    if (fault != Fault::kCut) {
      if (fault != Fault::kNoFinish) add(choice_of(body, "", "stop"));
      if (fault != Fault::kNoUsage) add({{"choices", Json::array()}, {"usage", usage}});
      if (fault != Fault::kNoDone) events += "data: [DONE]\n\n";
    }
    e.begin_stream();
    if (fault == Fault::kTruncated) {
      e.piece(events.substr(0, middle + 9));
      return e.close();
    }
    const std::size_t piece = fault == Fault::kSplit ? 1 : 50;
    for (std::size_t at = 0; at < events.size(); at += piece) e.piece(events.substr(at, piece));
    e.end_stream();
  }

  Choice choice_;
  int wrong_every_;
  mutable std::mutex mutex_;
  std::map<int, int> asked_;
  std::vector<std::string> bodies_;
  std::atomic<int> running_{0};
  ScriptedServer server_;  // last: its threads use what stands above
};

// A program being run, its output going to a file.
struct Process {
  pid_t id = 0;
  explicit Process(const std::vector<std::string>& arguments, const std::string& output) {
    std::vector<char*> argv;
    for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    if (posix_spawn(&id, argv[0], &actions, nullptr, argv.data(), environ) != 0) std::abort();
    posix_spawn_file_actions_destroy(&actions);
  }
  int wait() const {
    int status = 0;
    waitpid(id, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
};

// Problems, prompts and quick retries.
struct EvalSetup {
  explicit EvalSetup(int questions = 30, harness::Api api = harness::Api::kCompletions) {
    write_problems(folder / "data", questions, 20);
    data = harness::read_dataset(folder / "data");
    harness::PromptOptions options;
    options.api = api;
    prompts = harness::make_prompts(harness::require_task("gsm8k"), data, options);
    settings.concurrency = 8;
    settings.retry.first_s = 0.01;
    settings.retry.longest_s = 0.05;
    settings.limits.total_s = 20;
  }
  harness::eval::Target target(const std::string& url) const {
    return {harness::http::parse_endpoint(url), "tiny"};
  }
  std::unique_ptr<harness::eval::Evaluation> evaluation(const std::vector<std::string>& urls) const {
    std::vector<harness::eval::Target> targets;
    for (const std::string& url : urls) targets.push_back(target(url));
    return std::make_unique<harness::eval::Evaluation>(prompts, data, settings, targets);
  }

  TemporaryFolder folder;
  harness::Dataset data;
  harness::PromptSet prompts;
  harness::eval::Settings settings;
};

}  // namespace moecheck::test
