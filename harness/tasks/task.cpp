#include "harness/tasks/task.h"

#include <algorithm>

#include "harness/case.h"
#include "harness/json.h"
#include "harness/tasks/python_text.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

using Json = nlohmann::ordered_json;

struct Worked {
  const char *question, *reasoning, *number;
};

// The eight worked examples of chain-of-thought prompting (Wei et al. 2022, arXiv 2201.11903, table 20), in the words
// that the gsm8k_cot tasks use.
constexpr Worked kWorked[] = {
    {"There are 15 trees in the grove. Grove workers will plant trees in the grove today. After they are "
     "done, "
     "there will be 21 trees. How many trees did the grove workers plant today?",
     "There are 15 trees originally. Then there were 21 trees after some more were planted. So there must "
     "have "
     "been 21 - 15 = 6.",
     "6"},
    {"If there are 3 cars in the parking lot and 2 more cars arrive, how many cars are in the parking lot?",
     "There are originally 3 cars. 2 more cars arrive. 3 + 2 = 5.", "5"},
    {"Leah had 32 chocolates and her sister had 42. If they ate 35, how many pieces do they have left in "
     "total?",
     "Originally, Leah had 32 chocolates. Her sister had 42. So in total they had 32 + 42 = 74. After eating "
     "35, "
     "they had 74 - 35 = 39.",
     "39"},
    {"Jason had 20 lollipops. He gave Denny some lollipops. Now Jason has 12 lollipops. How many lollipops "
     "did "
     "Jason give to Denny?",
     "Jason started with 20 lollipops. Then he had 12 after giving some to Denny. So he gave Denny 20 - 12 = "
     "8.",
     "8"},
    {"Shawn has five toys. For Christmas, he got two toys each from his mom and dad. How many toys does he "
     "have "
     "now?",
     "Shawn started with 5 toys. If he got 2 toys each from his mom and dad, then that is 4 more toys. 5 + 4 "
     "= 9.",
     "9"},
    {"There were nine computers in the server room. Five more computers were installed each day, from monday "
     "to "
     "thursday. How many computers are now in the server room?",
     "There were originally 9 computers. For each of 4 days, 5 more computers were added. So 5 * 4 = 20 "
     "computers "
     "were added. 9 + 20 is 29.",
     "29"},
    {"Michael had 58 golf balls. On tuesday, he lost 23 golf balls. On wednesday, he lost 2 more. How many "
     "golf "
     "balls did he have at the end of wednesday?",
     "Michael started with 58 golf balls. After losing 23 on tuesday, he had 58 - 23 = 35. After losing 2 "
     "more, he "
     "had 35 - 2 = 33 golf balls.",
     "33"},
    {"Olivia has $23. She bought five bagels for $3 each. How much money does she have left?",
     "Olivia had 23 dollars. 5 bagels for 3 dollars each will be 5 x 3 = 15 dollars. So she has 23 - 15 "
     "dollars "
     "left. 23 - 15 is 8.",
     "8"},
};

std::vector<Document> worked(const char* before, const char* after) {
  std::vector<Document> shots;
  for (const Worked& w : kWorked)
    shots.push_back({w.question, std::string(w.reasoning) + before + w.number + after, ""});
  return shots;
}

Task gsm8k() {
  Task t;
  t.name = "gsm8k";
  t.summary = "5 shots drawn per question, answers end in \"#### N\"";
  t.version = "3.0";
  t.dataset = "openai/gsm8k";
  t.question_prefix = "Question: ";
  t.question_suffix = "\nAnswer:";
  t.generation.until = {"Question:", "</s>", "<|im_end|>"};
  t.generation.temperature = 0.0;
  t.filters = {{"strict-match", Rule::kHashes}, {"flexible-extract", Rule::kFlexible}};
  return t;
}

Task gsm8k_cot() {
  Task t;
  t.name = "gsm8k_cot";
  t.summary = "8 fixed shots, \"The answer is N.\"";
  t.version = "3.0";
  t.dataset = "openai/gsm8k";
  t.question_prefix = "Q: ";
  t.question_suffix = "\nA:";
  t.target = Target::kAfterHashes;
  t.shots = Shots::kFixed;
  t.fixed_shots = worked(" The answer is ", ".");
  t.num_fewshot = 8;
  t.generation.until = {"Q:", "</s>", "<|im_end|>"};
  t.filters = {{"strict-match", Rule::kTheAnswerIs}, {"flexible-extract", Rule::kFlexible}};
  return t;
}

Task gsm8k_cot_zeroshot() {
  Task t = gsm8k_cot();
  t.name = "gsm8k_cot_zeroshot";
  t.summary = "no shots, \"Let's think step by step.\"";
  t.question_suffix = "\nA: Let's think step by step.";
  t.target = Target::kWhole;
  t.shots = Shots::kSampled;
  t.fixed_shots.clear();
  t.num_fewshot = 0;
  return t;
}

Task gsm8k_cot_llama() {
  Task t = gsm8k_cot();
  t.name = "gsm8k_cot_llama";
  t.summary = "8 fixed shots, \"The final answer is N\", for chat models";
  t.version = "4.0";
  t.question_prefix =
      "Given the following problem, reason and give a final answer to the problem.\nProblem: ";
  t.question_suffix =
      "\nYour response should end with \"The final answer is [answer]\" where [answer] is the response to "
      "the "
      "problem.\n";
  t.target_delimiter = "";
  t.fixed_shots = worked(" The final answer is ", "");
  t.generation.until = {"<|eot_id|>", "<|start_header_id|>user<|end_header_id|>", "Q:", "</s>", "<|im_end|>"};
  t.filters[0].rule = Rule::kTheFinalAnswerIs;
  return t;
}

// The same task over madrylab/gsm8k-platinum, whose shots can only come from its test split.
Task platinum(Task t, const char* name) {
  t.name = name;
  t.summary += "; data: madrylab/gsm8k-platinum";
  t.version = "3.0";
  t.dataset = "madrylab/gsm8k-platinum";
  t.target_delimiter = " ";
  t.shots_from_test = t.shots == Shots::kSampled;
  return t;
}

const char* pattern(Rule rule) {
  switch (rule) {
    case Rule::kHashes:
      return "#### (\\-?[0-9\\.\\,]+)";
    case Rule::kFlexible:
      return "(-?[$0-9.,]{2,})|(-?[0-9]+)";
    case Rule::kTheAnswerIs:
      return "The answer is (\\-?[0-9\\.\\,]+).";
    case Rule::kTheFinalAnswerIs:
      return "The final answer is ((-?[$0-9.,]{2,})|(-?[0-9]+))";
    default:
      return "";
  }
}

Json generation(const Task& task, int max_gen_toks) {
  Json g;
  g["until"] = task.generation.until;
  g["do_sample"] = task.generation.do_sample;
  if (task.generation.temperature) g["temperature"] = *task.generation.temperature;
  if (max_gen_toks != 256) g["max_gen_toks"] = max_gen_toks;
  return g;
}

// lm_eval's FewshotConfig, which every configuration holds.
Json fewshot_config(const Task& task, const Json& split, const std::string& text, const std::string& target) {
  Json samples;
  for (const Document& d : task.fixed_shots)
    samples.push_back({{"question", d.question}, {"target", d.answer}});
  Json c;
  c["sampler"] = task.shots == Shots::kFixed ? "first_n" : "default";
  c["split"] = split;
  c["process_docs"] = nullptr;
  c["fewshot_indices"] = nullptr;
  c["samples"] = samples;
  c["doc_to_text"] = text;
  c["doc_to_choice"] = nullptr;
  c["doc_to_target"] = target;
  c["gen_prefix"] = nullptr;
  c["fewshot_delimiter"] = task.fewshot_delimiter;
  c["target_delimiter"] = task.target_delimiter;
  return c;
}

}  // namespace

const std::vector<Task>& tasks() {
  static const std::vector<Task> all = {
      gsm8k(),
      gsm8k_cot(),
      gsm8k_cot_zeroshot(),
      gsm8k_cot_llama(),
      platinum(gsm8k(), "gsm8k_platinum"),
      platinum(gsm8k_cot(), "gsm8k_platinum_cot"),
      platinum(gsm8k_cot_zeroshot(), "gsm8k_platinum_cot_zeroshot"),
      platinum(gsm8k_cot_llama(), "gsm8k_platinum_cot_llama"),
  };
  return all;
}

const Task& require_task(std::string_view name) {
  std::vector<std::string> known;
  std::string list;
  for (const Task& t : tasks()) {
    if (t.name == name) return t;
    known.push_back(t.name);
    list += (list.empty() ? "" : ", ") + t.name;
  }
  throw UsageError("task '" + printable(name) + "' is not known: did you mean " + nearest(name, known) +
                   "? There are " + list);
}

std::string generation_json(const Task& task, int max_gen_toks) {
  return python_json(generation(task, max_gen_toks));
}

std::string config_json(const Task& task, int num_fewshot) {
  const bool fixed = task.shots == Shots::kFixed;
  const std::string text = task.question_prefix + "{{question}}" + task.question_suffix;
  const std::string target = task.target == Target::kWhole
                                 ? "{{answer}}"
                                 : "{{answer.split('####')[-1].strip() if answer is defined else target}}";
  const std::string split = task.dataset == "openai/gsm8k" ? "train" : "test";
  Json c;
  c["task"] = task.name;
  c["dataset_path"] = task.dataset;
  c["dataset_name"] = "main";
  if (!fixed) c["training_split"] = split;
  c["test_split"] = "test";
  if (!fixed) c["fewshot_split"] = split;
  c["doc_to_text"] = text;
  c["doc_to_target"] = target;
  c["unsafe_code"] = false;
  c["description"] = "";
  c["target_delimiter"] = task.target_delimiter;
  c["fewshot_delimiter"] = task.fewshot_delimiter;
  c["fewshot_config"] = fewshot_config(task, fixed ? Json(nullptr) : Json(split), text, target);
  c["num_fewshot"] = num_fewshot;
  c["metric_list"] = Json::array({{{"metric", "exact_match"},
                                   {"aggregation", "mean"},
                                   {"higher_is_better", true},
                                   {"ignore_case", true},
                                   {"ignore_punctuation", false},
                                   {"regexes_to_ignore", {",", "\\$", "(?s).*#### ", "\\.$"}}}});
  c["output_type"] = "generate_until";
  c["generation_kwargs"] = generation(task, 256);
  c["repeats"] = 1;
  c["filter_list"] = Json::array();
  for (const Filter& f : task.filters) {
    Json regex{{"function", "regex"}};
    if (f.rule == Rule::kFlexible || f.rule == Rule::kTheFinalAnswerIs) regex["group_select"] = -1;
    regex["regex_pattern"] = pattern(f.rule);
    c["filter_list"].push_back(
        {{"name", f.name}, {"filter", Json::array({regex, Json{{"function", "take_first"}}})}});
  }
  c["should_decontaminate"] = false;
  c["metadata"] = {{"version", std::stod(task.version)}};
  return python_json(c);
}

}  // namespace moecheck::harness
