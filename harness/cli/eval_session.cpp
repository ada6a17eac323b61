#include "harness/cli/eval_session.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "harness/cli/cli.h"
#include "harness/cli/command_line.h"
#include "harness/eval/server_info.h"
#include "harness/json.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

using Json = nlohmann::ordered_json;
using eval::End, eval::Evaluation;

constexpr std::int64_t kProbeQuestions = 64;

volatile std::sig_atomic_t interrupted = 0;

Json extra_json(const eval::Arm& arm) {
  Json j;
  j["retries"] = arm.retries;
  j["resumed"] = arm.resumed;
  j["attempt_errors"] = Json::object();
  for (const auto& [kind, n] : arm.errors) j["attempt_errors"][kind] = n;
  return j;
}

}  // namespace

void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool was_interrupted() { return interrupted != 0; }

http::Options client_options(const EvalArguments& a) {
  http::Options options;
  options.verify_tls = !a.insecure;
  options.record_reads = false;
  return options;
}

std::string default_eval_output() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[40];
  std::strftime(text, sizeof text, "moecheck-eval-%Y%m%d-%H%M%S", &local);
  return text;
}

eval::Target eval_target(const EvalArguments& a, const std::string& url, const std::string& model) {
  const char* key = std::getenv("OPENAI_API_KEY");
  eval::Target target{http::parse_endpoint(url, key == nullptr ? "" : key), model};
  if (!model.empty()) return target;
  http::Limits limits = a.settings.limits;
  limits.total_s = std::min(limits.total_s, 30.0);
  const std::vector<std::string> models = http::list_models(target.endpoint, limits, client_options(a));
  if (models.size() != 1)
    throw UsageError(
        fmt::format("{} serves {}{}: choose one with --model", url,
                    count(static_cast<std::int64_t>(models.size()), "model"),
                    models.empty() ? "" : ", " + printable(fmt::format("{}", fmt::join(models, ", ")), 200)));
  target.model = models[0];
  return target;
}

EvalScreen::EvalScreen() : terminal_(isatty(2) == 1), shown_(http::now()) {}

void EvalScreen::show(const Evaluation& e, bool last) {
  const http::Nanoseconds now = http::now();
  std::string line = progress_.line(e, now);
  if (terminal_) {
    winsize size{};
    // A line that wraps can not be rewritten.
    if (ioctl(2, TIOCGWINSZ, &size) == 0 && size.ws_col > 1)
      line.resize(std::min<std::size_t>(line.size(), size.ws_col - 1u));
    fmt::print(stderr, "\r{}\x1b[K{}", line, last ? "\n" : "");
  } else if (last || now - shown_ >= 10 * http::kSecond) {
    fmt::print(stderr, "{}\n", line);
    shown_ = now;
  }
  std::fflush(stderr);
}

std::unique_ptr<eval::Journal> open_journal(const Evaluation& e, std::size_t arm,
                                            const std::string& directory, bool resume) {
  auto journal = std::make_unique<eval::Journal>(directory, e.run_settings(arm), resume);
  if (journal->dropped_bytes() > 0)
    fmt::print(stderr,
               "{}: an unfinished last line of {} bytes was dropped, its question will be asked again\n",
               printable(journal->path()), journal->dropped_bytes());
  return journal;
}

void explain(const Evaluation& e, End end, const std::string& output) {
  const auto resume = fmt::format("go on with --resume --output {}", shell_word(output));
  if (end == End::kStopped)
    fmt::print(stderr, "moecheck: stopped; all that was answered is kept: {}\n", resume);
  if (end != End::kNoAnswers) return;
  for (const eval::Arm& arm : e.arms())
    if (arm.failed_in_a_row > 0)
      fmt::print(
          stderr,
          "moecheck: {} gives no answers, {} in a row failed, the last with: {}\nset it right, then {}\n",
          arm.target.endpoint.base, count(arm.failed_in_a_row, "request"), arm.last_error, resume);
}

Json provenance(const EvalArguments& a, const eval::Target& target) {
  const eval::ServerInfo info = eval::ask_server(target.endpoint, client_options(a));
  const auto& models = info.models;
  if (!models.empty() &&
      std::none_of(models.begin(), models.end(), [&](const auto& m) { return m.id == target.model; })) {
    std::string names;
    for (const eval::ServedModel& m : models) names += (names.empty() ? "" : ", ") + m.id;
    fmt::print(stderr, "moecheck: {} does not list the model '{}', it lists {}\n", target.endpoint.base,
               printable(target.model), printable(names, 200));
  }
  return {{"command", this_command_line()},
          {"server", eval::text(info, target.model)},
          {"server_info", eval::to_json(info)}};
}

Run report_arm(const Evaluation& e, std::size_t index, const std::string& output, const Json& more,
               std::size_t prefix) {
  Run run = e.run_of_arm(index, prefix);
  const eval::Arm& arm = e.arms()[index];
  Json extra = extra_json(arm);
  extra.update(more);
  run.extra_json = extra.dump(-1, ' ', false, Json::error_handler_t::replace);
  const std::string before = arm.journal->results();
  const bool same = !before.empty() && arm.failed == 0 && arm.answered == arm.resumed;
  if (!same) arm.journal->append_results(write_run(output, run));
  fmt::print("{}{}", results_table(run), outcomes_text(run));
  for (const FilterSummary& f : summarize(run).filters)
    fmt::print("  {:<17} {} right of {}: {}, Wilson 95%\n", f.filter, f.accuracy.right, f.accuracy.n,
               eval::score_text(f.accuracy.right, f.accuracy.n));
  if (arm.retries > 0) {
    std::string kinds;
    for (const auto& [kind, n] : arm.errors)
      kinds += fmt::format("{}{} {}", kinds.empty() ? "" : ", ", n, kind);
    fmt::print("attempts that failed: {}\n", kinds);
  }
  fmt::print("{}task hash {}\n{} {}\n", eval::open_text(run), run.task_hash,
             same ? "already in" : "written to", printable(same ? before : run.path));
  return run;
}

std::unique_ptr<EvalProblem> eval_problem(EvalArguments& a) {
  auto p = std::make_unique<EvalProblem>();
  p->data = read_dataset(a.data);
  const Task& task = require_task(a.task);
  a.prompts.api = a.api == "chat" ? Api::kChat : Api::kCompletions;
  a.prompts.fewshot_as_multiturn = !a.one_turn;
  a.prompts.fewshot_seed = a.settings.seed;
  if (a.probe && a.prompts.limit == 0) a.prompts.limit = kProbeQuestions;
  p->prompts = make_prompts(task, p->data, a.prompts);
  if (a.settings.max_gen_toks == 0) a.settings.max_gen_toks = task.generation.max_gen_toks;
  return p;
}

void announce(const Evaluation& e, const EvalProblem& p, const std::string& output) {
  for (const eval::Arm& arm : e.arms())
    fmt::print(stderr, "{} of {}, {}{}\n", arm.target.endpoint.base, printable(arm.target.model),
               count(static_cast<std::int64_t>(e.questions()), "question"),
               arm.resumed > 0 ? fmt::format(", {} answered before", grouped(arm.resumed)) : "");
  fmt::print(stderr, "{} {}, {} shots, {}; kept in {}\n", p.prompts.task->name, p.prompts.task->version,
             p.prompts.options.num_fewshot, p.data.name, printable(output));
}

bool ask_all(Evaluation& e, http::Client& client, EvalScreen& screen, End& end,
             const std::function<bool()>& enough) {
  bool early = false;
  end = e.run(client, [&] {
    screen.show(e, false);
    early = early || (enough && enough());
    return !was_interrupted() && !early;
  });
  screen.show(e, true);
  return early;
}

int eval_exit(const Evaluation& e, End end) {
  if (end != End::kComplete) return kExitNothingRan;
  for (const eval::Arm& arm : e.arms())
    if (arm.failed > 0) return kExitNothingRan;
  return kExitFine;
}

}  // namespace moecheck::harness
