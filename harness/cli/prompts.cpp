// moecheck prompts: what an evaluation asks, word for word, and the hashes that prove it.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "harness/cli/cli.h"
#include "harness/json.h"
#include "harness/tasks/files.h"
#include "harness/tasks/python_text.h"
#include "harness/tasks/task.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

using Json = nlohmann::ordered_json;

struct PromptArguments {
  std::string task = "gsm8k", data, api = "completions", json;
  PromptOptions options;
  bool one_turn = false;
};

Json prompts_json(const PromptSet& set, const Dataset& data) {
  Json j;
  j["task"] = set.task->name;
  j["version"] = std::stod(set.task->version);
  j["data"] = {{"name", data.name}, {"test_sha256", data.test_sha256}, {"train_sha256", data.train_sha256}};
  j["num_fewshot"] = set.options.num_fewshot;
  j["fewshot_seed"] = set.options.fewshot_seed;
  j["api"] = set.options.api == Api::kChat ? "chat" : "completions";
  j["generation_kwargs"] = parse_json(generation_json(*set.task));
  j["max_gen_toks"] = set.task->generation.max_gen_toks;
  j["task_hash"] = set.task_hash;
  Json& list = j["prompts"] = Json::array();
  for (const Prompt& p : set.prompts) {
    Json row;
    row["doc_id"] = p.doc_id;
    row["shots"] = p.shots;
    if (set.options.api == Api::kChat) {
      for (const Message& m : p.messages)
        row["messages"].push_back({{"role", m.role}, {"content", m.content}});
    } else {
      row["prompt"] = p.text;
    }
    row["target"] = p.target;
    row["doc_hash"] = p.doc_hash;
    row["prompt_hash"] = p.prompt_hash;
    row["target_hash"] = p.target_hash;
    list.push_back(std::move(row));
  }
  return j;
}

int prompts(const PromptArguments& a) {
  const Dataset data = read_dataset(a.data);
  PromptOptions options = a.options;
  options.api = a.api == "chat" ? Api::kChat : Api::kCompletions;
  options.fewshot_as_multiturn = !a.one_turn;
  const PromptSet set = make_prompts(require_task(a.task), data, options);
  if (!a.json.empty()) write_text(a.json, python_json(prompts_json(set, data), 1) + "\n");
  if (a.json == "-") return kExitFine;
  std::size_t shortest = set.prompts[0].text.size(), longest = 0;
  for (const Prompt& p : set.prompts) {
    shortest = std::min(shortest, p.text.size());
    longest = std::max(longest, p.text.size());
  }
  fmt::print("task       {} {}, {} shots, {}\n", set.task->name, set.task->version, set.options.num_fewshot,
             a.api);
  fmt::print("data       {}: {} problems\n", data.name, grouped(static_cast<std::int64_t>(data.test.size())));
  fmt::print("prompts    {}, {} to {} bytes\n", grouped(static_cast<std::int64_t>(set.prompts.size())),
             grouped(static_cast<std::int64_t>(shortest)), grouped(static_cast<std::int64_t>(longest)));
  fmt::print("task hash  {}\n", set.task_hash);
  if (!a.json.empty()) fmt::print("written    {}\n", printable(a.json));
  return kExitFine;
}

}  // namespace

void add_prompts(CLI::App& app, Action& action) {
  auto a = std::make_shared<PromptArguments>();
  CLI::App* sub =
      app.add_subcommand("prompts", "Write an evaluation's prompts and their hashes, as lm_eval makes them");
  std::string names;
  for (const Task& t : tasks()) names += fmt::format("\n  {:<28} {}", t.name, t.summary);
  sub->footer("Tasks:" + names);
  sub->add_option("--task", a->task, "Task")->capture_default_str()->type_name("NAME");
  sub->add_option("--data", a->data,
                  "Folder with test.jsonl and train.jsonl: GSM8K, or datasets/word_problems")
      ->required()
      ->type_name("DIR");
  sub->add_option("--num-fewshot", a->options.num_fewshot, "Shots (the task's own when left out)")
      ->check(CLI::Range(0, 1000))
      ->type_name("N");
  sub->add_option("--limit", a->options.limit, "Only the first N problems")
      ->check(CLI::Range(1, 100000000))
      ->type_name("N");
  sub->add_option("--seed", a->options.fewshot_seed, "Seed of the shots")
      ->capture_default_str()
      ->type_name("N");
  sub->add_option("--api", a->api, "completions: one text; chat: messages")
      ->check(CLI::IsMember({"completions", "chat"}))
      ->capture_default_str();
  sub->add_option("--system", a->options.system_instruction, "System instruction")->type_name("TEXT");
  sub->add_flag("--one-turn", a->one_turn, "Chat: shots and question in one user message");
  sub->add_option("--json", a->json, "Write prompts and hashes; - is standard output")->type_name("FILE|-");
  sub->callback([a, &action] { action = [a] { return prompts(*a); }; });
}

}  // namespace moecheck::harness
