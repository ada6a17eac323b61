#include "harness/serve/scripted_engine.h"

#include <fmt/format.h>
#include <sys/prctl.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <fstream>
#include <mutex>
#include <queue>
#include <thread>
#include <unordered_map>
#include <unordered_set>

#include "harness/case.h"
#include "harness/json.h"
#include "harness/random.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

using Clock = std::chrono::steady_clock;

constexpr TokenId kEnd = 256;
constexpr std::size_t kBlock = 16;  // tokens that a prefix cache keeps together

class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer() {
    for (std::size_t i = 0; i < bytes_.size(); ++i) bytes_[i] = static_cast<char>(i);
  }
  std::vector<TokenId> encode(std::string_view text) const override {
    std::vector<TokenId> ids(text.size());
    std::transform(text.begin(), text.end(), ids.begin(),
                   [](char c) { return static_cast<unsigned char>(c); });
    return ids;
  }
  std::string_view bytes(TokenId id) const override {
    return id < 0 || id >= kEnd ? std::string_view()
                                : std::string_view(&bytes_[static_cast<std::size_t>(id)], 1);
  }
  std::int64_t vocabulary() const override { return kEnd + 1; }
  bool is_end(TokenId id) const override { return id == kEnd; }

 private:
  std::array<char, 256> bytes_;
};

std::uint64_t hash_of(std::string_view text, std::uint64_t seed) {
  std::uint64_t h = mix64(seed + 0x9E3779B97F4A7C15ull);
  std::size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    std::uint64_t word;
    std::copy_n(text.data() + i, 8, reinterpret_cast<char*>(&word));
    h = mix64(h ^ word) + 0x9E3779B97F4A7C15ull;
  }
  for (; i < text.size(); ++i) h = mix64(h + static_cast<unsigned char>(text[i]) + 1);
  return mix64(h + text.size());
}

// What lm_eval's gsm8k asks last: the text between the last "Question: " and the "\nAnswer:" after it.
std::string_view last_question(std::string_view prompt) {
  const std::size_t at = prompt.rfind("Question: ");
  if (at == prompt.npos) return prompt;
  prompt.remove_prefix(at + 10);
  return prompt.substr(0, prompt.find("\nAnswer:"));
}

// Texts of the script: a function of the prompt and the seed alone.
class Script {
 public:
  explicit Script(const ScriptedOptions& o) : o_(o) {
    if (!o.answers.empty()) read_answers();
  }

  std::string text(const std::string& prompt, const Sampling& sampling) const {
    if (o_.echo) return prompt;
    const std::string_view question = last_question(prompt);
    std::uint64_t h = hash_of(question, o_.seed);
    if (sampling.temperature > 0) h = mix64(h + sampling.seed);
    const Random random(h, "script");
    if (const auto known = answers_.find(std::string(question)); known != answers_.end())
      return " " + (random.uniform(0) < o_.accuracy ? known->second : spoilt(known->second, random));
    return reasoning(random);
  }

 private:
  void read_answers() {
    std::ifstream file(o_.answers);
    if (!file) throw UsageError(fmt::format("can not read the answers '{}'", printable(o_.answers)));
    std::string line;
    for (std::int64_t n = 1; std::getline(file, line); ++n) {
      const auto row = nlohmann::json::parse(line, nullptr, false);
      if (row.is_discarded() || !row.is_object() || !row.contains("question") || !row.contains("answer") ||
          !row["question"].is_string() || !row["answer"].is_string())
        throw UsageError(
            fmt::format("{}:{} is not {{\"question\": ..., \"answer\": ...}}", printable(o_.answers), n));
      answers_.emplace(row["question"].get<std::string>(), row["answer"].get<std::string>());
    }
  }

  // The same solution with another number after "####".
  static std::string spoilt(const std::string& answer, const Random& random) {
    const std::size_t mark = answer.rfind("#### ");
    return answer.substr(0, mark == answer.npos ? answer.size() : mark) +
           fmt::format("#### {}", random.integer(1, 100000, 999999));
  }

  // A few lines with signs that take several bytes, then the number; what comes after is for stop strings to cut.
  static std::string reasoning(const Random& random) {
    std::string text;
    const std::int64_t steps = random.integer(1, 1, 3);
    std::int64_t sum = random.integer(2, 2, 60);
    for (std::int64_t s = 0; s < steps; ++s) {
      const std::int64_t factor = random.integer(static_cast<std::uint64_t>(10 + s), 2, 9);
      text += fmt::format(" {} \u00d7 {} = {}\u20ac.", sum, factor, sum * factor);
      sum *= factor;
    }
    return text + fmt::format("\n#### {}\n\nQuestion: and then?\nAnswer: \U0001F642", sum);
  }

  ScriptedOptions o_;
  std::unordered_map<std::string, std::string> answers_;
};

struct Running {
  GenerationRequest request;
  OnUpdate on_update;
  std::string text;         // what it will say
  std::size_t said = 0;     // tokens delivered
  std::int64_t cached = 0;  // prompt tokens
  std::uint64_t hash = 0;
  Clock::time_point start;  // of its slot
  std::int64_t step = 0;    // of speculation
};

class ScriptedEngine final : public Engine {
 public:
  explicit ScriptedEngine(const ScriptedOptions& o)
      : o_(o), script_(o), instant_(o.first_token_ms <= 0 && o.per_token_ms <= 0) {
    if (o.draft > 0) statistics_.accepted_per_position.assign(static_cast<std::size_t>(o.draft), 0);
    if (!instant_) thread_ = std::thread([this] { work(); });
  }
  ~ScriptedEngine() override {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

  const Tokenizer& tokenizer() const override { return byte_tokenizer(); }
  std::int64_t max_model_len() const override { return o_.max_model_len; }

  void submit(GenerationRequest request, OnUpdate on_update) override {
    auto r = std::make_unique<Running>();
    std::string prompt;
    prompt.reserve(request.prompt.size());
    for (const TokenId id : request.prompt) prompt += byte_tokenizer().bytes(id);
    r->text = script_.text(prompt, request.sampling);
    r->hash = hash_of(prompt, request.sampling.temperature > 0 ? request.sampling.seed : 0);
    r->request = std::move(request);
    r->on_update = std::move(on_update);
    r->start = Clock::now();
    {
      const std::lock_guard lock(mutex_);
      r->cached = look_up_prefix(prompt);
      statistics_.prompt_tokens += static_cast<std::int64_t>(r->request.prompt.size());
      if (!instant_) {
        waiting_.push(std::move(r));
        wake_.notify_all();
        return;
      }
    }
    while (advance(*r)) {
    }
  }

  EngineStatistics statistics() const override {
    const std::lock_guard lock(mutex_);
    EngineStatistics s = statistics_;
    s.running = static_cast<std::int64_t>(running_);
    s.waiting = static_cast<std::int64_t>(waiting_.size());
    s.kv_cache_usage = o_.slots > 0 ? static_cast<double>(s.running) / static_cast<double>(o_.slots) : 0;
    return s;
  }

 private:
  struct Due {
    Clock::time_point when;
    std::uint64_t order;  // of equal times, the first come
    std::shared_ptr<Running> running;
    bool operator<(const Due& other) const {
      return when != other.when ? when > other.when : order > other.order;
    }
  };

  static Clock::duration milliseconds(double ms) {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double, std::milli>(ms));
  }

  // Token i is due at start + first + i * per_token, whatever happened before: delays do not add up.
  Clock::time_point due(const Running& r) const {
    return r.start + milliseconds(o_.first_token_ms + static_cast<double>(r.said) * o_.per_token_ms);
  }

  void work() {
    // The default slack of 50 us would be a part of every delay. Not permitted is no error: it is an accuracy.
    prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);
    std::priority_queue<Due> due_now;
    std::uint64_t order = 0;
    std::unique_lock lock(mutex_);
    while (!ended_) {
      while (!waiting_.empty() && (o_.slots == 0 || running_ < static_cast<std::size_t>(o_.slots))) {
        std::shared_ptr<Running> r = std::move(waiting_.front());
        waiting_.pop();
        ++running_;
        if (o_.slots > 0) r->start = Clock::now();
        due_now.push({due(*r), order++, std::move(r)});
      }
      if (due_now.empty()) {
        wake_.wait(lock);
        continue;
      }
      if (due_now.top().when > Clock::now()) {
        wake_.wait_until(lock, due_now.top().when);
        continue;
      }
      const std::shared_ptr<Running> r = due_now.top().running;
      due_now.pop();
      lock.unlock();
      const bool more = advance(*r);
      lock.lock();
      if (more)
        due_now.push({due(*r), order++, r});
      else
        --running_;
    }
  }

  // Delivers the next tokens; returns whether there are more.
  bool advance(Running& r) {
    GenerationUpdate update;
    if (r.said == 0) {
      update.cached_prompt_tokens = r.cached;
      if (r.request.prompt_logprobs)
        for (std::size_t i = 1; i < r.request.prompt.size(); ++i)
          update.prompt_logprobs.push_back(logprob(r, r.request.prompt[i], i));
    }
    const auto most = static_cast<std::size_t>(r.request.max_tokens);
    const std::size_t step = std::min(tokens_of_step(r), most - r.said);
    for (std::size_t i = 0; i < step; ++i) {
      const bool over = r.said >= r.text.size();
      if (over && !r.request.ignore_eos) {
        update.finish = Finish::kEnd;
        break;
      }
      const TokenId id =
          over && r.text.empty() ? '.' : static_cast<unsigned char>(r.text[r.said % r.text.size()]);
      update.tokens.push_back(id);
      if (r.request.logprobs >= 0) update.logprobs.push_back(logprob(r, id, 1'000'000 + r.said));
      ++r.said;
    }
    if (update.finish == Finish::kNo && r.said >= most) update.finish = Finish::kLength;
    {
      const std::lock_guard lock(mutex_);
      statistics_.generation_tokens += static_cast<std::int64_t>(update.tokens.size());
    }
    return r.on_update(update) && update.finish == Finish::kNo;
  }

  // How many tokens the next update has, and what speculation counts of it.
  std::size_t tokens_of_step(Running& r) {
    if (o_.draft <= 0) return static_cast<std::size_t>(o_.burst);
    const Random random(r.hash + o_.seed, "draft");
    const auto step = static_cast<std::uint64_t>(r.step++) * 64;
    std::size_t accepted = 0;
    while (accepted < static_cast<std::size_t>(o_.draft) && random.uniform(step + accepted) < o_.acceptance)
      ++accepted;
    const std::lock_guard lock(mutex_);
    statistics_.drafts += 1;
    statistics_.draft_tokens += o_.draft;
    statistics_.accepted_tokens += static_cast<std::int64_t>(accepted);
    for (std::size_t i = 0; i < accepted; ++i) ++statistics_.accepted_per_position[i];
    return accepted + 1;
  }

  // Made up, but in order: the alternatives are less likely than the token itself, and all is repeatable.
  TokenLogprob logprob(const Running& r, TokenId id, std::uint64_t position) const {
    const Random random(r.hash, "logprob");
    TokenLogprob l;
    l.id = id;
    l.logprob = -0.01 - 0.5 * random.uniform(position);
    const int alternatives = std::min(r.request.logprobs, 256);
    for (int i = 0; i < alternatives; ++i)
      l.top.emplace_back((id + i) % 256, l.logprob - static_cast<double>(i));
    return l;
  }

  // Called with the lock held. Whole blocks that an earlier prompt began with are cached, but never the whole prompt.
  std::int64_t look_up_prefix(std::string_view prompt) {
    statistics_.prefix_cache_queries += static_cast<std::int64_t>(prompt.size());
    if (prefixes_.size() > 200'000) prefixes_.clear();
    std::int64_t cached = 0;
    std::uint64_t h = o_.seed;
    bool hit = true;
    for (std::size_t i = 0; i + kBlock <= prompt.size(); i += kBlock) {
      h = hash_of(prompt.substr(i, kBlock), h);
      const bool known = !prefixes_.insert(h).second;
      hit = hit && known && i + kBlock < prompt.size();
      if (hit) cached += static_cast<std::int64_t>(kBlock);
    }
    statistics_.prefix_cache_hits += cached;
    return cached;
  }

  const ScriptedOptions o_;
  const Script script_;
  const bool instant_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  bool ended_ = false;
  std::queue<std::unique_ptr<Running>> waiting_;
  std::size_t running_ = 0;
  EngineStatistics statistics_;
  std::unordered_set<std::uint64_t> prefixes_;  // hashes of what prompts began with
  std::thread thread_;
};

template <class Number>
Number number_of(std::string_view word, std::string_view value, Number low, Number high) {
  Number n{};
  const auto [end, ec] = std::from_chars(value.data(), value.data() + value.size(), n);
  if (ec != std::errc() || end != value.data() + value.size() || !(n >= low && n <= high))
    throw UsageError(
        fmt::format("scripted engine: '{}' needs a number from {} to {}", printable(word), low, high));
  return n;
}

}  // namespace

const Tokenizer& byte_tokenizer() {
  static const ByteTokenizer tokenizer;
  return tokenizer;
}

ScriptedOptions parse_scripted(std::string_view text) {
  static constexpr std::int64_t kMany = std::int64_t{1} << 40;
  ScriptedOptions o;
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), word.size() + 1));
    const std::size_t equals = word.find('=');
    const std::string_view key = word.substr(0, equals);
    const std::string_view value = equals == word.npos ? std::string_view() : word.substr(equals + 1);
    if (key == "ttft")
      o.first_token_ms = number_of(word, value, 0.0, 1e7);
    else if (key == "tpot")
      o.per_token_ms = number_of(word, value, 0.0, 1e7);
    else if (key == "slots")
      o.slots = number_of<std::int64_t>(word, value, 0, kMany);
    else if (key == "burst")
      o.burst = number_of<std::int64_t>(word, value, 1, kMany);
    else if (key == "draft")
      o.draft = number_of<std::int64_t>(word, value, 0, 63);
    else if (key == "acceptance")
      o.acceptance = number_of(word, value, 0.0, 1.0);
    else if (key == "echo")
      o.echo = number_of<std::int64_t>(word, value, 0, 1) == 1;
    else if (key == "answers")
      o.answers = value;
    else if (key == "accuracy")
      o.accuracy = number_of(word, value, 0.0, 1.0);
    else if (key == "max_len")
      o.max_model_len = number_of<std::int64_t>(word, value, 2, kMany);
    else if (key == "seed")
      o.seed = static_cast<std::uint64_t>(number_of<std::int64_t>(word, value, 0, kMany));
    else
      throw UsageError(
          fmt::format("scripted engine: '{}' is not known: there are ttft, tpot, slots, burst, draft, "
                      "acceptance, echo, answers, accuracy, max_len and seed",
                      printable(word)));
  }
  return o;
}

std::unique_ptr<Engine> make_scripted_engine(const ScriptedOptions& options) {
  return std::make_unique<ScriptedEngine>(options);
}

}  // namespace moecheck::harness
