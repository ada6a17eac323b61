#pragma once
// One graded sample, and a run of them in the files of lm_eval: results_<time>.json and samples_<task>_<time>.jsonl,
// read by everything that reads lm_eval's. What lm_eval does not know (outcome, finish reason, attempts, ...) stands
// under the key "moecheck", last in each object.
//
// Failed requests have no row: lm_eval would count one as a wrong answer. They are listed under "moecheck" in the results,
// and `effective` in n-samples is the number of answered documents.
#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "harness/tasks/scoring.h"
#include "harness/tasks/task.h"

namespace moecheck::harness {

// What became of one question, by one filter; exclusive, the first that holds:
enum class Outcome : std::uint8_t {
  kFailed,     // no completion: the request failed after every retry
  kRight,      // the extracted answer is the reference's
  kEmpty,      // the completion is empty or white space
  kTruncated,  // not right, and the server stopped at the token limit (finish_reason "length")
  kRunOn,      // not right, and the text goes on into another question
  kInvalid,    // nothing to extract
  kWrong,      // an answer, and another one
};
inline constexpr std::size_t kOutcomes = 7;
std::string_view name(Outcome outcome);            // "right", "run_on", ...
Outcome outcome_from_name(std::string_view name);  // throws UsageError

struct FilterScore {
  std::string filter;  // "strict-match"
  std::string extracted;
  bool right = false;
  Outcome outcome = Outcome::kWrong;
};

struct Sample {
  std::int64_t doc_id = 0;
  std::string doc_json;  // the document as a JSON object; may be empty when read from elsewhere
  std::string target;
  std::string prompt;  // text, or lm_eval's JSON string of chat messages
  std::string doc_hash, prompt_hash, target_hash;

  bool failed = false;
  std::string error;  // of a failed request, or the last one that a retry overcame
  std::string completion;
  std::string finish_reason;                                // "stop", "length", ...; empty: not told
  std::int64_t prompt_tokens = -1, completion_tokens = -1;  // -1: not told
  int attempts = 1;
  double latency_s = -1;  // of the last attempt; -1: not known
  double ttft_s = -1;
  bool missing_done = false;        // the answer is whole, but its stream lacked the closing [DONE]
  std::vector<FilterScore> scores;  // in the order of the task's filters
};

// Fills in `scores` (and outcomes) from completion, target and finish_reason.
void grade(const Task& task, Sample& sample);

// The outcomes alone, from extracted, right, completion and finish_reason: for scores that were read.
void classify(Sample& sample, std::span<const std::string> until);

// A sample of a prompt, not answered yet.
Sample sample_of(const Prompt& prompt, const Document& doc);

// One JSON line with everything above, no newline: what a journal of finished samples is made of.
// sample_from_json throws UsageError on anything else (a torn last line, for one).
std::string to_json(const Sample& sample);
Sample sample_from_json(std::string_view line);

struct Run {
  std::string task;     // gsm8k
  std::string version;  // "3.0"
  std::string model, base_url;
  Api api = Api::kCompletions;
  bool fewshot_as_multiturn = true;
  int num_fewshot = 5;
  std::int64_t limit = 0;      // 0: none
  std::int64_t documents = 0;  // of the whole split ("original")
  std::uint64_t fewshot_seed = 1234;
  int max_gen_toks = 256;
  int concurrency = 1;
  int max_retries = 0;
  double timeout_s = 300;
  std::string task_hash;
  std::string data_name, test_sha256;  // of the data
  std::vector<std::string> filters;    // names, in order
  std::string generation_json;         // generation kwargs as the samples' rows have them; empty: not known
  double started_unix = 0, seconds = 0;
  std::vector<Sample> samples;  // in document order, failed ones too
  std::string path;             // where it was read from or written to (the results file)
  std::string extra_json;       // further fields for results "moecheck" (a JSON object); may be empty
};

// A run before its samples: everything the prompts and the data tell.
Run run_of(const PromptSet& prompts, const Dataset& data);

// Writes OUT/<model, sanitized>/results_<ISO time>.json and samples_<task>_<same time>.jsonl, each whole or not at all;
// returns the results file's path and sets run.path. Throws UsageError.
std::string write_run(const std::string& out, Run& run);

// Reads the newest run below `path`: a directory (searched to depth 2), a results_*.json or a samples_*.jsonl. Files of
// lm_eval 0.4.x are read too, old (no start_time, `arguments` as a list, no `filter` key) and new. Throws UsageError
// that names the file and what is missing, also when there is more than one task and `task` is empty.
Run read_run(const std::string& path, const std::string& task = "");

struct FilterSummary {
  std::string filter;
  Accuracy accuracy;                               // over answered samples
  std::array<std::int64_t, kOutcomes> outcomes{};  // over all, failed ones too
};

struct Summary {
  std::int64_t asked = 0, answered = 0, failed = 0, truncated = 0, empty = 0, run_on = 0, loops = 0;
  std::int64_t missing_done = 0;  // answers whose stream ended without [DONE]
  // truncated, empty, run_on and loops count every such completion, right ones too
  bool finish_reasons = false;  // whether any is known; lm_eval's own files have none
  std::vector<FilterSummary> filters;
};
Summary summarize(const Run& run);

// lm_eval's Markdown table of results, as it prints it.
std::string results_table(const Run& run);
// What lm_eval does not say: failures and outcomes of each filter, a few lines.
std::string outcomes_text(const Run& run);
// The inside of lm_eval's results{task: ...}: name, alias, sample_len, "exact_match,FILTER", "exact_match_stderr,FILTER".
nlohmann::ordered_json metrics_json(const Run& run, const Summary& summary);

}  // namespace moecheck::harness
