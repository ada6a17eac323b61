#include "harness/glm4_moe/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <mutex>
#include <thread>

#include "harness/fault.h"
#include "harness/glm4_moe/bpe_tokenizer.h"
#include "harness/glm4_moe/decoder.h"
#include "harness/glm4_moe/drafting.h"
#include "harness/glm4_moe/sampler.h"
#include "harness/glm4_moe/sequence.h"

namespace moecheck::harness {
namespace {

using SequencePtr = std::unique_ptr<Sequence>;

class Glm4MoeEngine final : public Engine {
 public:
  Glm4MoeEngine(std::unique_ptr<Glm4MoeCheckpoint> checkpoint, const Glm4MoeEngineOptions& options)
      : options_(options),
        checkpoint_(std::move(checkpoint)),
        config_(checkpoint_->config),
        tokenizer_(load_bpe_tokenizer(
            (std::filesystem::path(checkpoint_->folder) / "tokenizer.json").string(), checkpoint_->end_ids)),
        moe_(*checkpoint_, options.dtype, moe_options(options)),
        pool_((std::max(options.kv_tokens, config_.max_positions) + kPageTokens - 1) / kPageTokens) {
    if (tokenizer_->vocabulary() > config_.vocab)
      throw UsageError(fmt::format("tokenizer.json has {} tokens, config.json says vocab_size={}",
                                   tokenizer_->vocabulary(), config_.vocab));
    DecoderOptions d;
    d.dtype = options.dtype;
    d.pages = pool_.size();
    d.threads = options.threads;
    d.moe = [this](std::int64_t layer, reference::ConstView x, reference::ConstView logits,
                   reference::View out) { moe_.run(layer, x, logits, out); };
    const auto& fault = options.moe.fault;
    decoder_ = fault && fault->op == "attention"
                   ? make_faulty_decoder(config_, checkpoint_->weights, d, fault->name)
                   : make_decoder(config_, checkpoint_->weights, d);
    if (options.speculate > 0)
      drafter_.emplace(*decoder_, config_, tokenizer_->vocabulary(), options.speculate,
                       [this](Sequence& s, std::int64_t positions) { return reserve(s, positions); });
    counters_.accepted_per_position.assign(static_cast<std::size_t>(options.speculate), 0);
    thread_ = std::thread([this] { loop(); });
  }

  ~Glm4MoeEngine() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  std::int64_t max_model_len() const override { return config_.max_positions; }

  void submit(GenerationRequest request, OnUpdate on_update) override {
    auto s = std::make_unique<Sequence>();
    s->tokens = request.prompt;
    s->request = std::move(request);
    s->on_update = std::move(on_update);
    {
      const std::lock_guard lock(mutex_);
      submitted_.push_back(std::move(s));
    }
    wake_.notify_one();
  }

  EngineStatistics statistics() const override {
    const std::lock_guard lock(mutex_);
    EngineStatistics copy = statistics_;
    copy.waiting += static_cast<std::int64_t>(submitted_.size());
    return copy;
  }

 private:
  static ServedMoeOptions moe_options(const Glm4MoeEngineOptions& options) {
    ServedMoeOptions moe = options.moe;
    moe.threads = options.threads;
    return moe;
  }

  // ---- The engine's thread

  void loop() {
    while (true) {
      {
        std::unique_lock lock(mutex_);
        publish_statistics();
        if (running_.empty() && waiting_.empty())
          wake_.wait(lock, [this] { return stopping_ || !submitted_.empty(); });
        if (stopping_) break;
        for (SequencePtr& s : submitted_) waiting_.push_back(std::move(s));
        submitted_.clear();
      }
      try {
        step();
      } catch (const std::exception& e) {
        end_all(fmt::format("the engine failed: {}", e.what()));
      }
    }
    end_all("the server is shutting down");
  }

  void publish_statistics() {  // under the mutex
    counters_.running = std::count_if(running_.begin(), running_.end(), [](const SequencePtr& s) {
      return !s->update || s->update->finish == Finish::kNo;
    });
    counters_.waiting = static_cast<std::int64_t>(waiting_.size());
    counters_.kv_cache_usage = static_cast<double>(pool_.held()) / static_cast<double>(pool_.size());
    statistics_ = counters_;
  }

  void end_all(const std::string& error) {
    std::deque<SequencePtr> all;
    {
      const std::lock_guard lock(mutex_);
      all.swap(submitted_);
    }
    for (auto* list : {&running_, &waiting_}) {
      for (SequencePtr& s : *list) all.push_back(std::move(s));
      list->clear();
    }
    for (SequencePtr& s : all) {
      release(*s);
      GenerationUpdate update;
      update.finish = Finish::kError;
      update.error = error;
      s->on_update(update);
    }
  }

  void release(Sequence& s) {
    for (const std::int32_t page : s.pages) pool_.release(page);
    s.pages.clear();
    s.drafts.clear();
    s.computed = s.published = s.cached = 0;
    if (!s.told_cached) s.prompt_logprobs.clear();
  }

  // The tokens that make a page's contents: with an MTP layer in use its last row depends on the token behind it too.
  std::span<const TokenId> page_key(const Sequence& s, std::int64_t page) const {
    return std::span(s.tokens).subspan(static_cast<std::size_t>(page * kPageTokens),
                                       static_cast<std::size_t>(kPageTokens + (options_.speculate > 0)));
  }
  bool page_is_complete(const Sequence& s, std::int64_t page, std::int64_t computed) const {
    return (page + 1) * kPageTokens <= computed &&
           (page + 1) * kPageTokens + (options_.speculate > 0) <= s.length();
  }
  static std::optional<std::int32_t> page_before(const Sequence& s, std::int64_t page) {
    return page == 0 ? std::nullopt : std::optional(s.pages[static_cast<std::size_t>(page - 1)]);
  }

  // Takes what the prefix cache has; the last token is always computed, since something must come out.
  void take_prefix(Sequence& s) {
    if (!options_.prefix_cache || s.request.prompt_logprobs) return;
    for (std::int64_t p = 0; page_is_complete(s, p, s.length() - 1); ++p) {
      const auto page = pool_.share(page_before(s, p), page_key(s, p));
      if (!page) break;
      s.pages.push_back(*page);
    }
    s.published = static_cast<std::int64_t>(s.pages.size());
    s.computed = s.published * kPageTokens;
    s.cached = std::min(s.computed, s.prompt());
  }

  // Pages for positions below `positions`; false when there are none.
  bool reserve(Sequence& s, std::int64_t positions) {
    while (static_cast<std::int64_t>(s.pages.size()) * kPageTokens < positions) {
      const auto page = pool_.allocate();
      if (!page) return false;
      s.pages.push_back(*page);
    }
    return true;
  }

  // The request that came last gives its pages back and starts again later.
  bool preempt_last(const Sequence& keep) {
    if (running_.back().get() == &keep) return false;
    SequencePtr last = std::move(running_.back());
    running_.pop_back();
    release(*last);
    last->rows = 0;
    ++counters_.preemptions;
    waiting_.push_front(std::move(last));
    return true;
  }

  // Chooses the rows of this step: first those that decode, then prompts in chunks.
  std::int64_t plan() {
    std::int64_t rows = 0;
    for (const bool decoding : {true, false})
      for (std::size_t i = 0; i < running_.size(); ++i) {
        Sequence& s = *running_[i];
        const bool decodes = s.computed + 1 == s.length() && s.generated() > 0;
        if (decodes != decoding) continue;
        s.rows = 0;
        const std::int64_t wanted = s.length() - s.computed + static_cast<std::int64_t>(s.drafts.size());
        const std::int64_t count =
            decoding ? wanted : std::min(wanted, std::max<std::int64_t>(options_.rows_per_step - rows, 0));
        if (count == 0) continue;
        bool fits = reserve(s, s.computed + count);
        while (!fits && preempt_last(s)) fits = reserve(s, s.computed + count);
        if (!fits) continue;  // alone with too little room cannot be: the pool holds the longest sequence
        s.rows = count;
        rows += count;
      }
    while (!waiting_.empty() && rows < options_.rows_per_step &&
           static_cast<std::int64_t>(running_.size()) < options_.max_running) {
      Sequence& s = *waiting_.front();
      if (s.pages.empty()) take_prefix(s);
      const std::int64_t count = std::min(s.length() - s.computed, options_.rows_per_step - rows);
      if (!reserve(s, s.computed + count)) {
        if (running_.empty()) throw std::logic_error("the KV cache does not hold one sequence");
        release(s);
        break;
      }
      if (!s.counted) counters_.prompt_tokens += s.prompt();
      s.counted = true;
      if (options_.prefix_cache && !s.request.prompt_logprobs) {
        counters_.prefix_cache_queries += s.length();
        counters_.prefix_cache_hits += s.computed;
      }
      s.rows = count;
      rows += count;
      running_.push_back(std::move(waiting_.front()));
      waiting_.pop_front();
    }
    return rows;
  }

  void step() {
    if (plan() == 0) return;
    std::vector<std::int64_t> positions;
    std::vector<const std::int32_t*> tables;
    std::vector<TokenId> ids;
    for (const SequencePtr& s : running_) {
      s->first_row = static_cast<std::int64_t>(ids.size());
      s->before = s->computed;
      for (std::int64_t r = 0; r < s->rows; ++r) {
        positions.push_back(s->computed + r);
        tables.push_back(s->pages.data());
        ids.push_back(s->token(s->computed + r));
      }
    }
    hidden_.resize(ids.size() * static_cast<std::size_t>(config_.hidden));
    decoder_->forward(ids, {positions, tables}, hidden_.data());
    read_logits();
    for (const SequencePtr& s : running_)
      if (s->rows > 0) advance(*s);
    {  // before clients hear of it: who asks for the counters after the answer finds the answer in them
      const std::lock_guard lock(mutex_);
      publish_statistics();
    }
    std::vector<bool> ended;
    for (const SequencePtr& s : running_) ended.push_back(!deliver(*s));
    std::size_t kept = 0;
    for (std::size_t i = 0; i < running_.size(); ++i) {
      if (!ended[i]) {
        running_[kept++] = std::move(running_[i]);
        continue;
      }
      Sequence& s = *running_[i];
      publish_pages(s, options_.speculate > 0 ? s.before : s.computed);
      release(s);
    }
    running_.resize(kept);
    if (drafter_) drafter_->propose(running_, hidden_);
    for (const SequencePtr& s : running_) publish_pages(*s, s->computed);
  }

  // Logits of the rows that are asked for, packed in order; logit_row_ of each row of the step, -1 for the others.
  void read_logits() {
    std::vector<float> rows;
    logit_row_.clear();
    std::int64_t wanted = 0;
    for (const SequencePtr& s : running_)
      for (std::int64_t r = 0; r < s->rows; ++r) {
        const bool needed = s->computed + r + 1 >= s->length() ||
                            (s->request.prompt_logprobs && s->computed + r + 1 < s->prompt());
        logit_row_.push_back(needed ? wanted++ : -1);
        const auto first = hidden_.begin() + (s->first_row + r) * config_.hidden;
        if (needed) rows.insert(rows.end(), first, first + config_.hidden);
      }
    logits_.resize(static_cast<std::size_t>(wanted * config_.vocab));
    if (wanted > 0) decoder_->logits(rows.data(), wanted, false, logits_.data());
  }
  std::span<const float> logits(const Sequence& s, std::int64_t row) const {
    const std::int64_t at = logit_row_[static_cast<std::size_t>(s.first_row + row)];
    // Ids behind the tokenizer's vocabulary are padding of the head.
    return {logits_.data() + at * config_.vocab, static_cast<std::size_t>(tokenizer_->vocabulary())};
  }

  void read_prompt_logprobs(Sequence& s) {
    for (std::int64_t r = 0; r < s.rows && s.computed + r + 1 < s.prompt(); ++r)
      s.prompt_logprobs.push_back(token_logprob(
          logits(s, r), s.tokens[static_cast<std::size_t>(s.computed + r + 1)], s.request.logprobs));
  }

  // Takes what the step computed for s: samples, checks drafts, leaves what the client shall hear in s.update.
  void advance(Sequence& s) {
    if (s.request.prompt_logprobs && s.generated() == 0) read_prompt_logprobs(s);
    if (!s.samples()) {
      s.computed += s.rows;
      return;
    }
    const std::int64_t known = s.length(), first = known - 1 - s.computed;
    GenerationUpdate update;
    if (!s.told_cached) update.cached_prompt_tokens = s.cached;
    if (s.request.prompt_logprobs && !s.told_cached) update.prompt_logprobs = std::move(s.prompt_logprobs);
    s.told_cached = true;
    std::int64_t accepted = 0;
    const auto drafted = static_cast<std::int64_t>(s.drafts.size());
    for (std::int64_t i = 0; i <= drafted && update.finish == Finish::kNo; ++i) {
      if (s.generated() >= s.request.max_tokens) {
        update.finish = Finish::kLength;
        break;
      }
      const std::span<const float> row = logits(s, first + i);
      const TokenId token = sample(row, s.request.sampling, s.length());
      const bool as_drafted = i < drafted && (HARNESS_FAULT(kServeEveryDraftAccepted) ||
                                              token == s.drafts[static_cast<std::size_t>(i)]);
      if (as_drafted) ++accepted;
      if (tokenizer_->is_end(token) && !s.request.ignore_eos) {
        update.finish = Finish::kEnd;
        break;
      }
      s.tokens.push_back(token);
      update.tokens.push_back(token);
      if (s.request.logprobs >= 0) update.logprobs.push_back(token_logprob(row, token, s.request.logprobs));
      if (s.generated() >= s.request.max_tokens) update.finish = Finish::kLength;
      if (!as_drafted) break;
    }
    count_drafts(drafted, accepted);
    counters_.generation_tokens += static_cast<std::int64_t>(update.tokens.size());
    s.drafts.clear();
    s.computed = std::min(known + accepted, s.length());
    s.update = std::move(update);
  }

  // Tells the client. Returns whether the sequence goes on.
  bool deliver(Sequence& s) {
    if (!s.update) return true;
    const bool goes_on = s.on_update(*s.update) && s.update->finish == Finish::kNo;
    s.update.reset();
    return goes_on;
  }

  void count_drafts(std::int64_t drafted, std::int64_t accepted) {
    if (drafted == 0) return;
    ++counters_.drafts;
    counters_.draft_tokens += drafted;
    counters_.accepted_tokens += accepted;
    for (std::int64_t i = 0; i < accepted; ++i)
      ++counters_.accepted_per_position[static_cast<std::size_t>(i)];
  }

  // Offers the pages whose positions below `computed` are done, in the MTP layer too.
  void publish_pages(Sequence& s, std::int64_t computed) {
    if (!options_.prefix_cache) return;
    for (; page_is_complete(s, s.published, computed); ++s.published)
      pool_.publish(s.pages[static_cast<std::size_t>(s.published)], page_before(s, s.published),
                    page_key(s, s.published));
  }

  Glm4MoeEngineOptions options_;
  std::unique_ptr<Glm4MoeCheckpoint> checkpoint_;
  const reference::Glm4MoeConfig& config_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ServedMoe moe_;
  std::unique_ptr<Decoder> decoder_;
  std::optional<Drafter> drafter_;

  // The engine's thread alone.
  PagePool pool_;
  std::deque<SequencePtr> running_, waiting_;
  EngineStatistics counters_;
  std::vector<float> hidden_, logits_;
  std::vector<std::int64_t> logit_row_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<SequencePtr> submitted_;
  EngineStatistics statistics_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<Engine> make_glm4_moe_engine(std::unique_ptr<Glm4MoeCheckpoint> checkpoint,
                                             const Glm4MoeEngineOptions& options) {
  if (options.speculate < 0 || options.speculate > 8)
    throw UsageError(fmt::format("speculate={}: 0 to 8 draft tokens", options.speculate));
  if (options.speculate > 0 && !checkpoint->weights.mtp)
    throw UsageError(
        fmt::format("{}: no MTP layer (num_nextn_predict_layers=0): use --speculate 0", checkpoint->name));
  return std::make_unique<Glm4MoeEngine>(std::move(checkpoint), options);
}

}  // namespace moecheck::harness
