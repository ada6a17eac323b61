#pragma once
// From the engine's thread to the server's: what the engine says of a sequence becomes deltas of text.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "harness/serve/engine.h"
#include "harness/serve/text_stream.h"

namespace moecheck::harness::serve {

enum class Ending : std::uint8_t { kNone, kStop, kLength, kError };

// What a sequence gained since its last delta.
struct Delta {
  std::uint64_t generation = 0;  // of which request
  std::size_t sequence = 0;      // which of it: prompt * n + i
  std::string text;
  std::int64_t tokens = 0;
  std::vector<TokenLogprob> logprobs, prompt_logprobs;
  std::int64_t cached_prompt_tokens = 0;
  Ending ending = Ending::kNone;
  std::string error;                // with kError
  double first_token_seconds = -1;  // where the first token is among these; negative: it is not
  std::vector<double> gaps;         // seconds between updates

  void append(Delta&& later);
};

// Deltas on their way. Any thread puts, one takes.
class Mailbox {
 public:
  // `wake` is called when the box stops being empty; it must not call back.
  explicit Mailbox(std::function<void()> wake) : wake_(std::move(wake)) {}
  void put(Delta&& delta);
  std::vector<Delta> take();
  void close();  // what is put from now on is dropped, and wake is not called again

 private:
  std::mutex mutex_;
  std::function<void()> wake_;
  std::vector<Delta> deltas_;
  bool closed_ = false;
};

struct FeedOptions {
  std::shared_ptr<Mailbox> mailbox;
  std::shared_ptr<std::atomic<std::int64_t>>
      in_flight;  // sequences that engines hold; one less when this one ends
  std::shared_ptr<std::atomic<bool>> cancelled;
  const Tokenizer* tokenizer = nullptr;
  std::uint64_t generation = 0;
  std::size_t sequence = 0;
  std::vector<std::string> stop;
  std::string echo;    // bytes that come before the answer
  bool whole = false;  // one delta at the end, instead of one per update
  bool logprobs = false;
};

// The OnUpdate of one sequence. Finds stop strings, so that the engine goes not one step too far.
class Feed {
 public:
  explicit Feed(FeedOptions options);
  ~Feed();
  Feed(const Feed&) = delete;
  Feed& operator=(const Feed&) = delete;

  bool update(const GenerationUpdate& u);

 private:
  using Clock = std::chrono::steady_clock;
  void add_tokens(const GenerationUpdate& u);
  void release();

  FeedOptions o_;
  TextStream text_;
  Delta pending_;
  bool first_ = true, released_ = false;
  Clock::time_point start_, last_;
};

}  // namespace moecheck::harness::serve
