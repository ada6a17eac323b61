// Prompts, extraction, scores and files of the gsm8k tasks against lm_eval's own (datasets/golden/lm_eval_*).
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>

#include "harness/case.h"
#include "harness/json.h"
#include "harness/tasks/files.h"
#include "harness/tasks/python_random.h"
#include "harness/tasks/python_text.h"
#include "harness/tasks/regrading.h"
#include "harness/tasks/sample.h"
#include "harness/tasks/sha256.h"
#include "harness/tasks/task.h"

namespace moecheck::harness {
namespace {

using Json = nlohmann::ordered_json;

const std::string kGolden = MOECHECK_SOURCE_DIR "/datasets/golden/";

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

// ---- Python's things

TEST(PythonRandom, draws_are_cpythons) {
  const Json golden = parse_json(read_text(kGolden + "lm_eval_prompts/python_random.json"));
  for (const Json& row : golden["bits"]) {
    PythonRandom random(row["seed"].get<std::uint64_t>());
    for (const Json& bits : row["bits"]) EXPECT_EQ(random.bits(32), bits.get<std::uint32_t>()) << row["seed"];
    int i = 0;
    for (const int k : {1, 5, 13}) EXPECT_EQ(random.bits(k), row["small"][i++].get<std::uint32_t>());
  }
  std::optional<PythonRandom> random;
  std::uint64_t seed = 1;
  int count = 0;
  for (const Json& row : golden["samples"]) {  // one generator per seed, drawn from in turn
    if (!random || row["seed"] != seed) random.emplace(seed = row["seed"].get<std::uint64_t>());
    EXPECT_EQ(random->sample(row["n"].get<std::int32_t>(), row["k"].get<std::int32_t>()),
              row["drawn"].get<std::vector<std::int32_t>>())
        << row;
    ++count;
  }
  EXPECT_GE(count, 30);
  EXPECT_THROW((void)random->sample(3, 4), std::invalid_argument);
}

TEST(PythonRandom, first_draws_of_gsm8k) {
  PythonRandom random(1234);
  EXPECT_EQ(random.sample(7473, 5), (std::vector<std::int32_t>{6374, 3610, 957, 61, 742}));
  EXPECT_EQ(random.sample(7473, 5), (std::vector<std::int32_t>{7462, 6610, 4769, 286, 5501}));
  EXPECT_EQ(random.sample(7473, 5), (std::vector<std::int32_t>{5677, 687, 806, 6279, 2905}));
}

TEST(PythonText, json_is_pythons) {
  const Json j = parse_json(
      R"({"b": [1, 2.0, true, null], "a": "x\"\\\n\u001f\u007f\u00e9\ud83e\udd5a", "e": {}, "l": []})");
  EXPECT_EQ(python_json(j),
            "{\"b\": [1, 2.0, true, null], \"a\": \"x\\\"\\\\\\n\\u001f\x7f\xC3\xA9\xF0\x9F\xA5\x9A\", "
            "\"e\": {}, \"l\": []}");
  EXPECT_EQ(python_json(parse_json("{\"q\": [1, {\"x\": \"y\"}], \"e\": []}"), 2),
            "{\n  \"q\": [\n    1,\n    {\n      \"x\": \"y\"\n    }\n  ],\n  \"e\": []\n}");
}

TEST(PythonText, floats_are_pythons_repr) {
  const std::pair<double, const char*> rows[] = {{0, "0.0"},
                                                 {-0.0, "-0.0"},
                                                 {1, "1.0"},
                                                 {256, "256.0"},
                                                 {0.1, "0.1"},
                                                 {1e-5, "1e-05"},
                                                 {1e-4, "0.0001"},
                                                 {1.5e-7, "1.5e-07"},
                                                 {1e16, "1e+16"},
                                                 {1e15, "1000000000000000.0"},
                                                 {123456.789, "123456.789"},
                                                 {2.0 / 3, "0.6666666666666666"},
                                                 {1.0 / 3 + 5e-17, "0.33333333333333337"},
                                                 {1e22, "1e+22"},
                                                 {-1.25e300, "-1.25e+300"}};
  for (const auto& [value, text] : rows) EXPECT_EQ(python_float(value), text);
  EXPECT_EQ(python_float(NAN), "NaN");
}

TEST(PythonText, broken_json_text_is_mended) {
  EXPECT_EQ(parse_json("{\"a\": \"\\ud83d\"}")["a"].get<std::string>(), "\xEF\xBF\xBD");
  EXPECT_EQ(parse_json("{\"a\": \"\\udd5a x\"}")["a"].get<std::string>(), "\xEF\xBF\xBD x");
  EXPECT_EQ(parse_json("{\"a\": \"\\\\ud83d\"}")["a"].get<std::string>(), "\\ud83d");  // an escaped backslash
  EXPECT_EQ(parse_json("{\"a\": \"\xE2\x82\"}")["a"].get<std::string>(), "\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(parse_json("{\"a\": \"\xED\xA0\x80\"}")["a"].get<std::string>().size(),
            9u);  // a surrogate in UTF-8
  EXPECT_TRUE(parse_json("{\"a\": NaN, \"b\": -Infinity, \"c\": \"NaN\"}")["b"].is_null());
  EXPECT_EQ(parse_json("{\"c\": \"NaN\"}")["c"].get<std::string>(), "NaN");
  EXPECT_THROW((void)parse_json("{"), nlohmann::json::parse_error);
}

TEST(PythonText, strip_is_pythons) {
  EXPECT_EQ(python_strip(" \t\n\x1c x y\xC2\xA0\xE3\x80\x80\r"), "x y");
  EXPECT_EQ(python_strip("\xE2\x80\x8B x"), "\xE2\x80\x8B x");  // U+200B is no white space
  EXPECT_EQ(python_strip(" \n"), "");
  EXPECT_EQ(python_strip("x\x80\x80"), "x\x80\x80");
}

TEST(Sha256Test, published_vectors) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256_hex(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  for (const std::size_t n : {55u, 56u, 63u, 64u, 65u, 119u, 120u}) {  // padding, and pieces
    Sha256 pieces;
    const std::string text(n, 'x');
    for (const char c : text) pieces.add(std::string_view(&c, 1));
    EXPECT_EQ(pieces.hex(), sha256_hex(text)) << n;
  }
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

std::string message_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const UsageError& e) {
    return e.what();
  }
  return "";
}

struct TemporaryFolder {
  std::string path = [] {
    std::string name = (std::filesystem::temp_directory_path() / "moecheck_tasks_XXXXXX").string();
    return std::string(mkdtemp(name.data()));
  }();
  ~TemporaryFolder() { std::filesystem::remove_all(path); }
};

TEST(TaskPrompts, bad_data_is_named) {
  const TemporaryFolder folder;
  EXPECT_NE(message_of([&] { (void)read_dataset(folder.path); }).find("test.jsonl does not exist"),
            std::string::npos);
  std::ofstream(folder.path + "/test.jsonl")
      << "{\"question\": \"q\", \"answer\": \"#### 1\"}\n\n{\"question\": 3}\n";
  const std::string why = message_of([&] { (void)read_dataset(folder.path); });
  EXPECT_NE(why.find("test.jsonl:3:"), std::string::npos) << why;
  EXPECT_NE(why.find("\"question\""), std::string::npos) << why;
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

// ---- Files

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
  EXPECT_EQ(t.completion, "cut \xEF\xBF\xBD\xEF\xBF\xBD");
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
  EXPECT_NE(message_of([&] { (void)read_run(out.path); }).find("is no JSON"), std::string::npos);
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
