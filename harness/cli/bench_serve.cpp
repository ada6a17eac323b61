// moecheck bench serve: load on a live endpoint, with the options, the words and the numbers of `vllm bench serve`.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <utility>

#include "harness/atomic_file.h"
#include "harness/cli/cli.h"
#include "harness/cli/command_line.h"
#include "harness/load/calibrate.h"
#include "harness/load/plan.h"
#include "harness/load/result.h"
#include "harness/text.h"

namespace moecheck::harness::load {
namespace {

struct BenchServeArguments {
  std::string endpoint = "http://127.0.0.1:8000", ab, model, api_key, label, label_b, backend = "openai",
              sweep, command;
  std::string percentile_metrics = "ttft,tpot,itl", metric_percentiles = "99", request_rate = "inf",
              burstiness = "1";
  std::string result_dir = ".", result_filename, extra_body;
  std::vector<std::string> goodput;
  Plan plan;
  double temperature = 0, timeout = 21600;
  std::int64_t sampling_seed = 0;
  bool save_result = false, save_detailed = false, append_result = false, definitions = false,
       continuous_usage = false;
  bool ignore_eos = false, no_ignore_eos = false, calibrate = false, server_sampling = false, quiet = false;
};

double read_rate(const std::string& text, std::string_view what) {
  if (text == "inf") return std::numeric_limits<double>::infinity();
  char* end = nullptr;
  const double v = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0')
    throw UsageError(fmt::format("{} '{}' is no number: give one, or inf", what, printable(text)));
  return v;
}

std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> out(1);
  for (const char c : text) {
    if (c == ',')
      out.emplace_back();
    else
      out.back() += c;
  }
  return out;
}

std::string read_text_or_nothing(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// One endpoint under load.
struct Arm {
  std::string label;
  Target target;
  std::optional<std::int64_t> vocabulary;
};

Arm make_arm(const BenchServeArguments& a, const std::string& url, std::string label) {
  Arm arm;
  arm.label = std::move(label);
  Target& t = arm.target;
  const char* key = std::getenv("OPENAI_API_KEY");
  t.endpoint = http::parse_endpoint(url, !a.api_key.empty() ? a.api_key : key != nullptr ? key : "");
  if (a.backend != "openai" && a.backend != "openai-chat")
    throw UsageError(
        fmt::format("backend '{}' is not known: openai (completions) or openai-chat", printable(a.backend)));
  t.api = a.backend == "openai-chat" ? http::Api::kChat : http::Api::kCompletions;
  t.limits.total_s = a.timeout;
  t.model = a.model;
  if (t.model.empty()) {
    const auto names = http::list_models(t.endpoint, {});
    if (names.empty()) throw UsageError(fmt::format("{} lists no model: give --model", printable(url)));
    t.model = names.front();
  }
  if (a.server_sampling) {
    t.temperature.reset();
    t.seed.reset();
  } else {
    t.temperature = a.temperature;
    t.seed = a.sampling_seed;
  }
  t.extra_body = a.extra_body;
  t.continuous_usage = a.continuous_usage;
  arm.vocabulary = ask_vocabulary(t.endpoint);
  return arm;
}

BenchConfig config_of(const BenchServeArguments& a, const Arm& arm, const Point& p) {
  BenchConfig c;
  c.backend = a.backend;
  c.model = arm.target.model;
  c.base_url = arm.target.endpoint.root;
  c.label = arm.label;
  c.dataset = a.plan.dataset;
  c.load_kind = p.load_kind;
  c.num_prompts = std::ssize(p.requests);
  c.num_warmups = std::ssize(p.warm_up);
  c.input_len = p.fixed_lengths ? p.at.input_len : 0;
  c.output_len = p.at.output_len;
  c.request_rate = a.plan.arrivals.request_rate;
  c.burstiness = a.plan.arrivals.burstiness;
  c.ramp_up = a.plan.arrivals.ramp_up;
  c.ramp_start = a.plan.arrivals.ramp_start;
  c.ramp_end = a.plan.arrivals.ramp_end;
  c.max_concurrency = p.at.max_concurrency;
  c.seed = a.plan.seed;
  c.repeat = p.repeat;
  c.temperature = arm.target.temperature;
  c.sampling_seed = arm.target.seed;
  c.ignore_eos = arm.target.ignore_eos;
  c.percentile_metrics = words_of(a.percentile_metrics);
  c.command = a.command;
  return c;
}

std::string file_name(const BenchServeArguments& a, const BenchConfig& c, double started) {
  if (!a.result_filename.empty()) return a.result_filename;
  const auto file_word = [](std::string word) {
    for (char& x : word)
      if (x == '/' || x == ' ' || static_cast<unsigned char>(x) < 0x20) x = '_';
    return word;
  };
  const std::string model = file_word(c.model.substr(c.model.rfind('/') + 1));
  const std::string rate = std::isinf(c.request_rate) ? "inf" : fmt::format("{}", c.request_rate);
  return fmt::format("{}{}-{}-{}qps-concurrency{}-isl{}-osl{}-r{}-{:.0f}.json",
                     c.label.empty() ? "" : file_word(c.label) + "-", c.backend, model, rate,
                     c.max_concurrency, c.input_len, c.output_len, c.repeat, started);
}

void save(const BenchServeArguments& a, const BenchResult& r) {
  std::error_code ignored;
  std::filesystem::create_directories(a.result_dir, ignored);
  const std::string path =
      (std::filesystem::path(a.result_dir) / file_name(a, r.config, r.run.started_unix)).string();
  std::string content = to_json(r, a.save_detailed) + "\n";
  if (a.append_result) content = read_text_or_nothing(path) + content;
  write_file(path, content);
  fmt::print("saved {}\n", printable(path));
}

// Counters may come a little after the last answer: ask again until they agree or a second has passed.
std::optional<Counters> scrape_after(const Arm& arm, const std::optional<Counters>& before,
                                     const LoadRun& run) {
  if (!before) return {};
  double tokens = 0;
  for (const RequestRecord& r : run.records)
    if (r.success) tokens += static_cast<double>(r.output_length());
  std::optional<Counters> after;
  for (int i = 0; i < 5; ++i) {
    after = scrape(arm.target.endpoint);
    if (!after || !after->generation_tokens ||
        *after->generation_tokens - before->generation_tokens.value_or(0) >= tokens)
      break;
    ::usleep(200'000);
  }
  return after;
}

BenchResult run_point(const BenchServeArguments& a, Arm& arm,
                      const std::pair<SweepPoint, std::int64_t>& which, const MetricsOptions& options) {
  const Point p = make_point(a.plan, which.first, which.second, arm.target.api, arm.vocabulary);
  arm.target.ignore_eos = a.ignore_eos || (p.fixed_lengths && !a.no_ignore_eos);
  LoadOptions run_options{p.at.max_concurrency, a.save_detailed, {}};
  if (!p.warm_up.empty()) {
    const LoadRun warm =
        run_load(arm.target, p.warm_up, std::vector<double>(p.warm_up.size(), 0.0), run_options);
    for (const RequestRecord& r : warm.records)
      if (!r.success)
        throw UsageError(fmt::format("a warm-up request to {} failed: {}; nothing was measured",
                                     printable(arm.target.endpoint.root), printable(r.error, 400)));
  }
  const auto before = scrape(arm.target.endpoint);
  const bool terminal = ::isatty(2) == 1 && !a.quiet;
  if (terminal)
    run_options.on_progress = [n = p.requests.size()](std::int64_t done, std::int64_t failed) {
      fmt::print(stderr, "\r{} of {} requests, {} failed \x1b[K", done, n, failed);
    };
  LoadRun run = run_load(arm.target, p.requests, p.due, run_options);
  if (terminal) fmt::print(stderr, "\r\x1b[K");
  const auto after = scrape_after(arm, before, run);
  return judge_run(config_of(a, arm, p), std::move(run), options, before, after);
}

int print_calibration() {
  const Calibration c = calibrate();
  fmt::print("{:>8} {:>9} {:>11} {:>11} {:>24} {:>24}\n", "at once", "requests", "TTFT set", "ITL set",
             "TTFT error (ms) 50% 99%", "ITL error (ms) 50% 99%");
  for (const CalibrationPoint& p : c.points)
    fmt::print("{:>8} {:>9} {:>8.1f} ms {:>8.1f} ms {:>17.3f} {:>6.3f} {:>17.3f} {:>6.3f}\n", p.concurrency,
               p.requests, p.first_ms, p.gap_ms, 1e3 * p.ttft_error.median,
               1e3 * p.ttft_error.percentiles.back().second, 1e3 * p.itl_error.median,
               1e3 * p.itl_error.percentiles.back().second);
  fmt::print(
      "without delays: {:.0f} requests/s at {:.1f} us of client CPU each, {:.0f} events/s at {:.2f} us "
      "each\n",
      c.requests_per_second, c.cpu_us_per_request, c.events_per_second, c.cpu_us_per_event);
  for (const std::string& b : c.broken) fmt::print("INVALID: {}\n", b);
  return c.broken.empty() ? kExitFine : kExitFailed;
}

int serve(BenchServeArguments& a) {
  if (a.calibrate) return print_calibration();
  a.plan.arrivals.request_rate = read_rate(a.request_rate, "request rate");
  a.plan.arrivals.burstiness = read_rate(a.burstiness, "burstiness");
  if (!a.sweep.empty()) a.plan.sweep = parse_sweep(a.sweep);
  const MetricsOptions options{parse_percentiles(a.metric_percentiles), parse_goodput(a.goodput)};
  std::vector<Arm> arms;
  arms.push_back(make_arm(a, a.endpoint, a.label.empty() && !a.ab.empty() ? "A" : a.label));
  if (!a.ab.empty()) arms.push_back(make_arm(a, a.ab, a.label_b.empty() ? "B" : a.label_b));
  const auto points = points_of(a.plan);
  if (!a.result_filename.empty() && !a.append_result && points.size() * arms.size() > 1)
    throw UsageError(
        fmt::format("{} runs into one file {}: add --append-result, or leave out --result-filename",
                    points.size() * arms.size(), printable(a.result_filename)));
  bool valid = true, failures = false;
  std::size_t number = 0;
  for (const auto& point : points) {
    // Interleaved, and the arm that goes first changes: drift of the machine falls on both.
    if (arms.size() > 1 && number++ % 2 == 1) std::swap(arms[0], arms[1]);
    for (Arm& arm : arms) {
      if (points.size() * arms.size() > 1)
        fmt::print("{}ISL {} OSL {} MC {}, run {} of {}\n", arm.label.empty() ? "" : arm.label + ": ",
                   point.first.input_len, point.first.output_len, point.first.max_concurrency,
                   point.second + 1, a.plan.repeats);
      const BenchResult r = run_point(a, arm, point, options);
      fmt::print("{}", table(r));
      if (a.definitions) fmt::print("{}", definitions(r));
      if (a.save_result || a.save_detailed || a.append_result) save(a, r);
      std::fflush(stdout);
      valid = valid && r.invalid.empty();
      failures = failures || r.metrics.failed > 0;
    }
  }
  return valid && !failures ? kExitFine : kExitFailed;
}

void add_target_options(CLI::App& sub, BenchServeArguments& a) {
  sub.add_option("--endpoint,--base-url", a.endpoint, "The server: http://host:port")
      ->capture_default_str()
      ->type_name("URL");
  sub.add_option("--ab", a.ab, "A second server: both are measured in turn, point by point")
      ->type_name("URL");
  sub.add_option("--model", a.model, "Model (the first of /v1/models)")->type_name("NAME");
  sub.add_option("--backend", a.backend, "openai (completions) or openai-chat")->capture_default_str();
  sub.add_option("--api-key", a.api_key, "API key ($OPENAI_API_KEY)")->type_name("KEY");
  sub.add_option("--temperature", a.temperature, "Sent with each request")->capture_default_str();
  sub.add_option("--sampling-seed", a.sampling_seed, "Sent with each request")->capture_default_str();
  sub.add_flag("--server-sampling", a.server_sampling,
               "Send neither: the server's defaults decide, as in vLLM");
  sub.add_flag("--ignore-eos", a.ignore_eos, "Send ignore_eos (always for loads with set lengths)");
  sub.add_flag("--no-ignore-eos", a.no_ignore_eos, "Never send it");
  sub.add_flag("--continuous-usage", a.continuous_usage,
               "Ask for usage in each event: exact token times (vLLM)");
  sub.add_option("--extra-body", a.extra_body, "JSON object merged over each request")->type_name("JSON");
  sub.add_option("--timeout", a.timeout, "Seconds per request")->capture_default_str();
}

void add_load_options(CLI::App& sub, BenchServeArguments& a) {
  Plan& p = a.plan;
  sub.add_option("--dataset-name", p.dataset, "random, prefix_repetition, trace, custom, or a task (gsm8k)")
      ->capture_default_str();
  sub.add_option("--dataset-path,--data", p.path, "trace, custom: the file; a task: the folder of its data")
      ->type_name("PATH");
  sub.add_option("--num-prompts", p.num_prompts, "Requests per point")->capture_default_str();
  sub.add_option("--prompts-per-slot", p.prompts_per_slot, "Instead: so many per max concurrency")
      ->type_name("N");
  sub.add_option("--num-warmups", p.num_warmups,
                 "Requests before, with other prompts (one per slot, at most 32)")
      ->type_name("N");
  sub.add_option("--input-len,--random-input-len", p.input_len, "Prompt tokens (ISL)")->capture_default_str();
  sub.add_option("--output-len,--random-output-len", p.output_len, "Output tokens (OSL)")
      ->capture_default_str();
  sub.add_option("--random-prefix-len", p.prefix_len, "Tokens in front that are the same for all")
      ->capture_default_str();
  sub.add_option("--random-range-ratio", p.range_ratio,
                 "Lengths uniform in L(1-r) .. L(1+r); or {\"input\": r, \"output\": r}")
      ->capture_default_str();
  sub.add_option("--prefix-repetition-prefix-len", p.repeated_prefix_len, "Tokens of each shared prefix")
      ->capture_default_str();
  sub.add_option("--prefix-repetition-suffix-len", p.suffix_len, "Tokens after it")->capture_default_str();
  sub.add_option("--prefix-repetition-num-prefixes", p.prefixes, "How many prefixes")->capture_default_str();
  sub.add_option("--trace-speed", p.trace_speed, "2: twice as fast")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  sub.add_option("--trace-unit", p.trace_unit, "Seconds per unit of a trace's timestamp")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  sub.add_option("--num-fewshot", p.num_fewshot, "Tasks: shots (the task's own)")->type_name("N");
  sub.add_option("--vocab-size", p.vocab_size, "Ids of random prompts (the server's word, if it gives one)")
      ->type_name("N");
  sub.add_option("--tokenizer", p.tokenizer, "Or from this Hugging Face folder")->type_name("DIR");
  sub.add_option("--request-rate", a.request_rate, "Requests per second; inf: closed loop")
      ->capture_default_str();
  sub.add_option("--burstiness", a.burstiness, "1: Poisson, less: burstier, inf: constant")
      ->capture_default_str();
  sub.add_option("--ramp-up-strategy", p.arrivals.ramp_up, "linear or exponential");
  sub.add_option("--ramp-up-start-rps", p.arrivals.ramp_start, "Requests per second at first");
  sub.add_option("--ramp-up-end-rps", p.arrivals.ramp_end, "At the end");
  sub.add_option("--max-concurrency", p.max_concurrency, "Requests at once; 0: no limit")
      ->capture_default_str();
  sub.add_option("--sweep", a.sweep, "Points ISL:OSL:MC, as 1000/4000:100:4/16/64,100:1000:8")
      ->type_name("POINTS");
  sub.add_option("--repeats", p.repeats, "Runs of each point: what noise is judged by")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  sub.add_option("--seed", p.seed, "Of prompts, lengths and arrivals")->capture_default_str();
}

void add_output_options(CLI::App& sub, BenchServeArguments& a) {
  sub.add_option("--percentile-metrics", a.percentile_metrics, "Printed: ttft,tpot,itl,e2el")
      ->capture_default_str();
  sub.add_option("--metric-percentiles", a.metric_percentiles, "Percentiles")->capture_default_str();
  sub.add_option("--goodput", a.goodput, "Limits in ms, as ttft:600 tpot:150");
  sub.add_flag("--definitions", a.definitions, "Also what other tools would have called the numbers");
  sub.add_option("--label", a.label, "Name of this server in results");
  sub.add_option("--label-b", a.label_b, "Name of the second");
  sub.add_flag("--save-result", a.save_result, "Write a JSON file per run, with an array per figure");
  sub.add_flag("--save-detailed", a.save_detailed, "The same, with the texts");
  sub.add_flag("--append-result", a.append_result, "Append to the file, one line per run");
  sub.add_option("--result-dir", a.result_dir, "Where")->capture_default_str()->type_name("DIR");
  sub.add_option("--result-filename", a.result_filename, "Its name (made of what was run)")
      ->type_name("FILE.json");
  sub.add_flag("--quiet", a.quiet, "No progress on the terminal");
  sub.add_flag("--calibrate", a.calibrate, "Measure this client against known delays, and nothing else");
}

}  // namespace
}  // namespace moecheck::harness::load

namespace moecheck::harness {

void add_bench_serve(CLI::App& bench_verb, Action& action) {
  using namespace load;
  auto a = std::make_shared<BenchServeArguments>();
  CLI::App* sub = bench_verb.add_subcommand(
      "serve", "Load on an OpenAI-compatible endpoint, as `vllm bench serve` measures it");
  sub->footer(
      "  moecheck bench serve --endpoint http://localhost:8000 --sweep 1000:100:4/16/64 --repeats 3 "
      "--save-result\n"
      "  moecheck bench serve --endpoint http://localhost:8000 --ab http://localhost:8001 --input-len 128\n"
      "Exit codes: 0 measured; 1 requests failed, or the client was the limit (INVALID); 2 bad usage, or no "
      "server. OPENAI_API_KEY is sent where it is set.");
  add_target_options(*sub, *a);
  add_load_options(*sub, *a);
  add_output_options(*sub, *a);
  sub->callback([a, &action] {
    a->command = this_command_line();
    action = [a] { return serve(*a); };
  });
}

}  // namespace moecheck::harness
