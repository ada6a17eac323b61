#pragma once
// An engine without a model: bytes are tokens, delays are known, texts are a function of the prompt. For calibrating
// clients, for chaos and for tests.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "harness/serve/engine.h"

namespace moecheck::harness {

struct ScriptedOptions {
  double first_token_ms = 0;  // from submission, or from getting a slot, to the first token
  double per_token_ms = 0;    // to each further one. Both 0: all at once, on the caller's thread
  std::int64_t slots = 0;     // requests that run together, the others wait; 0: any number
  std::int64_t burst = 1;     // tokens per update
  // Speculation as counters and bursts show it: `draft` tokens are proposed per step and each is accepted with
  // probability `acceptance`, up to the first refusal. 0: none.
  std::int64_t draft = 0;
  double acceptance = 0.7;
  bool echo = false;    // texts repeat the prompt, else they reason in a few lines and end in "#### N"
  std::string answers;  // a GSM8K file: its questions are answered with its solutions...
  double accuracy = 1;  // ...this share of them; the others with a number that is wrong
  std::int64_t max_model_len = 32768;
  std::uint64_t seed = 0;
};

// "ttft=20,tpot=5,slots=8,burst=1,draft=2,acceptance=0.7,echo=1,answers=FILE,accuracy=0.9,max_len=N,seed=N", all
// optional. Throws UsageError with the word that is wrong.
ScriptedOptions parse_scripted(std::string_view text);

// Ids 0 to 255 are bytes, 256 ends a text.
const Tokenizer& byte_tokenizer();

// Throws UsageError where the answers can not be read.
std::unique_ptr<Engine> make_scripted_engine(const ScriptedOptions& options);

}  // namespace moecheck::harness
