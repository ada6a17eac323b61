// Runs of the gsm8k tasks in files, ours and lm_eval's own (datasets/golden/lm_eval_run).
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "harness/json.h"
#include "harness/tasks/files.h"
#include "harness/tasks/python_text.h"
#include "harness/tasks/sample.h"
#include "harness/tasks/sha256.h"
#include "harness/tasks/task.h"
#include "tasks_test_support.h"

namespace moecheck::harness {
namespace {

using Json = nlohmann::ordered_json;

class LmEvalRun : public testing::TestWithParam<const char*> {};

// lm_eval's files read and written again give its own bytes, but for what we add.
TEST_P(LmEvalRun, survives_reading_and_writing) {
  const std::string folder = kGolden + "lm_eval_run/" + GetParam();
  harness::Run run = read_run(folder);
  EXPECT_EQ(run.task, "gsm8k");
  EXPECT_EQ(run.filters, (std::vector<std::string>{"strict-match", "flexible-extract"}));
  ASSERT_EQ(run.samples.size(), 5u);
  EXPECT_EQ(run.num_fewshot, 5);
  EXPECT_EQ(run.limit, 5);
  EXPECT_EQ(run.documents, 13);
  EXPECT_EQ(run.samples[2].completion, "\u00e9 \u2615 \"quoted\"\t#### 1,008.\n");
  EXPECT_EQ(run.samples[2].scores[0].extracted, "1,008.");
  EXPECT_EQ(run.samples[3].scores[0].outcome, Outcome::kEmpty);
  EXPECT_EQ(run.samples[1].scores[0].outcome, Outcome::kInvalid);
  EXPECT_EQ(run.samples[1].scores[1].outcome, Outcome::kWrong);
  run.api = std::string(GetParam()) == "chat" ? Api::kChat : Api::kCompletions;  // "canned" is no API model

  const TemporaryFolder out;
  const std::string written = write_run(out.path, run);
  std::string theirs = folder + "/samples_gsm8k_2026-01-01T00-00-00.000000.jsonl";
  std::string ours = written;
  ours.replace(ours.rfind("results_"), 8, "samples_gsm8k_").append("l");
  std::istringstream a(read_text(theirs)), b(read_text(ours));
  std::string left, right;
  int lines = 0;
  while (std::getline(a, left)) {
    ASSERT_TRUE(std::getline(b, right));
    const std::size_t own = right.find(", \"moecheck\": ");
    ASSERT_NE(own, right.npos);
    EXPECT_EQ(left, right.substr(0, own) + "}");
    ++lines;
  }
  EXPECT_FALSE(std::getline(b, right));
  EXPECT_EQ(lines, 10);

  const Json results = parse_json(read_text(written));
  const Json wanted = parse_json(read_text(folder + "/results_2026-01-01T00-00-00.000000.json"));
  std::vector<std::string> keys, wanted_keys;
  for (const auto& item : results.items()) keys.push_back(item.key());
  for (const auto& item : wanted.items()) wanted_keys.push_back(item.key());
  wanted_keys.push_back("moecheck");
  EXPECT_EQ(keys, wanted_keys);
  for (const char* same : {"results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better",
                           "n-samples", "task_hashes"})
    EXPECT_EQ(python_json(results[same]), python_json(wanted[same])) << same;
  const harness::Run again = read_run(written);
  EXPECT_EQ(again.task_hash, run.task_hash);
  EXPECT_EQ(again.samples.size(), run.samples.size());
}

INSTANTIATE_TEST_SUITE_P(Tasks, LmEvalRun, testing::Values("completions", "chat"),
                         [](const auto& given) { return given.param; });

TEST(TaskRuns, table_is_lm_evals) {
  const harness::Run run = read_run(kGolden + "lm_eval_run/completions");
  const std::string table = results_table(run);
  EXPECT_EQ(table.substr(0, table.find('\n', table.find('\n') + 1) + 1),
            "|Tasks|Version|     Filter     |n-shot|  Metric   |   |Value|   |Stderr|\n"
            "|-----|------:|----------------|-----:|-----------|---|----:|---|-----:|\n");
  EXPECT_NE(table.find("|gsm8k|      3|flexible-extract|     5|exact_match|\u2191  |"), std::string::npos)
      << table;
  EXPECT_NE(table.find("|     |       |strict-match    |     5|exact_match|\u2191  |"), std::string::npos)
      << table;
}

// Written by lm_eval 0.4.13's make_table: a column loses the decimals that are zero in all its rows.
TEST(TaskRuns, table_loses_the_zeros_lm_evals_loses) {
  const auto table = [](int n, int strict, int flexible) {
    harness::Run run;
    run.task = "gsm8k";
    run.version = "3.0";
    run.filters = {"strict-match", "flexible-extract"};
    for (int i = 0; i < n; ++i) {
      Sample s;
      s.doc_id = i;
      s.scores = {{"strict-match", "", i < strict}, {"flexible-extract", "", i < flexible}};
      run.samples.push_back(s);
    }
    return results_table(run);
  };
  EXPECT_EQ(table(16, 16, 16),
            "|Tasks|Version|     Filter     |n-shot|  Metric   |   |Value|   |Stderr|\n"
            "|-----|------:|----------------|-----:|-----------|---|----:|---|-----:|\n"
            "|gsm8k|      3|flexible-extract|     5|exact_match|\u2191  |    1|\u00b1  |     0|\n"
            "|     |       |strict-match    |     5|exact_match|\u2191  |    1|\u00b1  |     0|\n");
  EXPECT_EQ(table(4, 0, 1),
            "|Tasks|Version|     Filter     |n-shot|  Metric   |   |Value|   |Stderr|\n"
            "|-----|------:|----------------|-----:|-----------|---|----:|---|-----:|\n"
            "|gsm8k|      3|flexible-extract|     5|exact_match|\u2191  | 0.25|\u00b1  |  0.25|\n"
            "|     |       |strict-match    |     5|exact_match|\u2191  | 0.00|\u00b1  |  0.00|\n");
  EXPECT_EQ(table(64, 63, 64),
            "|Tasks|Version|     Filter     |n-shot|  Metric   |   |Value |   |Stderr|\n"
            "|-----|------:|----------------|-----:|-----------|---|-----:|---|-----:|\n"
            "|gsm8k|      3|flexible-extract|     5|exact_match|\u2191  |1.0000|\u00b1  |0.0000|\n"
            "|     |       |strict-match    |     5|exact_match|\u2191  |0.9844|\u00b1  |0.0156|\n");
  EXPECT_EQ(table(1, 0, 1),
            "|Tasks|Version|     Filter     |n-shot|  Metric   |   |Value|   |Stderr|\n"
            "|-----|------:|----------------|-----:|-----------|---|----:|---|------|\n"
            "|gsm8k|      3|flexible-extract|     5|exact_match|\u2191  |    1|\u00b1  |   N/A|\n"
            "|     |       |strict-match    |     5|exact_match|\u2191  |    0|\u00b1  |   N/A|\n");
}

harness::Run small_run() {
  const Dataset data = read_dataset(kGolden + "lm_eval_prompts");
  const PromptSet set = make_prompts(require_task("gsm8k"), data, {});
  harness::Run run = run_of(set, data);
  run.model = "org/model";
  for (const Prompt& p : set.prompts) {
    Sample s = sample_of(p, data.test[static_cast<std::size_t>(p.doc_id)]);
    s.completion = "so\n#### " + p.target.substr(p.target.rfind(' ') + 1);
    s.finish_reason = "stop";
    grade(*set.task, s);
    run.samples.push_back(s);
  }
  return run;
}

TEST(TaskRuns, outcomes_are_kept_apart) {
  harness::Run run = small_run();
  const Task& task = require_task("gsm8k");
  EXPECT_EQ(run.samples[0].scores[0].outcome, Outcome::kRight);
  const auto outcome = [&](const char* text, const char* finish) {
    Sample s = run.samples[0];
    s.completion = text;
    s.finish_reason = finish;
    grade(task, s);
    return s.scores[0].outcome;
  };
  EXPECT_EQ(outcome("", "stop"), Outcome::kEmpty);
  EXPECT_EQ(outcome(" \n", "length"), Outcome::kEmpty);
  EXPECT_EQ(outcome("and then", "length"), Outcome::kTruncated);
  EXPECT_EQ(outcome("and then Question: what", "stop"), Outcome::kRunOn);
  EXPECT_EQ(outcome("twelve", "stop"), Outcome::kInvalid);
  EXPECT_EQ(outcome("#### -1", "stop"), Outcome::kWrong);
  EXPECT_EQ(outcome(run.samples[0].completion.c_str(), "length"), Outcome::kRight);
}

TEST(TaskRuns, failures_are_no_wrong_answers) {
  harness::Run run = small_run();
  const auto n = static_cast<std::int64_t>(run.samples.size());
  const std::int64_t right = summarize(run).filters[0].accuracy.right;
  run.samples[3].failed = true;
  run.samples[3].completion.clear();
  run.samples[3].error = "503 \xff after 4 attempts";
  run.samples[3].attempts = 4;
  grade(require_task("gsm8k"), run.samples[3]);
  run.samples[5].completion = "#### 0 and more";
  run.samples[5].finish_reason = "length";
  grade(require_task("gsm8k"), run.samples[5]);
  const Summary sum = summarize(run);
  EXPECT_EQ(sum.failed, 1);
  EXPECT_EQ(sum.truncated, 1);
  EXPECT_EQ(sum.filters[0].accuracy.n, n - 1);
  EXPECT_EQ(sum.filters[0].accuracy.right, right - 2);
  const TemporaryFolder out;
  const harness::Run again = read_run(write_run(out.path, run));
  EXPECT_EQ(again.model, "org/model");
  EXPECT_NE(again.path.find("/org__model/results_"), std::string::npos);
  ASSERT_EQ(again.samples.size(), run.samples.size());
  EXPECT_TRUE(again.samples[3].failed);
  EXPECT_EQ(again.samples[3].attempts, 4);
  EXPECT_EQ(again.samples[5].finish_reason, "length");
  EXPECT_EQ(again.samples[5].scores[0].outcome, Outcome::kTruncated);
  EXPECT_EQ(again.task_hash, run.task_hash);  // of the questions asked
  const Summary read = summarize(again);
  EXPECT_EQ(read.failed, 1);
  EXPECT_EQ(read.filters[0].accuracy.mean, sum.filters[0].accuracy.mean);
}

TEST(TaskRuns, samples_go_through_a_journal) {
  Sample s = small_run().samples[2];
  s.completion = "cut \xE2\x82";
  s.error = "timeout\n";
  s.prompt_tokens = 812;
  s.latency_s = 0.125;
  s.attempts = 3;
  const std::string line = to_json(s);
  EXPECT_EQ(line.find('\n'), line.npos);
  const Sample t = sample_from_json(line);
  EXPECT_EQ(to_json(t), line);
  EXPECT_EQ(t.completion, "cut \xEF\xBF\xBD");
  EXPECT_EQ(t.scores.size(), 2u);
  EXPECT_EQ(t.latency_s, 0.125);
  for (std::size_t cut = 0; cut < line.size(); cut += 97)
    EXPECT_THROW((void)sample_from_json(std::string_view(line).substr(0, cut)), UsageError);
}

TEST(TaskRuns, unreadable_runs_are_named) {
  const TemporaryFolder out;
  EXPECT_NE(message_of([&] { (void)read_run(out.path + "/none"); }).find("does not exist"),
            std::string::npos);
  EXPECT_NE(message_of([&] { (void)read_run(out.path); }).find("holds no results_"), std::string::npos);
  std::ofstream(out.path + "/results_1.json") << "{\"results\": {\"gsm8k\": {}, \"mmlu\": {}}}";
  EXPECT_NE(message_of([&] { (void)read_run(out.path); }).find("--task"), std::string::npos);
  EXPECT_NE(message_of([&] { (void)read_run(out.path, "gsm8k"); }).find("--log_samples"), std::string::npos);
  std::ofstream(out.path + "/samples_gsm8k_1.jsonl") << "{\"doc_id\": 0}\n";
  EXPECT_NE(message_of([&] { (void)read_run(out.path, "gsm8k"); }).find("samples_gsm8k_1.jsonl:1:"),
            std::string::npos);
  std::ofstream(out.path + "/results_2.json") << "{";
  EXPECT_NE(message_of([&] {
              (void)read_run(out.path);
            }).find("results_2.json:1: not JSON: unexpected end of input"),
            std::string::npos);
}

// A whole answer of a stream without [DONE] says so wherever the run is kept, and one with it says nothing.
TEST(TaskRuns, a_missing_done_is_kept) {
  harness::Run run = small_run();
  EXPECT_EQ(to_json(run.samples[1]).find("missing_done"), std::string::npos);
  EXPECT_EQ(outcomes_text(run).find("[DONE]"), std::string::npos);
  run.samples[1].missing_done = true;
  EXPECT_TRUE(sample_from_json(to_json(run.samples[1])).missing_done);
  EXPECT_FALSE(sample_from_json(to_json(run.samples[0])).missing_done);
  EXPECT_NE(outcomes_text(run).find("1 stream ended without [DONE]"), std::string::npos)
      << outcomes_text(run);
  const TemporaryFolder out;
  const harness::Run again = read_run(write_run(out.path, run));
  EXPECT_EQ(summarize(again).missing_done, 1);
  EXPECT_TRUE(again.samples[1].missing_done);
  EXPECT_EQ(parse_json(read_text(again.path))["moecheck"]["missing_done"], 1);
}

// Older releases: no `filter`, no hashes, arguments as a list, one array in the file.
TEST(TaskRuns, older_lm_eval_files_are_read) {
  const TemporaryFolder out;
  std::ofstream(out.path + "/results.json")
      << R"({"results": {"gsm8k": {"exact_match,get-answer": 0.5}}, "configs": {"gsm8k": {"filter_list": [{"name": "get-answer"}]}},
            "config": {"model": "vllm", "model_args": "pretrained=x"}})";
  std::ofstream(out.path + "/pretrained__x_gsm8k.jsonl")
      << R"([{"doc_id": 0, "doc": {"question": "q", "answer": "#### 1"}, "target": "#### 1", "arguments": [["p", {"until": []}]],
             "resps": [["#### 1"]], "filtered_resps": ["1"], "exact_match": 1.0},
            {"doc_id": 1, "doc": {"question": "r", "answer": "#### 2"}, "target": "#### 2", "arguments": [["p2", {"until": []}]],
             "resps": [["x"]], "filtered_resps": ["[invalid]"], "exact_match": 0.0}])";
  const harness::Run run = read_run(out.path);
  ASSERT_EQ(run.samples.size(), 2u);
  EXPECT_EQ(run.filters, std::vector<std::string>{"get-answer"});
  EXPECT_TRUE(run.samples[0].scores[0].right);
  EXPECT_EQ(run.samples[1].prompt, "p2");
  EXPECT_EQ(run.samples[1].prompt_hash, sha256_hex("p2"));
  EXPECT_EQ(run.model, "pretrained=x");
}

}  // namespace
}  // namespace moecheck::harness
