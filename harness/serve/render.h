#pragma once
// Answers as OpenAI's API writes them: whole ones and the events of streams.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "harness/serve/feed.h"
#include "harness/serve/request.h"

namespace moecheck::harness::serve {

struct Usage {
  std::int64_t prompt_tokens = 0, completion_tokens = 0, cached_tokens = 0;
};

struct RenderOptions {
  Api api = Api::kCompletions;
  std::string id, model, fingerprint;
  std::int64_t created = 0;  // Unix seconds
  bool logprobs = false;
  const Tokenizer* tokenizer = nullptr;
};

// Where the logprobs of the completions API stand in the text so far.
struct TextPosition {
  std::int64_t characters = 0;
};

class Renderer {
 public:
  explicit Renderer(RenderOptions options);

  std::string usage_json(const Usage& usage) const;
  // One event. `usage`: JSON of the member, empty: no such member. `prompt` (or null): tokens that echo put first.
  std::string event(std::size_t index, const Delta& delta, const std::vector<TokenId>* prompt,
                    TextPosition& position, std::string_view usage) const;
  std::string role_event(std::size_t index, std::string_view usage) const;
  std::string usage_event(const Usage& usage) const;  // "choices": []
  // A whole answer, one delta per choice, in order; prompts[i] may be null.
  std::string whole(const std::vector<Delta>& choices,
                    const std::vector<const std::vector<TokenId>*>& prompts, std::string_view usage) const;

 private:
  std::string head(bool event) const;
  void append_logprobs(std::string& out, const Delta& delta, const std::vector<TokenId>* prompt,
                       TextPosition& position) const;
  void append_completion_logprobs(std::string& out, const Delta& delta, const std::vector<TokenId>* prompt,
                                  TextPosition& position) const;
  void append_chat_token(std::string& out, TokenId id, double logprob) const;

  RenderOptions o_;
  std::string event_head_;
};

// A token as JSON can show it: its text, "bytes:\xe2\x82" where that is not UTF-8, "token_id:7" where it has none.
std::string token_text(const Tokenizer& tokenizer, TokenId id);

}  // namespace moecheck::harness::serve
