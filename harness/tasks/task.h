#pragma once
// The evaluation tasks as data, and the prompts they make: byte for byte those of lm-evaluation-harness (lm_eval) 0.4.13.
//
// A plain prompt is (q and a of a shot come from the training split):
//   question_prefix q question_suffix  target_delimiter a  "\n\n"   for each shot
//   question_prefix q question_suffix                               for the document
// e.g. "Question: q1\nAnswer: a1\n\n ... Question: q\nAnswer:". As chat the same turns become user and assistant
// messages, and the delimiters fall away.
//
// Shots of gsm8k: ONE CPython random.Random(fewshot_seed) per task, then one sample(train, k) per document in document
// order, so every document has its own shots and the first N prompts do not depend on --limit.
// Source: lm_eval/api/task.py (fewshot_context, build_qa_turn), api/samplers.py, tasks/gsm8k/*.yaml.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harness/tasks/scoring.h"

namespace moecheck::harness {

struct Document {
  std::string question, answer;  // UTF-8
  std::string json;  // Python's json.dumps(doc, indent=2, ensure_ascii=False): what doc_hash is made of
};

// What `answer` becomes as the target (and as a shot's answer).
enum class Target : std::uint8_t {
  kWhole,        // all of it: reasoning, annotations and "#### N"
  kAfterHashes,  // what follows the last "####", stripped
};

enum class Shots : std::uint8_t {
  kSampled,  // drawn from the shots' split
  kFixed,    // the first k of Task::fixed_shots
};

struct Generation {
  std::vector<std::string> until;  // stop strings
  bool do_sample = false;
  std::optional<double> temperature;  // as the task states it; none: the client's default, 0
  int max_gen_toks = 256;             // lm_eval's default for API models; no gsm8k task sets it
};

struct Task {
  std::string name;     // gsm8k, gsm8k_cot, ...
  std::string summary;  // one line for `--help`
  std::string version;  // "3.0", printed as JSON number
  std::string dataset;  // Hugging Face path, for the results file: openai/gsm8k
  std::string question_prefix, question_suffix;
  std::string target_delimiter = " ", fewshot_delimiter = "\n\n";
  Target target = Target::kWhole;
  Shots shots = Shots::kSampled;
  bool shots_from_test = false;  // drawn from the test split: n + 1 are drawn and the document itself removed
  std::vector<Document> fixed_shots;  // kFixed: question, and in `answer` the text of the target
  int num_fewshot = 5;                // 0: fixed at 0, as lm_eval ignores an override then
  Generation generation;
  std::vector<Filter> filters;  // in lm_eval's order; the first is the primary one
};

const std::vector<Task>& tasks();
const Task& require_task(std::string_view name);  // throws UsageError with the nearest name
// The task's configuration as lm_eval writes it into results ("configs"): a JSON object.
std::string config_json(const Task& task, int num_fewshot);
// Its generation_kwargs alone, as they stand in every row of samples; max_gen_toks where it is not the default 256.
std::string generation_json(const Task& task, int max_gen_toks = 256);

// ---- Data

struct Dataset {
  std::string directory;
  std::string test_sha256, train_sha256;  // of the files' bytes; train's is empty when the file is absent
  std::string name;  // "GSM8K (main)" when both hashes are its known ones, else "test sha256:0123456789ab"
  bool is_gsm8k = false;
  std::vector<Document> test, train;
};

// Reads DIR/test.jsonl and, where it exists, DIR/train.jsonl: one {"question": ..., "answer": ...} per line, further
// fields are kept in Document::json. Throws UsageError with path and line.
Dataset read_dataset(const std::string& directory);

// ---- Prompts

struct Message {
  std::string role, content;  // "system", "user", "assistant"
};

enum class Api : std::uint8_t { kCompletions, kChat };

struct PromptOptions {
  int num_fewshot = -1;    // -1: the task's own
  std::int64_t limit = 0;  // first N documents; 0: all
  std::uint64_t fewshot_seed = 1234;
  Api api = Api::kCompletions;
  bool fewshot_as_multiturn = true;  // chat only: shots as turns; false: one user message with everything
  std::string system_instruction;    // empty: none
};

struct Prompt {
  std::int64_t doc_id = 0;          // index in the test split
  std::vector<std::int32_t> shots;  // rows of the shots' split or of the fixed shots
  std::string text;                 // completions: the prompt; chat: the messages as lm_eval's JSON string
  std::vector<Message> messages;    // chat only
  std::string target;               // what lm_eval compares with
  std::string doc_hash, prompt_hash, target_hash;  // sha256, hex
};

struct PromptSet {
  const Task* task = nullptr;
  PromptOptions options;  // num_fewshot and limit resolved
  std::vector<Prompt> prompts;
  // sha256 over doc + prompt + target hashes of every row lm_eval logs (all documents once per filter). Two runs with
  // equal task hashes asked the same questions in the same words.
  std::string task_hash;
};

// Throws UsageError: more shots than the split has, no train.jsonl where shots are drawn from it, no documents.
PromptSet make_prompts(const Task& task, const Dataset& data, const PromptOptions& options);

// The task hash of rows (doc_hash + prompt_hash + target_hash of each document, in order), written once per filter.
std::string task_hash(const std::vector<std::string>& row_hashes, std::size_t filters);

}  // namespace moecheck::harness
