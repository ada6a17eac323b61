#pragma once
// What serves: token ids in, tokens out as they come. The HTTP side (server.h) knows nothing of models, an engine
// knows nothing of HTTP, text or stop strings.
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace moecheck::harness {

using TokenId = std::int32_t;

// Text to token ids and back.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::vector<TokenId> encode(std::string_view text) const = 0;
  // The bytes a token stands for: perhaps a part of a UTF-8 sequence; empty for special tokens.
  virtual std::string_view bytes(TokenId id) const = 0;
  virtual std::int64_t vocabulary() const = 0;  // ids are in [0, vocabulary)
  virtual bool is_end(TokenId id) const = 0;    // an end-of-text token
};

struct Sampling {
  double temperature = 0;  // 0: greedy, the lowest id wins a tie
  double top_p = 1;
  std::int64_t top_k = 0;  // 0: all
  std::uint64_t seed = 0;  // the same seed and request give the same tokens, whatever else is running
};

struct GenerationRequest {
  std::vector<TokenId> prompt;   // at least one
  std::int64_t max_tokens = 16;  // at least 1; 0 only with prompt_logprobs
  bool ignore_eos = false;
  Sampling sampling;
  int logprobs = -1;             // alternatives per token; -1: no logprobs
  bool prompt_logprobs = false;  // logprobs of prompt[1..] too, in the first update
};

struct TokenLogprob {
  TokenId id = 0;
  double logprob = 0;
  std::vector<std::pair<TokenId, double>> top;  // the likeliest first
};

enum class Finish : std::uint8_t {
  kNo,
  kEnd,
  kLength,
  kError
};  // kEnd: an end token, which is not delivered

struct GenerationUpdate {
  std::vector<TokenId> tokens;                // new ones, in order: several under speculative decoding
  std::vector<TokenLogprob> logprobs;         // one per token when asked for
  std::vector<TokenLogprob> prompt_logprobs;  // once, when asked for: of prompt[1..]
  Finish finish = Finish::kNo;
  std::string error;  // with kError: what went wrong, for the client
  std::int64_t cached_prompt_tokens = 0;
};

// Called on the engine's thread, in order, the last time with finish != kNo. Returns whether to go on: false ends
// the request at once (a stop string was found, the client has gone), without another call.
using OnUpdate = std::function<bool(const GenerationUpdate&)>;

// Counters since the start, and what is going on now. Names follow vLLM's metrics.
struct EngineStatistics {
  std::int64_t running = 0, waiting = 0;
  double kv_cache_usage = 0;  // share in [0, 1]
  std::int64_t prompt_tokens = 0, generation_tokens = 0;
  std::int64_t prefix_cache_queries = 0, prefix_cache_hits = 0;  // in tokens
  std::int64_t preemptions = 0;
  std::int64_t drafts = 0, draft_tokens = 0, accepted_tokens = 0;
  std::vector<std::int64_t> accepted_per_position;  // empty: no speculative decoding
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual const Tokenizer& tokenizer() const = 0;
  virtual std::int64_t max_model_len() const = 0;  // prompt and generated tokens together
  // Thread-safe, does not block. The request must be valid: ids in the vocabulary, and
  // prompt + max_tokens <= max_model_len (the HTTP side says so to the client).
  virtual void submit(GenerationRequest request, OnUpdate on_update) = 0;
  virtual EngineStatistics statistics() const = 0;
};

}  // namespace moecheck::harness
