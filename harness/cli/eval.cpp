// moecheck eval: the questions of a task, asked of a live server, journaled and graded.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <memory>

#include "harness/cli/cli.h"
#include "harness/cli/eval_session.h"
#include "harness/eval/background.h"
#include "harness/eval/probe.h"
#include "harness/json.h"
#include "harness/statistics/planning.h"
#include "harness/tasks/compare.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

using Json = nlohmann::ordered_json;
using eval::End, eval::Evaluation;

constexpr double kAlpha = 0.05;
constexpr std::size_t kShownDivergences = 5;

int evaluate(EvalArguments& a) {
  const auto problem = eval_problem(a);
  Evaluation e(problem->prompts, problem->data, a.settings, {eval_target(a, a.endpoint, a.model)});
  e.attach(0, open_journal(e, 0, a.output, a.resume));
  announce(e, *problem, a.output);
  http::Client client(client_options(a));
  EvalScreen screen;
  End end{};
  Json more = provenance(a, e.arms()[0].target);
  if (a.under_load > 0) {
    eval::Background load(problem->prompts, a.settings, e.arms()[0].target, a.under_load);
    load.start(client);
    if (!load.warm_up(client, 30))
      fmt::print(
          stderr, "moecheck: not all {} requests of the load have begun to answer within 30 s: {}\n",
          a.under_load,
          load.counts().last_error.empty() ? "the server runs fewer at once" : load.counts().last_error);
    ask_all(e, client, screen, end);
    load.stop(client);
    const auto c = load.counts();
    more["under_load"] = {{"concurrency", a.under_load},
                          {"finished", c.finished},
                          {"failed", c.failed},
                          {"tokens", c.tokens},
                          {"seconds", c.seconds}};
    fmt::print("graded beside {} other requests at a time: {} finished, {} failed, {:.1f} tokens/s\n",
               a.under_load, grouped(c.finished), grouped(c.failed),
               static_cast<double>(c.tokens) / c.seconds);
  } else {
    ask_all(e, client, screen, end);
  }
  explain(e, end, a.output);
  if (end == End::kComplete) report_arm(e, 0, a.output, more);
  return eval_exit(e, end);
}

int code_of(ComparisonVerdict verdict) {  // as `moecheck compare`
  switch (verdict) {
    case ComparisonVerdict::kNoRegression:
    case ComparisonVerdict::kWorseWithinMargin:
      return kExitFine;
    case ComparisonVerdict::kRegression:
      return kExitFailed;
    case ComparisonVerdict::kInvalidRun:
      return kExitUsage;
    case ComparisonVerdict::kInconclusive:
      break;
  }
  return kExitNothingRan;
}

int report_pairs(const EvalArguments& a, const Run& run_a, const Run& run_b, bool early) {
  CompareOptions options;
  options.margin = a.margin_points / 100;
  options.alpha = kAlpha;
  const Comparison c = compare_runs(run_a, run_b, nullptr, options);
  const auto texts =
      eval::compare_texts(run_a.samples, run_b.samples, require_task(run_a.task).generation.until);
  fmt::print("\n{}", eval::divergence_text(texts, "A", "B", kShownDivergences));
  for (const FilterComparison& f : c.filters)
    fmt::print(
        "  {:<17} B - A {:+.2f} points [{:+.2f}, {:+.2f}], {} pairs; McNemar p {:.3g}, proven within {:.2f} "
        "points\n",
        f.filter, 100 * f.counts.difference(), 100 * f.verdict.interval.low, 100 * f.verdict.interval.high,
        grouped(c.pairs), f.verdict.two_sided_p, 100 * f.verdict.proven_margin);
  for (const std::string& why : c.invalid) fmt::print("invalid: {}\n", why);
  for (const std::string& note : c.notes) fmt::print("note: {}\n", note);
  if (!early) {
    fmt::print("{}: {}\n", name(c.verdict), c.reason);
    return code_of(c.verdict);
  }
  const PairedVerdict& v = c.filters[c.primary].verdict;
  fmt::print(
      "{}: stopped after {} pairs at e-value {:.3g}, {:.0f} being enough: evidence that holds whenever one "
      "stops\n",
      name(ComparisonVerdict::kRegression), grouped(c.pairs), std::exp(v.log_e_value), 1 / kAlpha);
  return kExitFailed;
}

int evaluate_ab(EvalArguments& a) {
  const auto problem = eval_problem(a);
  const std::string model_b = a.model_b.empty() ? a.model : a.model_b;
  Evaluation e(problem->prompts, problem->data, a.settings,
               {eval_target(a, a.ab[0], a.model), eval_target(a, a.ab[1], model_b)});
  const std::string folders[] = {a.output + "/a", a.output + "/b"};
  for (const std::size_t arm : {0u, 1u}) e.attach(arm, open_journal(e, arm, folders[arm], a.resume));
  announce(e, *problem, a.output);
  http::Client client(client_options(a));
  EvalScreen screen;
  End end{};
  std::function<bool()> enough;
  if (a.stop_early)
    enough = [&e] {
      const eval::Flips f = eval::flips(e);
      return log_e_value(f.regressions, f.fixes) >= std::log(1 / kAlpha);
    };
  Json more[] = {provenance(a, e.arms()[0].target), provenance(a, e.arms()[1].target)};
  const bool early = ask_all(e, client, screen, end, enough);
  if (!early) explain(e, end, a.output);
  if (end != End::kComplete && !early) return kExitNothingRan;
  for (Json& m : more) m["stopped_early"] = early;
  const std::size_t prefix = early ? e.complete_prefix() : SIZE_MAX;
  fmt::print("A: {}\n", e.arms()[0].target.endpoint.base);
  const Run run_a = report_arm(e, 0, folders[0], more[0], prefix);
  fmt::print("\nB: {}\n", e.arms()[1].target.endpoint.base);
  const Run run_b = report_arm(e, 1, folders[1], more[1], prefix);
  const int verdict = report_pairs(a, run_a, run_b, early);
  return early || verdict != kExitFine ? verdict : eval_exit(e, end);
}

int probe(EvalArguments& a) {
  const auto problem = eval_problem(a);
  const eval::Target target = eval_target(a, a.endpoint, a.model);
  if (a.settings.concurrency < 2)
    throw UsageError("--probe compares concurrency 1 with --concurrency N: N must be 2 or more");
  const int levels[] = {1, 1, a.settings.concurrency};
  const std::string asked_by = provenance(a, target).dump(-1, ' ', false, Json::error_handler_t::replace);
  const std::string folders[] = {"c1", "c1-again", fmt::format("c{}", a.settings.concurrency)};
  std::vector<Run> runs;
  http::Client client(client_options(a));
  int exit = kExitFine;
  for (std::size_t i = 0; i < 3; ++i) {
    eval::Settings settings = a.settings;
    settings.concurrency = levels[i];
    Evaluation e(problem->prompts, problem->data, settings, {target});
    const std::string folder = a.output + "/" + folders[i];
    e.attach(0, open_journal(e, 0, folder, a.resume));
    announce(e, *problem, folder);
    EvalScreen screen;
    End end{};
    ask_all(e, client, screen, end);
    explain(e, end, a.output);
    if (end != End::kComplete) return kExitNothingRan;
    exit = std::max(exit, eval_exit(e, end));
    runs.push_back(e.run_of_arm(0));
    runs.back().extra_json = asked_by;
    if (e.arms()[0].journal->results().empty())
      e.arms()[0].journal->append_results(write_run(folder, runs.back()));
  }
  const auto again = eval::compare_texts(runs[0].samples, runs[1].samples);
  const auto batch = eval::compare_texts(runs[0].samples, runs[2].samples);
  fmt::print("{}{}", eval::divergence_text(again, "concurrency 1", "1 again", kShownDivergences),
             eval::divergence_text(batch, "concurrency 1", folders[2].substr(1), kShownDivergences));
  const double noise =
      excess_flips_p(batch.pairs - batch.identical, batch.pairs, again.pairs - again.identical, again.pairs);
  if (batch.identical == batch.pairs)
    fmt::print("batch-invariant on these {}: every text is the same\n", count(batch.pairs, "question"));
  else
    fmt::print("not batch-invariant; more than the noise between two runs at concurrency 1: p {:.2g}\n",
               noise);
  return exit;
}

int eval_verb(EvalArguments a) {
  if (a.ab.empty() == a.endpoint.empty())
    throw UsageError("give --endpoint URL, or --ab URL_A URL_B: one of them");
  if (a.probe && !a.ab.empty()) throw UsageError("--probe asks one server: give --endpoint, not --ab");
  if (a.under_load > 0 && (a.probe || !a.ab.empty()))
    throw UsageError("--under-load goes with --endpoint alone");
  if (a.stop_early && a.ab.empty())
    throw UsageError("--stop-early needs --ab: it watches for a regression of B");
  if (a.resume && a.output.empty()) throw UsageError("--resume needs the --output of the run to go on with");
  if (a.output.empty()) a.output = default_eval_output();
  catch_interrupts();
  if (a.probe) return probe(a);
  return a.ab.empty() ? evaluate(a) : evaluate_ab(a);
}

void add_forms(CLI::App& sub, EvalArguments& a) {  // and what belongs to them
  sub.add_flag("--probe", a.probe,
               "Same prompts at concurrency 1, 1 again and N: do the texts depend on the batch?");
  sub.add_option("--under-load", a.under_load, "Keep N other requests running beside the graded ones")
      ->check(CLI::Range(1, 10000))
      ->type_name("N");
  sub.add_flag("--stop-early", a.stop_early, "--ab: end as soon as a regression is certain (e-value 20)");
  sub.add_option("--margin", a.margin_points, "--ab: points that B may be worse")
      ->check(CLI::Range(0.01, 100.0))
      ->capture_default_str()
      ->type_name("POINTS");
  sub.add_flag("--insecure", a.insecure, "Do not verify TLS certificates");
}

}  // namespace

void add_eval(CLI::App& app, Action& action) {
  auto a = std::make_shared<EvalArguments>();
  a->settings.max_gen_toks = 0;
  CLI::App* sub = app.add_subcommand(
      "eval", "Ask a live server the questions of a task, and grade its answers as lm_eval does");
  sub->footer(
      "  moecheck eval --endpoint http://localhost:8000 --task gsm8k --data gsm8k/ --output before\n"
      "  moecheck eval --ab http://localhost:8000 http://localhost:8001 --data gsm8k/ --stop-early\n"
      "A killed or interrupted run goes on with --resume. OPENAI_API_KEY is sent where it is set.\n"
      "Exit codes: 0 every question was answered; 2 bad usage or input; 3 questions remain without an "
      "answer.\n"
      "With --ab that of `moecheck compare`: 1 a regression, 2 an invalid run, 3 inconclusive.");
  const auto text = [&](const char* flag, std::string& to, const char* type, const char* help) {
    return sub->add_option(flag, to, help)->type_name(type);
  };
  text("--endpoint", a->endpoint, "URL", "http://HOST:PORT of an OpenAI-compatible server");
  sub->add_option("--ab", a->ab, "Two servers, asked in turns; prints the paired verdict of B against A")
      ->expected(2)
      ->type_name("URL_A URL_B");
  text("--model", a->model, "NAME", "Model (the only one served when left out)");
  text("--model-b", a->model_b, "NAME", "Model of B (as --model)");
  text("--task", a->task, "NAME", "Task")->capture_default_str();
  text("--data", a->data, "DIR", "Folder with test.jsonl and train.jsonl")->required();
  sub->add_option("--num-fewshot", a->prompts.num_fewshot, "Shots (the task's own when left out)")
      ->check(CLI::Range(0, 1000))
      ->type_name("N");
  sub->add_option("--limit", a->prompts.limit, "Only the first N questions")
      ->check(CLI::Range(1, 100000000))
      ->type_name("N");
  sub->add_option("--concurrency", a->settings.concurrency, "Requests at a time, to each server")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str()
      ->type_name("N");
  sub->add_option("--api", a->api, "completions: one text; chat: messages")
      ->check(CLI::IsMember({"completions", "chat"}))
      ->capture_default_str();
  sub->add_option("--max-retries", a->settings.retry.max_retries, "Further attempts per question")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str()
      ->type_name("N");
  sub->add_option("--timeout", a->settings.limits.total_s, "Seconds for one attempt")
      ->check(CLI::Range(0.01, 1e6))
      ->capture_default_str()
      ->type_name("S");
  text("--output", a->output, "DIR", "Journal and results (moecheck-eval-<time> when left out)");
  sub->add_flag("--resume", a->resume, "Go on with the run in --output");
  sub->add_option("--seed", a->settings.seed, "Of the shots, the order and the waits between retries")
      ->capture_default_str()
      ->type_name("N");
  sub->add_option("--max-gen-toks", a->settings.max_gen_toks,
                  "Tokens per answer (the task's own when left out)")
      ->check(CLI::Range(1, 10000000))
      ->type_name("N");
  text("--extra-body", a->settings.extra_body, "JSON", "Object merged over every request");
  text("--system", a->prompts.system_instruction, "TEXT", "System instruction");
  sub->add_flag("--one-turn", a->one_turn, "Chat: shots and question in one user message");
  sub->add_flag("--stream", a->settings.stream,
                "Stream the answers: the time to the first token is kept, too");
  add_forms(*sub, *a);
  sub->callback([a, &action] { action = [a] { return eval_verb(*a); }; });
}

}  // namespace moecheck::harness
