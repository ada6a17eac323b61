#include "harness/tasks/sample.h"

#include <fmt/format.h>

#include <algorithm>

#include "harness/case.h"
#include "harness/json.h"
#include "harness/json_error.h"
#include "harness/tasks/python_text.h"
#include "harness/text.h"
#include "harness/utf8.h"

namespace moecheck::harness {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kOutcomeNames[kOutcomes] = {"failed", "right",   "empty", "truncated",
                                                       "run_on", "invalid", "wrong"};

Outcome outcome_of(const Sample& s, const FilterScore& score, std::span<const std::string> until) {
  if (s.failed) return Outcome::kFailed;
  if (score.right) return Outcome::kRight;
  if (python_strip(s.completion).empty()) return Outcome::kEmpty;
  if (s.finish_reason == "length") return Outcome::kTruncated;
  if (runs_on(s.completion, until)) return Outcome::kRunOn;
  return score.extracted == kInvalidText ? Outcome::kInvalid : Outcome::kWrong;
}

}  // namespace

std::string_view name(Outcome outcome) { return kOutcomeNames[static_cast<std::size_t>(outcome)]; }

Outcome outcome_from_name(std::string_view name) {
  for (std::size_t i = 0; i < kOutcomes; ++i)
    if (kOutcomeNames[i] == name) return static_cast<Outcome>(i);
  throw UsageError(fmt::format("outcome '{}' is not known: there are {}", printable(name, 60),
                               fmt::join(kOutcomeNames, ", ")));
}

void classify(Sample& sample, std::span<const std::string> until) {
  for (FilterScore& s : sample.scores) s.outcome = outcome_of(sample, s, until);
}

void grade(const Task& task, Sample& sample) {
  sample.scores.clear();
  for (const Filter& f : task.filters) {
    FilterScore s;
    s.filter = f.name;
    if (!sample.failed) {
      Score g = grade(f.rule, sample.completion, sample.target);
      s.extracted = std::move(g.extracted);
      s.right = g.right;
    }
    sample.scores.push_back(std::move(s));
  }
  classify(sample, task.generation.until);
}

Sample sample_of(const Prompt& prompt, const Document& doc) {
  Sample s;
  s.doc_id = prompt.doc_id;
  s.doc_json = doc.json;
  s.target = prompt.target;
  s.prompt = prompt.text;
  s.doc_hash = prompt.doc_hash;
  s.prompt_hash = prompt.prompt_hash;
  s.target_hash = prompt.target_hash;
  return s;
}

std::string to_json(const Sample& s) {
  Json j;
  j["doc_id"] = s.doc_id;
  j["failed"] = s.failed;
  j["completion"] = valid_utf8(s.completion);
  j["finish_reason"] = valid_utf8(s.finish_reason);
  j["prompt_tokens"] = s.prompt_tokens;
  j["completion_tokens"] = s.completion_tokens;
  j["attempts"] = s.attempts;
  j["latency_s"] = s.latency_s;
  j["ttft_s"] = s.ttft_s;
  if (s.missing_done) j["missing_done"] = true;
  j["error"] = valid_utf8(s.error);
  j["scores"] = Json::array();
  for (const FilterScore& f : s.scores)
    j["scores"].push_back(
        {{"filter", f.filter}, {"extracted", f.extracted}, {"right", f.right}, {"outcome", name(f.outcome)}});
  j["doc_hash"] = s.doc_hash;
  j["prompt_hash"] = s.prompt_hash;
  j["target_hash"] = s.target_hash;
  j["target"] = valid_utf8(s.target);
  j["doc"] = valid_utf8(s.doc_json);
  j["prompt"] = valid_utf8(s.prompt);
  return python_json(j);
}

Sample sample_from_json(std::string_view line) {
  try {
    const Json j = parse_json(line);
    Sample s;
    s.doc_id = j.at("doc_id").get<std::int64_t>();
    s.failed = j.at("failed").get<bool>();
    s.completion = j.at("completion").get<std::string>();
    s.finish_reason = j.at("finish_reason").get<std::string>();
    s.prompt_tokens = j.at("prompt_tokens").get<std::int64_t>();
    s.completion_tokens = j.at("completion_tokens").get<std::int64_t>();
    s.attempts = j.at("attempts").get<int>();
    s.latency_s = j.at("latency_s").get<double>();
    s.ttft_s = j.at("ttft_s").get<double>();
    s.missing_done = j.value("missing_done", false);
    s.error = j.at("error").get<std::string>();
    for (const Json& f : j.at("scores"))
      s.scores.push_back({f.at("filter").get<std::string>(), f.at("extracted").get<std::string>(),
                          f.at("right").get<bool>(), outcome_from_name(f.at("outcome").get<std::string>())});
    s.doc_hash = j.at("doc_hash").get<std::string>();
    s.prompt_hash = j.at("prompt_hash").get<std::string>();
    s.target_hash = j.at("target_hash").get<std::string>();
    s.target = j.at("target").get<std::string>();
    s.doc_json = j.at("doc").get<std::string>();
    s.prompt = j.at("prompt").get<std::string>();
    return s;
  } catch (const nlohmann::json::exception& e) {
    throw UsageError(fmt::format("this line is no sample: {}", json_error(e)));
  }
}

Summary summarize(const Run& run) {
  Summary sum;
  std::vector<std::vector<bool>> right(run.filters.size());
  for (const std::string& f : run.filters) sum.filters.push_back({f, {}, {}});
  const Task* task = nullptr;
  for (const Task& t : tasks())
    if (t.name == run.task) task = &t;
  for (const Sample& s : run.samples) {
    ++sum.asked;
    ++(s.failed ? sum.failed : sum.answered);
    if (!s.failed) {
      sum.truncated += s.finish_reason == "length";
      sum.finish_reasons |= !s.finish_reason.empty();
      sum.missing_done += s.missing_done;
      sum.empty += python_strip(s.completion).empty();
      sum.run_on += task != nullptr && runs_on(s.completion, task->generation.until);
      sum.loops += is_loop(s.completion);
    }
    for (const FilterScore& score : s.scores) {
      const auto at = std::find(run.filters.begin(), run.filters.end(), score.filter);
      if (at == run.filters.end()) continue;
      const auto f = static_cast<std::size_t>(at - run.filters.begin());
      ++sum.filters[f].outcomes[static_cast<std::size_t>(score.outcome)];
      if (!s.failed) right[f].push_back(score.right);
    }
  }
  for (std::size_t f = 0; f < right.size(); ++f) sum.filters[f].accuracy = accuracy(right[f]);
  return sum;
}

}  // namespace moecheck::harness
