// moecheck grade: completions that exist already, under lm_eval's rules and those of others.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <set>

#include "harness/cli/cli.h"
#include "harness/json.h"
#include "harness/tasks/files.h"
#include "harness/tasks/python_text.h"
#include "harness/tasks/scoring.h"
#include "harness/tasks/task.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

using Json = nlohmann::ordered_json;

struct GradeArguments {
  std::string task = "gsm8k", input, json, rules = "task";
};

struct Row {
  Json id;
  std::string completion, answer;
};

// What lm_eval makes of something that is no text.
std::string text_or_nothing(const Json& j) { return j.is_string() ? j.get<std::string>() : std::string(); }

const Json& first(const Json& j) {
  const Json* p = &j;
  while (p->is_array() && !p->empty()) p = &(*p)[0];
  return *p;
}

// {"id", "completion", "answer"}, or a row of lm_eval's samples, of which one per document is enough.
bool read_row(const Json& j, std::set<std::string>& seen, Row& row) {
  if (!j.is_object()) throw UsageError("it is no JSON object");
  if (j.contains("resps") && j.contains("target")) {
    row.id = j.value("doc_id", Json());
    row.completion = text_or_nothing(first(j["resps"]));
    row.answer = text_or_nothing(j["target"]);
    return seen.insert(row.id.dump()).second;
  }
  if (!j.contains("completion") || !j.contains("answer"))
    throw UsageError(
        "it needs \"id\", \"completion\" and \"answer\" (or lm_eval's \"doc_id\", \"resps\", \"target\")");
  row.id = j.value("id", Json());
  row.completion = text_or_nothing(j["completion"]);
  const Json& answer = j["answer"];
  row.answer = answer.is_string() ? answer.get<std::string>() : python_json(answer);
  return true;
}

std::vector<Filter> filters_of(const GradeArguments& a) {
  std::vector<Filter> filters = require_task(a.task).filters;
  filters.push_back({"last-number", Rule::kLastNumber});
  if (a.rules == "all")
    for (const Rule rule : {Rule::kVllm, Rule::kSglang, Rule::kOpenai})
      filters.push_back({std::string(name(rule)), rule});
  return filters;
}

Json metrics(const GradeArguments& a, const std::vector<Filter>& filters,
             const std::vector<Accuracy>& scores) {
  Json r;
  r["name"] = a.task;
  r["alias"] = a.task;
  r["sample_len"] = scores[0].n;
  for (std::size_t f = 0; f < filters.size(); ++f) {
    r["exact_match," + filters[f].name] = scores[f].n > 0 ? Json(scores[f].mean) : Json("N/A");
    r["exact_match_stderr," + filters[f].name] =
        scores[f].n > 1 ? Json(scores[f].standard_error) : Json("N/A");
  }
  return r;
}

int grade(const GradeArguments& a) {
  const std::vector<Filter> filters = filters_of(a);
  std::vector<std::vector<bool>> right(filters.size());
  std::vector<std::int64_t> invalid(filters.size(), 0);
  Json samples = Json::array();
  std::set<std::string> seen;
  const bool keep = !a.json.empty();
  each_line(a.input, read_text(a.input), [&](std::string_view line, std::size_t) {
    Row row;
    if (!read_row(parse_json(line), seen, row)) return;
    Json j{{"id", row.id}};
    for (std::size_t f = 0; f < filters.size(); ++f) {
      const Score s = grade(filters[f].rule, row.completion, row.answer);
      right[f].push_back(s.right);
      invalid[f] += s.extracted == kInvalidText;
      if (keep) j[filters[f].name] = {{"extracted", s.extracted}, {"exact_match", s.right ? 1.0 : 0.0}};
    }
    if (keep) samples.push_back(std::move(j));
  });
  std::vector<Accuracy> scores;
  for (const std::vector<bool>& r : right) scores.push_back(accuracy(r));
  if (scores[0].n == 0) throw UsageError(fmt::format("{} holds no rows to grade", printable(a.input)));
  if (keep)
    write_text(a.json,
               python_json({{"samples", samples}, {"results", metrics(a, filters, scores)}}, 1) + "\n");
  if (a.json == "-") return kExitFine;
  fmt::print("{} graded as {}\n", count(scores[0].n, "completion"), a.task);
  fmt::print("{:<18} {:>8} {:>8} {:>8} {:>8}\n", "rule", "score", "stderr", "right", "invalid");
  for (std::size_t f = 0; f < filters.size(); ++f)
    fmt::print("{:<18} {:>8.4f} {:>8} {:>8} {:>8}\n", filters[f].name, scores[f].mean,
               scores[f].n > 1 ? fmt::format("{:.4f}", scores[f].standard_error) : "N/A", scores[f].right,
               invalid[f]);
  // Where two rules disagree, and which way: what explains a gap between two projects' scores.
  for (std::size_t f = 1; f < filters.size(); ++f) {
    std::int64_t gained = 0, lost = 0;
    for (std::size_t i = 0; i < right[f].size(); ++i) {
      gained += right[f][i] && !right[0][i];
      lost += right[0][i] && !right[f][i];
    }
    fmt::print("{} against {}: {} more right, {} fewer\n", filters[f].name, filters[0].name, gained, lost);
  }
  return kExitFine;
}

}  // namespace

void add_grade(CLI::App& app, Action& action) {
  auto a = std::make_shared<GradeArguments>();
  CLI::App* sub = app.add_subcommand("grade", "Grade completions as lm_eval does, and as other projects do");
  sub->add_option("--task", a->task, "Task whose filters grade; last-number is always added")
      ->capture_default_str()
      ->type_name("NAME");
  sub->add_option(
         "--input", a->input,
         "Rows {\"id\", \"completion\", \"answer\"}, or lm_eval's samples_*.jsonl; - is standard input")
      ->required()
      ->type_name("FILE.jsonl|-");
  sub->add_option("--rules", a->rules, "task: the task's filters; all: those of vLLM, SGLang and OpenAI too")
      ->check(CLI::IsMember({"task", "all"}))
      ->capture_default_str();
  sub->add_option("--json", a->json, "Write every sample's extractions and scores; - is standard output")
      ->type_name("FILE|-");
  sub->callback([a, &action] { action = [a] { return grade(*a); }; });
}

}  // namespace moecheck::harness
