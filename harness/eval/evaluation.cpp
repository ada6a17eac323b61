#include "harness/eval/evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <numeric>

#include "harness/case.h"
#include "harness/random.h"
#include "harness/text.h"

namespace moecheck::harness::eval {
namespace {

constexpr http::Nanoseconds kTick = http::kSecond / 4;
constexpr std::size_t kChatStops = 4;  // OpenAI takes no more, and lm_eval sends no more

double seconds(http::Nanoseconds time) { return static_cast<double>(time) * 1e-9; }

std::vector<std::size_t> shuffled(std::size_t n, std::uint64_t seed) {
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  const Random random(seed, "evaluation order");
  for (std::size_t i = n; i > 1; --i)
    std::swap(order[i - 1],
              order[static_cast<std::size_t>(random.integer(i, 0, static_cast<std::int64_t>(i) - 1))]);
  return order;
}

std::string words(const http::Error& error) {
  return error.message.empty() ? std::string(name(error.kind))
                               : fmt::format("{}: {}", name(error.kind), error.message);
}

}  // namespace

http::Api request_api(Api api) { return api == Api::kChat ? http::Api::kChat : http::Api::kCompletions; }

Evaluation::Evaluation(const PromptSet& prompts, const Dataset& data, Settings settings,
                       std::vector<Target> targets)
    : prompts_(prompts), data_(data), settings_(std::move(settings)) {
  const std::size_t n = prompts.prompts.size();
  order_ = shuffled(n, settings_.seed);
  for (Target& target : targets) {
    Arm& arm = arms_.emplace_back();
    arm.target = std::move(target);
    arm.samples.resize(n);
    arm.states.resize(n, State::kWaiting);
    arm.ids.resize(n, 0);
  }
}

Evaluation::~Evaluation() = default;

RunSettings Evaluation::run_settings(std::size_t arm) const {
  const Target& target = arms_[arm].target;
  const PromptOptions& o = prompts_.options;
  return {{"task", prompts_.task->name},
          {"task hash", prompts_.task_hash},
          {"data", data_.name},
          {"endpoint", target.endpoint.base},
          {"model", target.model},
          {"api", std::string(name(request_api(o.api)))},
          {"shots", std::to_string(o.num_fewshot)},
          {"questions", std::to_string(prompts_.prompts.size())},
          {"max-gen-toks", std::to_string(settings_.max_gen_toks)},
          {"stream", settings_.stream ? "yes" : "no"},
          {"extra body", settings_.extra_body},
          {"seed", std::to_string(settings_.seed)},
          {"request seed", std::to_string(settings_.request_seed)}};
}

void Evaluation::attach(std::size_t index, std::unique_ptr<Journal> journal) {
  Arm& arm = arms_[index];
  std::map<std::int64_t, std::size_t> places;
  for (std::size_t i = 0; i < prompts_.prompts.size(); ++i) places[prompts_.prompts[i].doc_id] = i;
  for (const Sample& sample : journal->found()) {
    const auto place = places.find(sample.doc_id);
    if (place == places.end() || prompts_.prompts[place->second].doc_hash != sample.doc_hash ||
        prompts_.prompts[place->second].prompt_hash != sample.prompt_hash)
      throw UsageError(fmt::format("{}: document {} is not of these prompts; give another --output",
                                   printable(journal->path()), sample.doc_id));
    if (sample.failed) continue;
    const std::size_t i = place->second;
    arm.samples[i] = sample;
    // Graded anew: the journal's scores may be of an older version.
    grade(*prompts_.task, arm.samples[i]);
    arm.states[i] = State::kAnswered;
    ++arm.answered;
    ++arm.resumed;
    arm.right += arm.samples[i].scores[0].right;
  }
  arm.journal = std::move(journal);
}

std::string Evaluation::body_of(const Arm& arm, std::size_t question) const {
  const Prompt& prompt = prompts_.prompts[question];
  const harness::Generation& how = prompts_.task->generation;
  http::Generate g;
  g.api = request_api(prompts_.options.api);
  g.model = arm.target.model;
  g.text = prompt.text;
  for (const harness::Message& m : prompt.messages) g.messages.push_back({m.role, m.content});
  g.max_tokens = settings_.max_gen_toks;
  g.temperature = how.temperature.value_or(0);
  g.stop = how.until;
  if (g.api == http::Api::kChat && g.stop.size() > kChatStops) g.stop.resize(kChatStops);
  g.seed = settings_.request_seed;
  g.stream = settings_.stream;
  g.extra_body = settings_.extra_body;
  return http::request_body(g);
}

bool Evaluation::may_start(const Arm& arm) const {
  if (arm.running >= settings_.concurrency || arm.next >= order_.size()) return false;
  return std::all_of(arms_.begin(), arms_.end(), [&](const Arm& other) {
    return arm.next <= other.next + static_cast<std::size_t>(settings_.concurrency);
  });
}

void Evaluation::pump(http::Client& client) {
  const Random coin(settings_.seed, "arm order");
  for (bool started = true; started && !stopping_;) {
    started = false;
    for (Arm& arm : arms_)
      while (arm.next < order_.size() && arm.states[order_[arm.next]] != State::kWaiting) ++arm.next;
    // Which arm goes first is chance: neither always finds the caches of the other's making.
    const std::size_t first = arms_.size() > 1 ? coin.bits(arms_[0].next) % arms_.size() : 0;
    for (std::size_t k = 0; k < arms_.size(); ++k) {
      Arm& arm = arms_[(first + k) % arms_.size()];
      if (!may_start(arm)) continue;
      const std::size_t question = order_[arm.next++];
      ++arm.running;
      arm.states[question] = State::kRunning;
      arm.samples[question] =
          sample_of(prompts_.prompts[question],
                    data_.test[static_cast<std::size_t>(prompts_.prompts[question].doc_id)]);
      ask(client, arm, question, 0);
      started = true;
    }
  }
}

void Evaluation::ask(http::Client& client, Arm& arm, std::size_t question, int attempt) {
  std::function<void(const http::Chunk&)> on_chunk;
  std::shared_ptr<http::Nanoseconds> first_text;
  if (settings_.stream) {
    first_text = std::make_shared<http::Nanoseconds>(0);
    on_chunk = [first_text](const http::Chunk& c) {
      if (*first_text == 0 && !(c.text.empty() && c.reasoning.empty())) *first_text = c.time;
    };
  }
  arm.ids[question] = http::generate(
      client, arm.target.endpoint, request_api(prompts_.options.api), settings_.stream,
      body_of(arm, question), settings_.limits,
      [this, &client, &arm, question, attempt, first_text](http::Generation&& got) {
        if (!stopping_) take(client, arm, question, attempt, std::move(got), first_text ? *first_text : 0);
      },
      std::move(on_chunk));
}

bool Evaluation::retry(http::Client& client, Arm& arm, std::size_t question, int attempt,
                       const http::Error& error) {
  const Random jitter(settings_.seed, fmt::format("retry {}", question));
  const auto delay = http::retry_delay(settings_.retry, error, attempt, jitter);
  if (!delay) return false;
  ++arm.retries;
  arm.ids[question] =
      client.at(http::now() + static_cast<http::Nanoseconds>(*delay * 1e9),
                [this, &client, &arm, question, attempt] { ask(client, arm, question, attempt + 1); });
  return true;
}

void Evaluation::take(http::Client& client, Arm& arm, std::size_t question, int attempt,
                      http::Generation&& got, http::Nanoseconds first_text) {
  Sample& sample = arm.samples[question];
  if (got.error) {
    ++arm.errors[std::string(name(got.error.kind))];
    arm.last_error = sample.error = words(got.error);
    if (retry(client, arm, question, attempt, got.error)) return;
    sample.failed = true;
    ++arm.failed_in_a_row;
  } else {
    arm.failed_in_a_row = 0;
    ++arm.answered_now;
    sample.completion = std::move(got.text);
    sample.finish_reason = std::move(got.finish_reason);
    sample.missing_done = got.missing_done;
    sample.prompt_tokens = got.usage.prompt_tokens;
    sample.completion_tokens = got.usage.completion_tokens;
    sample.latency_s = seconds(got.timing.done - got.timing.sent);
    if (first_text != 0) sample.ttft_s = seconds(first_text - got.timing.sent);
  }
  sample.attempts = attempt + 1;
  record(arm, question);
  // A wrong address, key or model fails every request: a handful of them is enough to know.
  const std::int64_t patience = arm.answered_now == 0 ? 5 : std::max(20, 2 * settings_.concurrency);
  hopeless_ |= arm.failed_in_a_row >= patience;
  pump(client);
}

void Evaluation::record(Arm& arm, std::size_t question) {
  Sample& sample = arm.samples[question];
  grade(*prompts_.task, sample);
  if (arm.journal) arm.journal->append(sample);
  arm.states[question] = sample.failed ? State::kFailed : State::kAnswered;
  ++(sample.failed ? arm.failed : arm.answered);
  arm.right += !sample.failed && sample.scores[0].right;
  arm.ids[question] = 0;
  --arm.running;
}

bool Evaluation::settled(const Arm& arm) const {
  return arm.answered + arm.failed == static_cast<std::int64_t>(questions());
}

void Evaluation::sync() {
  for (Arm& arm : arms_)
    if (arm.journal) arm.journal->sync();
}

End Evaluation::run(http::Client& client, const Tick& tick) {
  const auto wall = std::chrono::system_clock::now().time_since_epoch();
  started_unix_ = std::chrono::duration<double>(wall).count();
  const http::Nanoseconds start = http::now();
  stopping_ = hopeless_ = false;
  const auto complete = [this] {
    return std::all_of(arms_.begin(), arms_.end(), [this](const Arm& a) { return settled(a); });
  };
  pump(client);
  End end = End::kComplete;
  for (http::Nanoseconds next = start + kTick; !complete();) {
    client.poll(next - http::now());
    if (hopeless_) {
      end = End::kNoAnswers;
      break;
    }
    if (http::now() < next) continue;
    next = http::now() + kTick;
    sync();
    if (!tick()) {
      end = End::kStopped;
      break;
    }
  }
  // So few questions that patience did not end: still nothing was evaluated.
  const auto silent = [](const Arm& a) { return a.answered == 0 && a.failed > 0; };
  if (end == End::kComplete && std::any_of(arms_.begin(), arms_.end(), silent)) end = End::kNoAnswers;
  stopping_ = true;
  for (Arm& arm : arms_)
    for (std::size_t i = 0; i < arm.ids.size(); ++i)
      if (arm.states[i] == State::kRunning) {
        client.cancel(std::exchange(arm.ids[i], 0));
        arm.states[i] = State::kWaiting;
        --arm.running;
      }
  client.poll(0);  // the cancelled ones call back, and are not heard
  for (Arm& arm : arms_) arm.next = 0;
  seconds_ += seconds(http::now() - start);
  sync();
  tick();
  return end;
}

std::size_t Evaluation::complete_prefix() const {
  std::size_t n = 0;
  const auto done = [&](const Arm& arm) {
    return arm.states[order_[n]] == State::kAnswered || arm.states[order_[n]] == State::kFailed;
  };
  while (n < order_.size() && std::all_of(arms_.begin(), arms_.end(), done)) ++n;
  return n;
}

Run Evaluation::run_of_arm(std::size_t index, std::size_t prefix) const {
  const Arm& arm = arms_[index];
  Run run = run_of(prompts_, data_);
  run.model = arm.target.model;
  run.base_url = arm.target.endpoint.url(request_api(prompts_.options.api));
  run.max_gen_toks = settings_.max_gen_toks;
  run.concurrency = settings_.concurrency;
  run.max_retries = settings_.retry.max_retries;
  run.timeout_s = settings_.limits.total_s;
  run.started_unix = started_unix_;
  run.seconds = seconds_;
  std::vector<std::size_t> places(
      order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(std::min(prefix, order_.size())));
  std::sort(places.begin(), places.end());
  for (const std::size_t i : places)
    if (arm.states[i] == State::kAnswered || arm.states[i] == State::kFailed)
      run.samples.push_back(arm.samples[i]);
  return run;
}

}  // namespace moecheck::harness::eval
