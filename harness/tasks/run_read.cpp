// Reading runs: ours and lm_eval's own, of several versions.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <utility>

#include "harness/case.h"
#include "harness/json.h"
#include "harness/tasks/files.h"
#include "harness/tasks/python_text.h"
#include "harness/tasks/sample.h"
#include "harness/tasks/sha256.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

const Json& at_or_null(const Json& j, const std::string& key) {
  static const Json null;
  if (!j.is_object()) return null;
  const auto it = j.find(key);
  return it == j.end() ? null : *it;
}

std::string text_of(const Json& j) {
  if (j.is_string()) return j.get<std::string>();
  return j.is_null() ? std::string() : python_json(j);
}

double number_of(const Json& j, double otherwise) { return j.is_number() ? j.get<double>() : otherwise; }
// Files of others hold counts as floats too; what no count can be is left as if it were absent.
std::int64_t integer_of(const Json& j, std::int64_t otherwise) {
  if (!j.is_number()) return otherwise;
  const double v = j.get<double>();
  return v > -0x1p53 && v < 0x1p53 ? static_cast<std::int64_t>(v) : otherwise;
}
int int_of(const Json& j, int otherwise) {
  const std::int64_t v = integer_of(j, otherwise);
  return std::in_range<int>(v) ? static_cast<int>(v) : otherwise;
}

bool is_results(const std::string& name) { return name.starts_with("results") && name.ends_with(".json"); }
bool is_samples(const std::string& name) { return name.starts_with("samples_") && name.ends_with(".jsonl"); }

// The newest file below `path` that fits: names carry the time.
template <class Fits>
std::string newest(const std::string& path, Fits fits) {
  std::string best, best_name;
  const auto options = fs::directory_options::skip_permission_denied;
  std::error_code error;
  for (fs::recursive_directory_iterator it(path, options, error), end; !error && it != end;
       it.increment(error)) {
    if (it.depth() >= 2) it.disable_recursion_pending();
    const std::string name = it->path().filename().string();
    if (it->is_regular_file(error) && fits(name) && (best.empty() || name > best_name))
      best = it->path().string(), best_name = name;
  }
  return best;
}

// "results_2026-..json" -> "2026-..", or empty.
std::string stamp_of(const std::string& results_path) {
  const std::string stem = fs::path(results_path).stem().string();
  const std::size_t at = stem.find('_');
  return at == stem.npos ? "" : stem.substr(at + 1);
}

std::string samples_beside(const std::string& results_path, const std::string& task) {
  const std::string folder = fs::path(results_path).parent_path().string();
  const std::string stamp = stamp_of(results_path);
  const std::string exact = fmt::format("{}/samples_{}_{}.jsonl", folder.empty() ? "." : folder, task, stamp);
  if (!stamp.empty() && fs::exists(exact)) return exact;
  // Releases up to 0.4.2 wrote <model>_<task>.jsonl beside results.json.
  const std::string old = newest(folder.empty() ? "." : folder, [&](const std::string& name) {
    return name.ends_with("_" + task + ".jsonl") || name.starts_with("samples_" + task + "_");
  });
  if (!old.empty()) return old;
  throw UsageError(
      fmt::format("there is no {} beside {}: run lm_eval with --log_samples, or moecheck eval with "
                  "--output",
                  printable(fs::path(exact).filename().string()), printable(results_path)));
}

// The prompt of a row, in any of the forms that `arguments` had: {"gen_args_0": {"arg_0": prompt}}, the same with a
// list of one (chat), or [[prompt, kwargs]].
std::string prompt_of(const Json& arguments) {
  const Json* p = &arguments;
  if (p->is_object() && !p->empty()) p = &at_or_null(*p, "gen_args_0");
  if (p->is_object()) p = &at_or_null(*p, "arg_0");
  while (p->is_array() && !p->empty()) p = &(*p)[0];
  return text_of(*p);
}

// The generation kwargs of a row, keys sorted: {"gen_args_0": {"arg_1": {...}}} or [[prompt, {...}]].
std::string generation_of(const Json& arguments) {
  const Json* p = &arguments;
  if (p->is_object()) p = &at_or_null(at_or_null(*p, "gen_args_0"), "arg_1");
  if (p->is_array() && p->size() == 1) p = &(*p)[0];
  if (p->is_array() && p->size() > 1) p = &(*p)[1];
  return p->is_object() ? nlohmann::json(*p).dump(-1, ' ', false, Json::error_handler_t::replace)
                        : std::string();
}

std::string first_text(const Json& j) {
  const Json* p = &j;
  while (p->is_array() && !p->empty()) p = &(*p)[0];
  return p->is_array() ? std::string() : text_of(*p);
}

class Reader {
 public:
  Reader(Run& run, std::string path) : run_(run), path_(std::move(path)) {}

  void read() {
    const std::string text = read_text(path_);
    const std::size_t first = text.find_first_not_of(" \t\r\n");
    if (first != text.npos && text[first] == '[') {  // one array, up to 0.4.2
      try {
        for (const Json& j : parse_json(text)) row(j);
      } catch (const std::exception& e) {
        throw_at_line(path_, 0, e, "it is one list of rows, as lm_eval up to 0.4.2 wrote");
      }
    } else {
      each_line(
          path_, text, [&](std::string_view line, std::size_t) { row(parse_json(line)); },
          "every line is one row, as lm_eval --log_samples and moecheck eval write them");
    }
    if (samples_.empty()) throw UsageError(fmt::format("{} holds no samples", printable(path_)));
    for (auto& [id, sample] : samples_) run_.samples.push_back(std::move(sample));
  }

 private:
  void row(const Json& j) {
    const Json& id = j.at("doc_id");
    auto [it, is_new] = samples_.try_emplace(id.get<std::int64_t>());
    Sample& s = it->second;
    if (is_new) fill(s, j);
    FilterScore f;
    const Json& filter = at_or_null(j, "filter");
    f.filter = filter.is_string()     ? filter.get<std::string>()
               : run_.filters.empty() ? "none"
                                      : run_.filters.front();
    f.extracted = first_text(at_or_null(j, "filtered_resps"));
    f.right = number_of(j.at("exact_match"), 0) > 0.5;
    for (const FilterScore& known : s.scores)
      if (known.filter == f.filter) throw UsageError(fmt::format("document {} stands twice in it", s.doc_id));
    if (std::find(run_.filters.begin(), run_.filters.end(), f.filter) == run_.filters.end())
      run_.filters.push_back(f.filter);
    s.scores.push_back(std::move(f));
  }

  void fill(Sample& s, const Json& j) {
    const Json& doc = at_or_null(j, "doc");
    const Json& own = at_or_null(j, "moecheck");
    s.doc_id = j.at("doc_id").get<std::int64_t>();
    s.doc_json = doc.is_object() ? python_json(doc, 2) : "";
    s.target = text_of(at_or_null(j, "target"));
    s.prompt = prompt_of(at_or_null(j, "arguments"));
    s.completion = first_text(at_or_null(j, "resps"));
    if (run_.generation_json.empty()) run_.generation_json = generation_of(at_or_null(j, "arguments"));
    const auto hash = [&](const char* key, const std::string& of) {
      const Json& h = at_or_null(j, key);
      return h.is_string() ? h.get<std::string>() : sha256_hex(of);
    };
    s.doc_hash = hash("doc_hash", s.doc_json);
    s.prompt_hash = hash("prompt_hash", s.prompt);
    s.target_hash = hash("target_hash", s.target);
    s.finish_reason = text_of(at_or_null(own, "finish_reason"));
    s.error = text_of(at_or_null(own, "error"));
    s.prompt_tokens = integer_of(at_or_null(own, "prompt_tokens"), -1);
    s.completion_tokens = integer_of(at_or_null(own, "completion_tokens"), -1);
    s.attempts = int_of(at_or_null(own, "attempts"), 1);
    s.latency_s = number_of(at_or_null(own, "latency_s"), -1);
    s.ttft_s = number_of(at_or_null(own, "ttft_s"), -1);
    s.missing_done = at_or_null(own, "missing_done") == true;
  }

  Run& run_;
  std::string path_;
  std::map<std::int64_t, Sample> samples_;
};

std::string choose_task(const Json& results, const std::string& wanted, const std::string& path) {
  const Json& list = at_or_null(results, "results");
  std::vector<std::string> names;
  if (list.is_object())
    for (const auto& item : list.items()) names.push_back(item.key());
  if (names.empty()) throw UsageError(fmt::format("{} holds no \"results\" of a task", printable(path)));
  if (!wanted.empty()) {
    if (std::find(names.begin(), names.end(), wanted) != names.end()) return wanted;
    throw UsageError(fmt::format("{} holds no task '{}', only {}", printable(path), printable(wanted),
                                 printable(fmt::format("{}", fmt::join(names, ", ")))));
  }
  if (names.size() == 1) return names[0];
  throw UsageError(fmt::format("{} holds {}: choose one with --task", printable(path),
                               printable(fmt::format("{}", fmt::join(names, ", ")))));
}

void read_results(const std::string& path, const Json& j, Run& run) {
  const auto of_task = [&](const char* key) -> const Json& {
    return at_or_null(at_or_null(j, key), run.task);
  };
  const Json& config = at_or_null(j, "config");
  const Json& args = at_or_null(config, "model_args");
  const Json& own = at_or_null(j, "moecheck");
  run.path = path;
  run.version = text_of(of_task("versions"));
  run.model = text_of(at_or_null(j, "model_name"));
  if (run.model.empty()) run.model = text_of(args.is_object() ? at_or_null(args, "model") : args);
  run.base_url = text_of(at_or_null(args, "base_url"));
  const std::string source = text_of(at_or_null(config, "model"));
  run.api = source.find("chat") != source.npos ? Api::kChat : Api::kCompletions;
  const Json& turns = at_or_null(j, "fewshot_as_multiturn");
  run.fewshot_as_multiturn = !turns.is_boolean() || turns.get<bool>();
  run.num_fewshot = int_of(of_task("n-shot"), -1);
  run.limit = integer_of(at_or_null(config, "limit"), 0);
  run.documents = integer_of(at_or_null(of_task("n-samples"), "original"), 0);
  run.fewshot_seed = static_cast<std::uint64_t>(integer_of(at_or_null(config, "fewshot_seed"), 1234));
  run.concurrency = int_of(at_or_null(args, "num_concurrent"), 1);
  run.max_retries = int_of(at_or_null(args, "max_retries"), 0);
  run.timeout_s = number_of(at_or_null(args, "timeout"), 300);
  run.task_hash = text_of(of_task("task_hashes"));
  run.started_unix = number_of(at_or_null(j, "date"), 0);
  const std::string seconds = text_of(at_or_null(j, "total_evaluation_time_seconds"));
  run.seconds = seconds.empty() ? 0 : std::strtod(seconds.c_str(), nullptr);
  run.data_name = text_of(at_or_null(own, "data"));
  run.test_sha256 = text_of(at_or_null(own, "test_sha256"));
  run.max_gen_toks = int_of(at_or_null(own, "max_gen_toks"), 256);
  if (own.is_object()) run.extra_json = python_json(own);
  const Json& filters = at_or_null(of_task("configs"), "filter_list");
  if (filters.is_array())
    for (const Json& f : filters) run.filters.push_back(text_of(at_or_null(f, "name")));
}

void add_failures(Run& run) {
  if (run.extra_json.empty()) return;
  const Json own = parse_json(run.extra_json);
  const Json& failures = at_or_null(own, "failures");
  if (!failures.is_array()) return;
  for (const Json& f : failures) {
    Sample s;
    s.failed = true;
    s.doc_id = integer_of(at_or_null(f, "doc_id"), -1);
    s.attempts = int_of(at_or_null(f, "attempts"), 1);
    s.error = text_of(at_or_null(f, "error"));
    s.doc_hash = text_of(at_or_null(f, "doc_hash"));
    s.prompt_hash = text_of(at_or_null(f, "prompt_hash"));
    s.target_hash = text_of(at_or_null(f, "target_hash"));
    for (const std::string& name : run.filters) s.scores.push_back({name, "", false, Outcome::kFailed});
    run.samples.push_back(std::move(s));
  }
  std::stable_sort(run.samples.begin(), run.samples.end(),
                   [](const Sample& a, const Sample& b) { return a.doc_id < b.doc_id; });
}

// "samples_gsm8k_2026-...jsonl" -> gsm8k
std::string task_of_samples(const std::string& path) {
  std::string stem = fs::path(path).stem().string();
  if (stem.starts_with("samples_")) stem.erase(0, 8);
  const std::size_t at = stem.rfind('_');
  return at == stem.npos ? stem : stem.substr(0, at);
}

void finish(Run& run) {
  std::vector<std::string> until;
  for (const Task& t : tasks())
    if (t.name == run.task) until = t.generation.until;
  std::vector<std::string> rows;
  for (Sample& s : run.samples) {
    // Rows of the filters may come in any order; a filter that nobody has is no filter.
    std::stable_sort(s.scores.begin(), s.scores.end(), [&](const FilterScore& a, const FilterScore& b) {
      const auto rank = [&](const FilterScore& f) {
        return std::find(run.filters.begin(), run.filters.end(), f.filter) - run.filters.begin();
      };
      return rank(a) < rank(b);
    });
    classify(s, until);
    rows.push_back(s.doc_hash + s.prompt_hash + s.target_hash);
  }
  std::erase_if(run.filters, [&](const std::string& f) {
    return std::none_of(run.samples.begin(), run.samples.end(), [&](const Sample& s) {
      return std::any_of(s.scores.begin(), s.scores.end(),
                         [&](const FilterScore& x) { return x.filter == f; });
    });
  });
  if (run.task_hash.empty()) run.task_hash = task_hash(rows, std::max<std::size_t>(1, run.filters.size()));
}

}  // namespace

Run read_run(const std::string& path, const std::string& task) {
  std::error_code error;
  std::string results = path;
  if (fs::is_directory(path, error)) {
    results = newest(path, is_results);
    if (results.empty()) results = newest(path, is_samples);
    if (results.empty())
      throw UsageError(
          fmt::format("{} holds no results_*.json or samples_*.jsonl: give the folder that moecheck eval "
                      "--output or lm_eval --output_path --log_samples wrote",
                      printable(path)));
  } else if (!fs::exists(path, error)) {
    throw UsageError(fmt::format("{} does not exist: give the folder of a run", printable(path)));
  }
  Run run;
  if (results.ends_with(".jsonl")) {
    run.task = task.empty() ? task_of_samples(results) : task;
    run.path = results;
    Reader(run, results).read();
  } else {
    Json j;
    try {
      j = parse_json(read_text(results));
    } catch (const nlohmann::json::exception& e) {
      throw_at_line(results, 0, e, "give the results file or the folder of a run");
    }
    run.task = choose_task(j, task, results);
    read_results(results, j, run);
    Reader(run, samples_beside(results, run.task)).read();
    add_failures(run);
  }
  if (!run.generation_json.empty())
    run.max_gen_toks = int_of(at_or_null(parse_json(run.generation_json), "max_gen_toks"), 256);
  finish(run);
  return run;
}

}  // namespace moecheck::harness
