// moecheck bench operators: speed, beside the machine's read and copy bandwidths and the scalar reference.
// moecheck bench judging: how many random cases a core generates, runs and judges per second, and what they find.
// moecheck bench serve: load on a live endpoint, in bench_serve.cpp.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <thread>

#include "harness/atomic_file.h"
#include "harness/bench.h"
#include "harness/cli/cli.h"
#include "harness/json.h"
#include "harness/judging.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

struct BenchArguments {
  std::vector<std::string> operators, implementations, lines;
  std::string json, cases_file;
  int threads = 0;
  double seconds = 0.5;
};

std::string time_text(double seconds) {
  return seconds < 1e-3 ? fmt::format("{:.1f} us", seconds * 1e6) : fmt::format("{:.2f} ms", seconds * 1e3);
}

nlohmann::ordered_json to_json(const BenchResult& r, double read, double copy) {
  nlohmann::ordered_json j = {{"case", r.case_line},
          {"implementation", r.implementation},
          {"median_seconds", r.median_seconds},
          {"fastest_seconds", r.fastest_seconds},
          {"runs", r.runs},
          {"tokens", r.tokens},
          {"bytes", r.bytes},
          {"bytes_per_second", r.bandwidth},
          {"fraction_of_copy_bandwidth", r.bandwidth / copy},
          {"reference_seconds", r.reference_seconds},
          {"verdict", r.verdict}};
  // Of a device only the copy's bandwidth is measured.
  if (r.copy_bandwidth > 0)
    j["device_copy_bytes_per_second"] = r.copy_bandwidth;
  else
    j["fraction_of_read_bandwidth"] = r.bandwidth / read;
  return j;
}

int bench(const BenchArguments& a) {
  const int threads =
      a.threads > 0 ? a.threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  std::vector<const Implementation*> chosen;
  for (const std::string& n : a.implementations) chosen.push_back(&require_implementation(n));
  if (chosen.empty()) chosen.push_back(&require_implementation("cpu"));
  for (const std::string& op : a.operators) (void)require_operator(op);
  const double read = read_bandwidth(threads), copy = copy_bandwidth(threads);
  fmt::print("{}, {}: reads {:.1f} GB/s, copies {:.1f} GB/s (read and written)\n", environment().cpu,
             count(threads, "thread"), read * 1e-9, copy * 1e-9);
  fmt::print("{:<86} {:<13} {:>10} {:>10} {:>9} {:>7} {:>7} {:>9}  {}\n", "case", "impl", "median", "per token",
             "GB/s", "of read", "of copy", "vs ref", "verdict");
  nlohmann::ordered_json results = nlohmann::ordered_json::array();
  bool fine = true, ran = false, device_shown = false;
  std::vector<std::string> lines = a.lines;
  if (!a.cases_file.empty())
    for (const std::string& line : case_lines(a.cases_file)) lines.push_back(line);
  for (const std::string& line : lines.empty() ? bench_lines() : lines) {
    const Case c = require_case(line);
    if (!a.operators.empty() &&
        std::find(a.operators.begin(), a.operators.end(), c.operator_name()) == a.operators.end())
      continue;
    require_accepted(c);
    for (const Implementation* impl : chosen) {
      if (const auto why = impl->unsupported(c)) {
        fmt::print("{:<86} {:<13} skipped: {}\n", c.str(), impl->name(), *why);
        continue;
      }
      const BenchResult r = bench_case(c, *impl, {threads, a.seconds});
      const bool on_device = r.copy_bandwidth > 0;
      if (on_device && !device_shown) {
        fmt::print("{}: copies {:.1f} GB/s (read and written); times by its own events, over copies of the tensors in turn\n",
                   environment().device, r.copy_bandwidth * 1e-9);
        device_shown = true;
      }
      const double of_copy = on_device ? r.copy_bandwidth : copy;
      fmt::print("{:<86} {:<13} {:>10} {:>10} {:>9.1f} {:>7} {:>6.0f}% {:>8.1f}x  {}{}{}\n", r.case_line,
                 r.implementation, time_text(r.median_seconds),
                 r.tokens == 0 ? "" : time_text(r.median_seconds / static_cast<double>(r.tokens)),
                 r.bandwidth * 1e-9, on_device ? "-" : fmt::format("{:.0f}%", 100 * r.bandwidth / read),
                 100 * r.bandwidth / of_copy, r.reference_seconds / r.median_seconds, r.verdict,
                 r.reason.empty() ? "" : ": ", printable(r.reason));
      std::fflush(stdout);
      Verdict v{};
      fine = fine && parse_verdict(r.verdict, v) && !is_failure(v);
      ran = true;
      results.push_back(to_json(r, read, of_copy));
    }
  }
  if (!a.json.empty()) {
    const Environment& e = environment();
    const nlohmann::ordered_json all = {{"schema", "moecheck.bench/1"},
                                        {"cpu", e.cpu},
                                        {"device", e.device},
                                        {"os", e.os},
                                        {"compiler", e.compiler},
                                        {"commit", e.commit},
                                        {"threads", threads},
                                        {"read_bytes_per_second", read},
                                        {"copy_bytes_per_second", copy},
                                        {"results", results}};
    write_file(a.json, all.dump(2) + "\n");
  }
  return !ran ? kExitNothingRan : fine ? kExitFine : kExitFailed;
}

struct JudgingArguments {
  std::string implementation = "cpu";
  std::vector<std::string> lines, operators;
  JudgingOptions options{1'000'000, 0, 1, 0};
};

int bench_judging(const JudgingArguments& a) {
  const Implementation& impl = require_implementation(a.implementation);
  std::vector<Case> cases;
  for (const std::string& line : a.lines) cases.push_back(require_case(line));
  for (const std::string& name : a.operators)
    for (Case& c : judging_cases(require_operator(name), impl)) cases.push_back(std::move(c));
  if (a.lines.empty() && a.operators.empty())
    for (Case& c : judging_cases())
      if (!impl.unsupported(c)) cases.push_back(std::move(c));
  JudgingOptions options = a.options;
  if (options.jobs == 0) options.jobs = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const JudgingResult r = judge_many(cases, impl, options);
  fmt::print("{} in {} of {} lines, {} on {}: {:.0f} cases per second and core\n", count(r.rows, "row"),
             count(r.cases, "case"), cases.size(), impl.name(), environment().cpu,
             static_cast<double>(r.cases) / r.core_seconds);
  fmt::print("{}, {} left open (near-ties, or undefined by the contract), {:.1f} s\n", count(r.failed, "failure"),
             count(r.undecided, "row"), r.seconds);
  for (const std::string& line : r.failures) fmt::print("  {}\n", printable(line));
  return r.failed > 0 ? kExitFailed : r.cases == 0 ? kExitNothingRan : kExitFine;
}

void add_judging(CLI::App& bench_verb, Action& action) {
  auto a = std::make_shared<JudgingArguments>();
  CLI::App* sub =
      bench_verb.add_subcommand("judging", "Random cases at full speed: rate, failures, rows left open");
  sub->add_option("--impl", a->implementation, "Implementation")->capture_default_str()->type_name("NAME");
  sub->add_option("--case", a->lines, "A case line, repeatable; the seed runs (every gating policy)")
      ->type_name("LINE")
      ->take_all();
  sub->add_option("operators", a->operators, "The quick suite of these operators, with other seeds")
      ->type_name("OPERATOR");
  sub->add_option("--cases", a->options.cases, "Cases in all, instead of --rows")->check(CLI::PositiveNumber);
  sub->add_option("--rows", a->options.rows, "Tokens in all")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  sub->add_option("--seed", a->options.first_seed, "First seed")->capture_default_str();
  sub->add_option("--jobs", a->options.jobs, "Worker processes (one per hardware thread)");
  sub->callback([a, &action] { action = [a] { return bench_judging(*a); }; });
}

}  // namespace

void add_bench(CLI::App& app, Action& action) {
  CLI::App* bench_verb = app.add_subcommand("bench", "Measure speed");
  bench_verb->require_subcommand(1);
  add_judging(*bench_verb, action);
  add_bench_serve(*bench_verb, action);
  auto a = std::make_shared<BenchArguments>();
  CLI::App* sub = bench_verb->add_subcommand(
      "operators", "Median time of operators, beside read and copy bandwidths and the reference");
  sub->add_option("operators", a->operators, "Only these operators")->type_name("OPERATOR");
  sub->add_option("--impl", a->implementations, "Implementation, repeatable (cpu)")
      ->type_name("NAME")
      ->take_all();
  sub->add_option("--case", a->lines, "A case line, repeatable (a built-in list)")
      ->type_name("LINE")
      ->take_all();
  sub->add_option("--cases", a->cases_file, "A file of case lines")->type_name("FILE");
  sub->add_option("--threads", a->threads, "Threads (all)");
  sub->add_option("--seconds", a->seconds, "Seconds per measurement")->capture_default_str();
  sub->add_option("--json", a->json, "Write the figures as JSON")->type_name("FILE.json");
  sub->callback([a, &action] { action = [a] { return bench(*a); }; });
}

}  // namespace moecheck::harness
