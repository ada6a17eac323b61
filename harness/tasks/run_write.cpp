// A run as lm_eval writes it.
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <optional>
#include <vector>

#include "harness/atomic_file.h"
#include "harness/case.h"
#include "harness/json.h"
#include "harness/record.h"
#include "harness/tasks/python_text.h"
#include "harness/tasks/sample.h"
#include "harness/text.h"
#include "harness/utf8.h"

namespace moecheck::harness {
namespace {

using Json = nlohmann::ordered_json;

// datetime.now().isoformat() with "-" for ":"
std::string time_stamp() {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto micros =
      std::chrono::duration_cast<std::chrono::microseconds>(now.time_since_epoch()).count() % 1000000;
  std::tm local{};
  localtime_r(&seconds, &local);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H-%M-%S", &local);
  return fmt::format("{}.{:06}", text, micros);
}

// lm_eval's rule for model names in paths: each run of "<>:/\|?*[] becomes two underscores. A name of dots alone would
// leave the folder.
std::string sanitized(std::string_view model) {
  std::string out;
  bool in_run = false;
  for (const char c : model) {
    const bool special = std::string_view("\"<>:/|\\?*[]").find(c) != std::string_view::npos;
    if (special && !in_run) out += "__";
    if (!special) out += c;
    in_run = special;
  }
  return out.find_first_not_of('.') == out.npos ? "model" : out;
}

Json number_or_null(double value) { return value < 0 || std::isnan(value) ? Json(nullptr) : Json(value); }
Json count_or_null(std::int64_t value) { return value < 0 ? Json(nullptr) : Json(value); }
Json text_or_null(const std::string& text) { return text.empty() ? Json(nullptr) : Json(valid_utf8(text)); }

std::string json_text(std::string_view text) { return python_json_string(valid_utf8(text)); }

// One line of samples_*.jsonl. Made of text, not of a tree: most of it is a prompt of several thousand bytes. `doc` and
// `generation` are JSON.
std::string row(const Run& run, const Sample& s, const FilterScore& f, const std::string& doc,
                const std::string& generation) {
  const std::string prompt = json_text(s.prompt);
  Json own;
  own["outcome"] = name(f.outcome);
  own["finish_reason"] = text_or_null(s.finish_reason);
  own["prompt_tokens"] = count_or_null(s.prompt_tokens);
  own["completion_tokens"] = count_or_null(s.completion_tokens);
  own["attempts"] = s.attempts;
  own["latency_s"] = number_or_null(s.latency_s);
  own["ttft_s"] = number_or_null(s.ttft_s);
  own["error"] = text_or_null(s.error);
  if (s.missing_done) own["missing_done"] = true;
  std::string out =
      fmt::format("{{\"doc_id\": {}, \"doc\": {}, \"target\": {}, ", s.doc_id, doc, json_text(s.target));
  out.append("\"arguments\": {\"gen_args_0\": {\"arg_0\": ");
  // A chat prompt is a tuple of one in lm_eval, which JSON shows as a list.
  if (run.api == Api::kChat)
    out.append("[").append(prompt).append("]");
  else
    out.append(prompt);
  out.append(", \"arg_1\": ").append(generation).append("}}, ");
  out += fmt::format(
      "\"resps\": [[{}]], \"filtered_resps\": [{}], \"filter\": {}, \"metrics\": [\"exact_match\"], "
      "\"doc_hash\": {}, "
      "\"prompt_hash\": {}, \"target_hash\": {}, \"exact_match\": {}, \"moecheck\": {}}}\n",
      json_text(s.completion), json_text(f.extracted), json_text(f.filter), json_text(s.doc_hash),
      json_text(s.prompt_hash), json_text(s.target_hash), f.right ? "1.0" : "0.0", python_json(own));
  return out;
}

Json own_part(const Run& run, const Summary& sum) {
  Json j;
  j["version"] = environment().version;
  j["data"] = run.data_name;
  j["test_sha256"] = run.test_sha256;
  j["max_gen_toks"] = run.max_gen_toks;
  j["asked"] = sum.asked;
  j["answered"] = sum.answered;
  j["failed"] = sum.failed;
  j["truncated"] = sum.truncated;
  j["empty"] = sum.empty;
  j["run_on"] = sum.run_on;
  j["loops"] = sum.loops;
  if (sum.missing_done > 0) j["missing_done"] = sum.missing_done;
  for (const FilterSummary& f : sum.filters)
    for (std::size_t o = 0; o < kOutcomes; ++o)
      j["outcomes"][f.filter][std::string(name(static_cast<Outcome>(o)))] = f.outcomes[o];
  j["failures"] = Json::array();
  for (const Sample& s : run.samples)
    if (s.failed)
      j["failures"].push_back({{"doc_id", s.doc_id},
                               {"attempts", s.attempts},
                               {"error", valid_utf8(s.error)},
                               {"doc_hash", s.doc_hash},
                               {"prompt_hash", s.prompt_hash},
                               {"target_hash", s.target_hash}});
  if (!run.extra_json.empty()) j.update(parse_json(run.extra_json));
  return j;
}

Json results(const Run& run) {
  const Summary sum = summarize(run);
  const Task& task = require_task(run.task);
  const bool chat = run.api == Api::kChat;
  const Environment& env = environment();
  Json j;
  j["results"][run.task] = metrics_json(run, sum);
  j["group_subtasks"] = Json::object();
  j["configs"][run.task] = parse_json(config_json(task, run.num_fewshot));
  j["versions"][run.task] = std::stod(task.version);
  j["n-shot"][run.task] = run.num_fewshot;
  j["higher_is_better"][run.task]["exact_match"] = true;
  j["n-samples"][run.task] = {{"original", run.documents}, {"effective", sum.answered}};
  Json c;  // not a reference into j: its members move when more are added
  c["model"] = chat ? "local-chat-completions" : "local-completions";
  c["model_args"] = {{"model", run.model},
                     {"base_url", run.base_url},
                     {"num_concurrent", run.concurrency},
                     {"max_retries", run.max_retries},
                     {"timeout", run.timeout_s},
                     {"tokenized_requests", false}};
  c["batch_size"] = 1;
  c["batch_sizes"] = Json::array();
  c["device"] = nullptr;
  c["use_cache"] = nullptr;
  c["limit"] = run.limit > 0 ? Json(static_cast<double>(run.limit)) : Json(nullptr);
  c["bootstrap_iters"] = 100000;
  c["gen_kwargs"] = run.max_gen_toks == 256 ? Json(nullptr) : Json{{"max_gen_toks", run.max_gen_toks}};
  c["random_seed"] = 0;
  c["numpy_seed"] = 1234;
  c["torch_seed"] = 1234;
  c["fewshot_seed"] = run.fewshot_seed;
  j["config"] = c;
  j["git_hash"] = nullptr;
  j["date"] = run.started_unix;
  j["pretty_env_info"] = fmt::format("moecheck {} ({}), {}, {}, {} threads", env.version, env.commit, env.cpu,
                                     env.os, env.threads);
  j["transformers_version"] = nullptr;
  j["lm_eval_version"] = fmt::format("moecheck {}, prompts and scores of lm_eval 0.4.13", env.version);
  j["upper_git_hash"] = nullptr;
  j["task_hashes"][run.task] = run.task_hash;
  j["model_source"] = c["model"];
  j["model_name"] = run.model;
  j["model_name_sanitized"] = sanitized(run.model);
  j["system_instruction"] = nullptr;
  j["system_instruction_sha"] = nullptr;
  j["fewshot_as_multiturn"] = chat && run.fewshot_as_multiturn;
  j["chat_template"] = chat ? Json("") : Json(nullptr);
  j["chat_template_sha"] = nullptr;
  j["total_evaluation_time_seconds"] = python_float(run.seconds);
  j["moecheck"] = own_part(run, sum);
  return j;
}

}  // namespace

nlohmann::ordered_json metrics_json(const Run& run, const Summary& sum) {
  Json r;
  r["name"] = run.task;
  r["alias"] = run.task;
  r["sample_len"] = sum.answered;
  for (const FilterSummary& f : sum.filters) {
    const Accuracy& a = f.accuracy;
    r["exact_match," + f.filter] = a.n > 0 ? Json(a.mean) : Json("N/A");
    r["exact_match_stderr," + f.filter] = a.n > 1 ? Json(a.standard_error) : Json("N/A");
  }
  return r;
}

Run run_of(const PromptSet& prompts, const Dataset& data) {
  Run run;
  const Task& task = *prompts.task;
  run.task = task.name;
  run.version = task.version;
  run.api = prompts.options.api;
  run.fewshot_as_multiturn = prompts.options.fewshot_as_multiturn;
  run.num_fewshot = prompts.options.num_fewshot;
  run.documents = static_cast<std::int64_t>(data.test.size());
  run.limit = prompts.options.limit < run.documents ? prompts.options.limit : 0;
  run.fewshot_seed = prompts.options.fewshot_seed;
  run.max_gen_toks = task.generation.max_gen_toks;
  run.task_hash = prompts.task_hash;
  run.data_name = data.name;
  run.test_sha256 = data.test_sha256;
  for (const Filter& f : task.filters) run.filters.push_back(f.name);
  return run;
}

std::string write_run(const std::string& out, Run& run) {
  const std::string folder = out + "/" + sanitized(run.model);
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error)
    throw UsageError(fmt::format("{} can not be made: {}; give --output a folder you may write to",
                                 printable(folder), error.message()));
  const std::string stamp = time_stamp();
  const std::string generation =
      python_json(parse_json(generation_json(require_task(run.task), run.max_gen_toks)));
  std::vector<std::string> docs;  // in one line each; every filter has a row with them
  for (const Sample& s : run.samples)
    docs.push_back(s.failed || s.doc_json.empty() ? "{}" : python_json(parse_json(s.doc_json)));
  AtomicFile samples(fmt::format("{}/samples_{}_{}.jsonl", folder, run.task, stamp));
  for (std::size_t f = 0; f < run.filters.size(); ++f)
    for (std::size_t i = 0; i < run.samples.size(); ++i)
      if (const Sample& s = run.samples[i]; !s.failed && f < s.scores.size())
        samples.write(row(run, s, s.scores[f], docs[i], generation));
  samples.commit();
  // The results last: where they stand, the samples do too.
  run.path = fmt::format("{}/results_{}.json", folder, stamp);
  write_file(run.path, python_json(results(run), 2));
  return run.path;
}

namespace {

std::string centred(std::string_view text, std::size_t width) {
  const std::size_t left = (width - text.size()) / 2;
  return std::string(left, ' ') + std::string(text) + std::string(width - text.size() - left, ' ');
}

// A column of lm_eval's table: four decimals, less the last ones that are zero in every row, so 1 and 1 but 1.0000 and
// 0.9844. The rule tells a column with a missing number from one of numbers.
struct Column {
  std::vector<std::string> cells;  // heading, rule, then the rows, all equally wide

  Column(const std::string& heading, const std::vector<std::optional<double>>& values) {
    std::vector<std::string> texts;
    std::size_t spare = 5;  // ".0000"
    bool missing = false;
    for (const auto& v : values) {
      texts.push_back(v ? fmt::format("{:.4f}", *v) : "   N/A");
      missing |= !v;
      if (!v) continue;
      const std::size_t kept = texts.back().find_last_not_of('0') + 1;
      const std::size_t zeros = texts.back().size() - kept;
      spare = std::min(spare, zeros == 4 ? 5 : zeros);
    }
    std::size_t width = heading.size();
    for (std::size_t i = 0; i < texts.size(); ++i) {
      if (values[i]) texts[i].resize(texts[i].size() - spare);
      width = std::max(width, texts[i].size());
    }
    cells = {centred(heading, width), missing ? std::string(width, '-') : std::string(width - 1, '-') + ":"};
    for (const std::string& t : texts) cells.push_back(fmt::format("{:>{}}", t, width));
  }
};

}  // namespace

std::string results_table(const Run& run) {
  const Summary sum = summarize(run);
  std::vector<const FilterSummary*> filters;
  std::size_t widest = 6;
  for (const FilterSummary& f : sum.filters) {
    filters.push_back(&f);
    widest = std::max(widest, f.filter.size());
  }
  // lm_eval sorts by metric and filter name.
  std::sort(filters.begin(), filters.end(), [](auto* a, auto* b) { return a->filter < b->filter; });
  const std::size_t task = std::max<std::size_t>(5, run.task.size());
  std::string version = run.version;
  if (version.ends_with(".0")) version.resize(version.size() - 2);
  std::vector<std::optional<double>> means, errors;
  for (const FilterSummary* f : filters) {
    const Accuracy& a = f->accuracy;
    means.push_back(a.n > 0 ? std::optional(a.mean) : std::nullopt);
    errors.push_back(a.n > 1 ? std::optional(a.standard_error) : std::nullopt);
  }
  const Column value("Value", means), error("Stderr", errors);
  std::string out = fmt::format("|{}|Version|{}|n-shot|  Metric   |   |{}|   |{}|\n", centred("Tasks", task),
                                centred("Filter", widest), value.cells[0], error.cells[0]);
  out += fmt::format("|{:-<{}}|------:|{:-<{}}|-----:|-----------|---|{}|---|{}|\n", "", task, "", widest,
                     value.cells[1], error.cells[1]);
  for (std::size_t i = 0; i < filters.size(); ++i)
    out += fmt::format("|{:<{}}|{:>7}|{:<{}}|{:>6}|exact_match|↑  |{}|±  |{}|\n", i == 0 ? run.task : "",
                       task, i == 0 ? version : "", filters[i]->filter, widest, run.num_fewshot,
                       value.cells[i + 2], error.cells[i + 2]);
  return out;
}

std::string outcomes_text(const Run& run) {
  const Summary sum = summarize(run);
  std::string out = fmt::format("{} asked, {} answered, {} failed; ", grouped(sum.asked),
                                grouped(sum.answered), grouped(sum.failed));
  out +=
      fmt::format("cut at the token limit {}, empty {}, run on {}, loops {}\n",
                  sum.finish_reasons ? grouped(sum.truncated) : "not told", sum.empty, sum.run_on, sum.loops);
  if (sum.missing_done > 0)
    out += fmt::format("{} ended without [DONE]: taken as whole by a finish_reason and HTTP's end\n",
                       count(sum.missing_done, "stream"));
  for (const FilterSummary& f : sum.filters) {
    out += fmt::format("  {:<17}", f.filter);
    for (std::size_t o = 0; o < kOutcomes; ++o)
      if (f.outcomes[o] > 0 || o == static_cast<std::size_t>(Outcome::kRight))
        out += fmt::format(" {} {}", name(static_cast<Outcome>(o)), f.outcomes[o]);
    out += "\n";
  }
  return out;
}

}  // namespace moecheck::harness
