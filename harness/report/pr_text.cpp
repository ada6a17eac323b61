#include "harness/report/pr_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "harness/case.h"
#include "harness/json.h"
#include "harness/statistics/accuracy.h"
#include "harness/text.h"

namespace moecheck::harness {

PrReport make_pr_report(PrInput input) {
  PrReport r;
  if (input.a.accuracy.has_value() != input.b.accuracy.has_value())
    throw UsageError("an accuracy run of one arm only: give both --a and --b");
  if (input.a.benches.empty() != input.b.benches.empty())
    throw UsageError(
        "benchmarks of one arm only: give both --bench-a and --bench-b, or --bench with both labels");
  if (!input.a.accuracy && input.a.benches.empty())
    throw UsageError(
        "nothing to report: give --a and --b (directories of moecheck eval), --bench-a and --bench-b, or "
        "all");
  if (input.a.accuracy)
    r.accuracy = compare_runs(*input.a.accuracy, *input.b.accuracy, input.again ? &*input.again : nullptr,
                              input.compare);
  r.sweep = load::compare_benches(input.a.benches, input.b.benches);
  r.input = std::move(input);
  return r;
}

bool PrReport::failed() const {
  return accuracy && (accuracy->verdict == ComparisonVerdict::kRegression ||
                      accuracy->verdict == ComparisonVerdict::kInvalidRun);
}

}  // namespace moecheck::harness

namespace moecheck::harness::report {
namespace {

using load::Change;
using load::Meaning;
using load::SavedBench;
using load::SweepRow;

std::string extra_text(const Run& run, const char* key) {
  const auto j = nlohmann::json::parse(run.extra_json, nullptr, false);
  if (!j.is_object() || !j.contains(key) || !j[key].is_string()) return "";
  return j[key].get<std::string>();
}

Command eval_command(const std::string& arm, const Run& run) {
  if (std::string line = extra_text(run, "command"); !line.empty()) return {arm, line, true};
  std::string line;
  if (run.extra_json.empty())
    line = fmt::format(
        "lm_eval --model {} --model_args model={},base_url={},num_concurrent={} --tasks {} --num_fewshot {}",
        run.api == Api::kChat ? "local-chat-completions" : "local-completions", run.model, run.base_url,
        run.concurrency, run.task, run.num_fewshot);
  else
    line = fmt::format("moecheck eval --endpoint {} --model {} --task {} --num-fewshot {} --concurrency {}{}",
                       shell_word(run.base_url), shell_word(run.model), run.task, run.num_fewshot,
                       run.concurrency, run.api == Api::kChat ? " --api chat" : "");
  if (run.limit > 0) line += fmt::format(" --limit {}", run.limit);
  return {arm, line, false};
}

std::string environment_text(const Environment& e) {
  std::string out = fmt::format("moecheck {} ({})", e.version, e.commit);
  if (!e.cpu.empty()) out += ", " + e.cpu;
  if (e.threads > 0) out += ", " + count(e.threads, "thread");
  if (!e.device.empty()) out += ", " + e.device;
  if (!e.os.empty()) out += ", " + e.os;
  return out;
}

void add_once(std::vector<Place>& out, Place p) {
  const auto same = [&](const Place& x) { return x.what == p.what && x.value == p.value; };
  if (!p.value.empty() && std::none_of(out.begin(), out.end(), same)) out.push_back(std::move(p));
}

// Each thing said once, with the runs it is said of.
void bench_cautions(const PrReport& report, std::vector<std::string>& out) {
  std::vector<std::string> texts;  // in order of first appearance
  std::map<std::string, std::vector<std::string>> runs;
  const auto say = [&](const std::string& text, const std::string& run) {
    if (!runs.contains(text)) texts.push_back(text);
    runs[text].push_back(run);
  };
  for (const PrArm* arm : {&report.input.a, &report.input.b})
    for (const SavedBench& b : arm->benches) {
      const std::string run =
          fmt::format("{}, ISL {} OSL {} MC {}", arm->label, b.input_len, b.output_len, b.max_concurrency);
      for (const std::string& w : b.invalid) say("a run is left out: " + w, run);
      for (const std::string& w : b.warnings) say(w, run);
      if (!b.ours)
        say("not made by moecheck bench serve: whether the client was the limit is not known", run);
    }
  const std::size_t all = report.input.a.benches.size() + report.input.b.benches.size();
  for (const std::string& text : texts) {
    const auto& of = runs[text];
    const std::string who = of.size() == all ? "all runs"
                            : of.size() == 1
                                ? of[0]
                                : fmt::format("{} of {} runs, the first {}", of.size(), all, of[0]);
    out.push_back(fmt::format("{}: {}", who, text));
  }
}

}  // namespace

std::string p_value_text(double p) { return p < 0.001 ? fmt::format("{:.1e}", p) : fmt::format("{:.3f}", p); }

std::string accuracy_text(const Accuracy& a) {
  const Interval w = wilson(a.right, a.n);
  return fmt::format("{:.2f}% ({:.2f} .. {:.2f})", 100 * a.mean, 100 * w.low, 100 * w.high);
}

std::string points_text(const Interval& i) {
  return fmt::format("{:+.2f} .. {:+.2f}", 100 * i.low, 100 * i.high);
}

std::string number_text(double v) {
  if (v >= 1000) return grouped(std::llround(v));
  return v >= 100 ? fmt::format("{:.1f}", v) : v >= 10 ? fmt::format("{:.2f}", v) : fmt::format("{:.3f}", v);
}

std::string change_text(const Change& c) {
  if (!c.relative) return "";
  if (!c.low) return fmt::format("{:+.1f}%, noise unknown", 100 * *c.relative);
  return fmt::format("{:+.1f}% ({:+.1f} .. {:+.1f})", 100 * *c.relative, 100 * *c.low, 100 * *c.high);
}

std::string concurrency_text(const SweepRow& r) {
  std::string out = r.max_concurrency > 0 ? std::to_string(r.max_concurrency) : "no limit";
  if (!std::isinf(r.request_rate)) out += fmt::format(", {:g} req/s", r.request_rate);
  return out;
}

std::string load_text(const SweepRow& r) {
  return fmt::format("{} / {}",
                     r.input_len > 0     ? std::to_string(r.input_len)
                     : r.dataset.empty() ? "?"
                                         : r.dataset,
                     r.output_len);
}

std::vector<Command> commands(const PrReport& report) {
  std::vector<Command> out;
  std::map<std::string, std::set<std::string>> arms;  // that share a line, as eval --ab's do
  const auto add = [&](Command c) {
    if (c.line.empty()) return;
    const auto same =
        std::find_if(out.begin(), out.end(), [&](const Command& x) { return x.line == c.line; });
    const bool new_arm = arms[c.line].insert(c.arm).second;
    if (same == out.end()) return out.push_back(std::move(c));
    if (new_arm) same->arm += " and " + c.arm;
  };
  for (const PrArm* arm : {&report.input.a, &report.input.b}) {
    if (arm->accuracy) add(eval_command(arm->label, *arm->accuracy));
    for (const SavedBench& b : arm->benches) add({arm->label, b.command, true});
  }
  if (!report.input.command.empty()) add({"this report", report.input.command, true});
  return out;
}

std::vector<Place> environments(const PrReport& report) {
  std::vector<Place> out;
  for (const PrArm* arm : {&report.input.a, &report.input.b}) {
    if (arm->accuracy) {
      const Run& run = *arm->accuracy;
      add_once(out, {arm->label + ": model", run.model});
      add_once(out, {arm->label + ": server", run.base_url});
      add_once(out, {"data", run.data_name});
      add_once(out, {arm->label + ": server says", extra_text(run, "server")});
    }
    for (const SavedBench& b : arm->benches) {
      add_once(out, {arm->label + ": model", b.model});
      add_once(out, {"load", b.load_kind});
      if (b.ours) add_once(out, {"client", environment_text(b.env)});
    }
  }
  return out;
}

std::vector<std::string> cautions(const PrReport& report) {
  std::vector<std::string> out;
  if (report.accuracy) {
    out = report.accuracy->invalid;
    out.insert(out.end(), report.accuracy->notes.begin(), report.accuracy->notes.end());
  }
  bench_cautions(report, out);
  for (const SweepRow& r : report.sweep)
    if (r.runs_a == 0 || r.runs_b == 0)
      out.push_back(fmt::format("load {} at concurrency {}: no valid run of {}", load_text(r),
                                concurrency_text(r),
                                r.runs_a == 0 ? report.input.a.label : report.input.b.label));
  return out;
}

std::string sweep_text(const PrReport& report) {
  std::int64_t n[4] = {};
  for (const SweepRow& r : report.sweep) ++n[static_cast<std::size_t>(r.throughput.meaning)];
  std::string out;
  const auto add = [&](Meaning m, std::string_view words) {
    const std::int64_t k = n[static_cast<std::size_t>(m)];
    if (k > 0) out += fmt::format("{}{} {}", out.empty() ? "" : ", ", count(k, "load"), words);
  };
  add(Meaning::kBetter, "faster");
  add(Meaning::kWorse, "slower");
  add(Meaning::kWithinNoise, "within noise");
  add(Meaning::kUnknown, "without repeats to judge by");
  return out;
}

}  // namespace moecheck::harness::report
