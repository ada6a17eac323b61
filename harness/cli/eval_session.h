#pragma once
// What the forms of `moecheck eval` share: one server, --ab, --probe.
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "harness/eval/evaluation.h"
#include "harness/eval/progress.h"

namespace moecheck::harness {

struct EvalArguments {
  std::string endpoint, model, model_b, task = "gsm8k", data, api = "completions", output;
  std::vector<std::string> ab;
  PromptOptions prompts;
  eval::Settings settings;
  int under_load = 0;
  double margin_points = 1.0;
  bool one_turn = false, resume = false, stop_early = false, probe = false, insecure = false;
};

struct EvalProblem {  // what is asked
  Dataset data;
  PromptSet prompts;
};

// Progress on standard error: one line that is rewritten on a terminal, else a new one every 10 seconds.
class EvalScreen {
 public:
  EvalScreen();
  void show(const eval::Evaluation& e, bool last);

 private:
  eval::Progress progress_;
  bool terminal_;
  http::Nanoseconds shown_;
};

std::string default_eval_output();  // a folder's name with the time in it
// The first interrupt ends a run in order, a second one at once.
void catch_interrupts();
bool was_interrupted();

// Reads the data and makes the prompts; resolves in `a` what follows from the task.
std::unique_ptr<EvalProblem> eval_problem(EvalArguments& a);
// The server, and its only model where none is named; throws UsageError.
eval::Target eval_target(const EvalArguments& a, const std::string& url, const std::string& model);
http::Options client_options(const EvalArguments& a);
std::unique_ptr<eval::Journal> open_journal(const eval::Evaluation& e, std::size_t arm,
                                            const std::string& directory, bool resume);
void announce(const eval::Evaluation& e, const EvalProblem& p, const std::string& output);

// Runs to the end, an interrupt, or until `enough`, which is asked between; true: enough.
bool ask_all(eval::Evaluation& e, http::Client& client, EvalScreen& screen, eval::End& end,
             const std::function<bool()>& enough = {});
// Why it ended before the end, and how to go on.
void explain(const eval::Evaluation& e, eval::End end, const std::string& output);
// What goes into the results' "moecheck" of an arm's run beside what report_arm knows: the command line, and what the
// server says of itself ("command", "server", "server_info"). Asks the server.
nlohmann::ordered_json provenance(const EvalArguments& a, const eval::Target& target);
// Table, outcomes and intervals; the result files, unless these very samples have been written before. `more` goes into
// the results' "moecheck"; `prefix` as for Evaluation::run_of_arm.
Run report_arm(const eval::Evaluation& e, std::size_t index, const std::string& output,
               const nlohmann::ordered_json& more, std::size_t prefix = SIZE_MAX);
// 0 where every question was answered, else 3.
int eval_exit(const eval::Evaluation& e, eval::End end);

}  // namespace moecheck::harness
