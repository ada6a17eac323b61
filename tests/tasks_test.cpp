// Prompts, extraction and scores of the gsm8k tasks against lm_eval's own (datasets/golden/lm_eval_*).
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "harness/case.h"
#include "harness/json.h"
#include "harness/tasks/files.h"
#include "harness/tasks/python_text.h"
#include "harness/tasks/regrading.h"
#include "harness/tasks/task.h"
#include "tasks_test_support.h"

namespace moecheck::harness {
namespace {

using Json = nlohmann::ordered_json;

const Json& scoring() {
  static const Json all = parse_json(read_text(kGolden + "lm_eval_scoring.json"));
  return all;
}

const Json& prompts() {
  static const Json all = parse_json(read_text(kGolden + "lm_eval_prompts/prompts.json"));
  return all;
}

// ---- Scores

TEST(TaskScoring, every_extraction_and_score_is_lm_evals) {
  int checked = 0;
  for (const Json& row : scoring()["rows"]) {
    for (const char* name : {"gsm8k", "gsm8k_cot", "gsm8k_cot_llama"}) {
      for (const Filter& f : require_task(name).filters) {
        const Json& wanted = row[name][f.name];
        const Score s = grade(f.rule, row["completion"].get<std::string>(), row["answer"].get<std::string>());
        EXPECT_EQ(s.extracted, wanted["extracted"].get<std::string>())
            << name << " " << f.name << " " << row["completion"];
        EXPECT_EQ(s.right, wanted["exact_match"].get<double>() == 1.0)
            << name << " " << f.name << " " << row["completion"] << " " << row["answer"];
        ++checked;
      }
    }
  }
  EXPECT_GE(checked, 1800);
}

TEST(TaskScoring, mean_and_stderr_are_lm_evals_bit_for_bit) {
  for (const Json& row : scoring()["errors"]) {
    std::vector<bool> scores;
    for (const char c : row["scores"].get<std::string>()) scores.push_back(c == '1');
    const Accuracy a = accuracy(scores);
    EXPECT_EQ(a.mean, row["mean"].get<double>());
    EXPECT_EQ(a.standard_error, row["stderr"].get<double>()) << a.right << " of " << a.n;
  }
  EXPECT_TRUE(std::isnan(accuracy({true}).standard_error));
  EXPECT_TRUE(std::isnan(accuracy({}).mean));
  for (const auto& task : scoring()["sums"].items()) {
    for (const Filter& f : require_task(task.key()).filters) {
      std::vector<bool> scores;
      for (const Json& row : scoring()["rows"])
        scores.push_back(
            grade(f.rule, row["completion"].get<std::string>(), row["answer"].get<std::string>()).right);
      EXPECT_EQ(accuracy(scores).mean, task.value()[f.name]["mean"].get<double>());
      EXPECT_EQ(accuracy(scores).standard_error, task.value()[f.name]["stderr"].get<double>());
    }
  }
}

// Python's "$" is the end, and the place before a newline at the end.
TEST(TaskScoring, one_final_dot_goes_also_before_a_newline) {
  EXPECT_TRUE(exact_match("18\n", "18.\n"));
  EXPECT_FALSE(exact_match("18", "18.\n"));
  EXPECT_FALSE(exact_match("18\n\n", "18.\n\n"));
  EXPECT_TRUE(exact_match("18.", "18."));
  EXPECT_FALSE(exact_match("18", "18.."));
}

TEST(TaskScoring, rules_of_other_projects) {
  EXPECT_EQ(extract(Rule::kVllm, "it is 18.50"), "50");
  EXPECT_EQ(extract(Rule::kVllm, "5.08"), kInvalidText);  // 08 is no Python literal
  EXPECT_TRUE(grade(Rule::kVllm, "-10", "#### 10").right);
  EXPECT_TRUE(grade(Rule::kVllm, "1,234.", "#### 1,234").right);
  EXPECT_EQ(extract(Rule::kVllm, "18 \u0663"), kInvalidText);  // \d takes it, the literal does not
  EXPECT_EQ(extract(Rule::kVllm, "000"), "000");
  EXPECT_EQ(extract(Rule::kVllm, std::string(4301, '7')), kInvalidText);
  EXPECT_EQ(extract(Rule::kSglang, "so 18."), "18.");
  EXPECT_TRUE(grade(Rule::kSglang, "so 18.00", "#### 18").right);
  EXPECT_FALSE(grade(Rule::kSglang, "-18", "#### 18").right);
  EXPECT_FALSE(grade(Rule::kSglang, "", "no number").right);
  EXPECT_TRUE(grade(Rule::kOpenai, "#### 1,234", "x\n#### 1234").right);
  EXPECT_FALSE(grade(Rule::kOpenai, "#### 18.", "x\n#### 18").right);
  EXPECT_TRUE(grade(Rule::kLastNumber, "$18.00.", "x\n#### 18").right);
  EXPECT_EQ(extract(Rule::kLastNumber, "$18.00."), "18.00");
  EXPECT_TRUE(grade(Rule::kLastNumber, "-0.0", "0").right);
  EXPECT_FALSE(grade(Rule::kLastNumber, "180", "18").right);
  EXPECT_FALSE(grade(Rule::kLastNumber, "1.8", "18").right);
  EXPECT_FALSE(grade(Rule::kLastNumber, "nothing", "[invalid]").right);
}

TEST(TaskScoring, long_and_broken_texts_end) {
  // A regular expression engine that recurses dies on these.
  const std::string digits(1000000, '7'), dots(1000000, '.'), markers = [] {
    std::string s;
    for (int i = 0; i < 200000; ++i) s += "#### ";
    return s;
  }();
  for (const std::string& text :
       {digits, dots, markers, std::string(1000000, '-'), std::string(300000, '\xE2')})
    for (int r = 0; r <= static_cast<int>(Rule::kOpenai); ++r) (void)grade(static_cast<Rule>(r), text, "18");
  EXPECT_EQ(extract(Rule::kFlexible, digits).size(), digits.size());
  EXPECT_EQ(extract(Rule::kHashes, markers + "5"), "5");
}

RC_GTEST_PROP(TaskScoring, any_bytes_are_graded, (const std::string& text, const std::string& answer)) {
  for (int r = 0; r <= static_cast<int>(Rule::kOpenai); ++r) {
    const Score s = grade(static_cast<Rule>(r), text, answer);
    RC_ASSERT(!s.extracted.empty());
  }
  (void)is_loop(text);
}

TEST(TaskScoring, loops_and_run_on) {
  EXPECT_FALSE(is_loop(""));
  EXPECT_FALSE(is_loop(
      "He has 3 apples and buys 4 more, so he has 7 apples. She has 5, so together they have 12.\n#### 12"));
  EXPECT_TRUE(
      is_loop("So the answer is 18. So the answer is 18. So the answer is 18. So the answer is 18. So"));
  EXPECT_TRUE(is_loop("18" + std::string(200, '7')));
  EXPECT_FALSE(is_loop(std::string(60, '7')));
  const std::vector<std::string>& until = require_task("gsm8k").generation.until;
  EXPECT_TRUE(runs_on("#### 18\n\nQuestion: and now", until));
  EXPECT_FALSE(runs_on("#### 18\n", until));
}

// ---- Prompts

PromptOptions options_of(const Json& given) {
  PromptOptions o;
  o.num_fewshot = given.value("num_fewshot", -1);
  o.limit = given.value("limit", 0);
  o.fewshot_seed = given.value("fewshot_random_seed", 1234u);
  o.api = given.value("apply_chat_template", false) ? Api::kChat : Api::kCompletions;
  o.fewshot_as_multiturn = given.value("fewshot_as_multiturn", true);
  o.system_instruction = given.value("system_instruction", "");
  return o;
}

TEST(TaskPrompts, every_variant_is_lm_evals) {
  const Dataset data = read_dataset(kGolden + "lm_eval_prompts");
  EXPECT_FALSE(data.is_gsm8k);
  EXPECT_EQ(prompts()["variants"].size(), 19u);
  for (const Json& v : prompts()["variants"]) {
    const Task& task = require_task(v["task"].get<std::string>());
    const PromptSet set = make_prompts(task, data, options_of(v["options"]));
    EXPECT_EQ(set.task_hash, v["task_hash"].get<std::string>()) << v["task"] << v["options"];
    EXPECT_EQ(set.prompts[0].text, v["first_prompt"].get<std::string>()) << v["task"] << v["options"];
    ASSERT_EQ(set.prompts.size(), v["rows"].size());
    for (std::size_t i = 0; i < set.prompts.size(); ++i) {
      const Prompt& p = set.prompts[i];
      const std::vector<std::string> ours{p.doc_hash, p.prompt_hash, p.target_hash, p.target};
      EXPECT_EQ(ours, v["rows"][i].get<std::vector<std::string>>()) << v["task"] << " document " << i;
    }
    // Compared as values: lm_eval keeps the order of each task's file.
    EXPECT_EQ(nlohmann::json(parse_json(config_json(task, set.options.num_fewshot))),
              nlohmann::json(v["config"]))
        << v["task"];
  }
}

TEST(TaskPrompts, gsm8ks_own_when_it_is_here) {
  const char* path = std::getenv("MOECHECK_GSM8K");
  if (path == nullptr)
    GTEST_SKIP() << "MOECHECK_GSM8K names no folder with GSM8K's test.jsonl and train.jsonl";
  const Dataset data = read_dataset(path);
  ASSERT_TRUE(data.is_gsm8k) << "these are not GSM8K's files: " << data.name;
  ASSERT_FALSE(prompts()["gsm8k"].empty());
  for (const Json& v : prompts()["gsm8k"])
    EXPECT_EQ(
        make_prompts(require_task(v["task"].get<std::string>()), data, options_of(v["options"])).task_hash,
        v["task_hash"].get<std::string>())
        << v["task"] << v["options"];
  EXPECT_EQ(prompts()["gsm8k"][0]["task_hash"],
            "2330f4ebfcccaf66a892922df2819cdb1f118e448d076d3f42bdde4177678ac7");
}

TEST(TaskPrompts, limit_keeps_the_prompts_before_it) {
  const Dataset data = read_dataset(kGolden + "lm_eval_prompts");
  PromptOptions some;
  some.limit = 4;
  const PromptSet all = make_prompts(require_task("gsm8k"), data, {}),
                  few = make_prompts(require_task("gsm8k"), data, some);
  ASSERT_EQ(few.prompts.size(), 4u);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(few.prompts[i].text, all.prompts[i].text);
  EXPECT_NE(few.task_hash, all.task_hash);
}

TEST(TaskPrompts, bad_data_is_named) {
  const TemporaryFolder folder;
  EXPECT_NE(message_of([&] { (void)read_dataset(folder.path); }).find("test.jsonl does not exist"),
            std::string::npos);
  std::ofstream(folder.path + "/test.jsonl")
      << "{\"question\": \"q\", \"answer\": \"#### 1\"}\n\n{\"question\": 3}\n";
  const std::string why = message_of([&] { (void)read_dataset(folder.path); });
  EXPECT_NE(why.find("test.jsonl:3:"), std::string::npos) << why;
  EXPECT_NE(why.find("\"question\""), std::string::npos) << why;
  // Text that is no JSON: where, what and the way out, and not a word of the library's.
  std::ofstream(folder.path + "/test.jsonl")
      << "{\"question\": \"q\", \"answer\": \"#### 1\"}\n{\"question\": }\n";
  const std::string broken = message_of([&] { (void)read_dataset(folder.path); });
  EXPECT_NE(broken.find("test.jsonl:2: not JSON: "), std::string::npos) << broken;
  EXPECT_NE(broken.find("(column 14); every line is {\"question\": ..., \"answer\": ...}"), std::string::npos)
      << broken;
  EXPECT_EQ(broken.find("exception"), std::string::npos) << broken;
  std::ofstream(folder.path + "/test.jsonl") << "{\"question\": \"q\", \"answer\": \"#### 1\"}\n";
  const Dataset data = read_dataset(folder.path);
  EXPECT_NE(message_of([&] { (void)make_prompts(require_task("gsm8k"), data, {}); }).find("--num-fewshot 0"),
            std::string::npos);
  PromptOptions none;
  none.num_fewshot = 0;
  EXPECT_EQ(make_prompts(require_task("gsm8k"), data, none).prompts[0].text, "Question: q\nAnswer:");
  PromptOptions nine;
  nine.num_fewshot = 9;
  EXPECT_NE(
      message_of([&] { (void)make_prompts(require_task("gsm8k_cot"), data, nine); }).find("more than the 8"),
      std::string::npos);
  EXPECT_NE(message_of([&] {
              (void)make_prompts(require_task("gsm8k_platinum"), data, {});
            }).find("more than the 0"),
            std::string::npos);
  EXPECT_NE(message_of([] { (void)require_task("gsm8"); }).find("did you mean gsm8k"), std::string::npos);
}

}  // namespace
}  // namespace moecheck::harness
