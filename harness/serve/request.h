#pragma once
// Bodies of requests, read and checked. Fields from OpenAI's API reference and, beyond it, vLLM's.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "harness/serve/engine.h"
#include "harness/serve/error.h"

namespace moecheck::harness::serve {

enum class Api : std::uint8_t { kCompletions, kChat };

struct ApiFailure {  // thrown
  ApiError error;
};

struct GenerationSpec {
  Api api = Api::kCompletions;
  std::string model;                          // as the client named it
  std::vector<std::vector<TokenId>> prompts;  // each at least one token long
  std::vector<std::int64_t> max_tokens;       // per prompt
  std::int64_t n = 1;                         // answers per prompt
  bool echo = false;                          // the prompt's text comes first
  int logprobs = -1;                          // alternatives; -1: none are asked for
  bool stream = false, include_usage = false, continuous_usage = false;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  Sampling sampling;
  bool seeded = false;  // sampling.seed comes from the client
};

// What requests are checked against.
struct RequestLimits {
  const Tokenizer* tokenizer = nullptr;
  std::int64_t max_model_len = 0;
  std::vector<std::string> models;
  std::int64_t max_sequences = 1024;
  double default_temperature = 1;
};

// Throws ApiFailure: 400 for what is malformed, out of range or not supported, 404 for a model that is not served.
GenerationSpec parse_generation(Api api, std::string_view body, const RequestLimits& limits);

// POST /tokenize: ids of "prompt" or "messages".
std::vector<TokenId> parse_tokenize(std::string_view body, const RequestLimits& limits, bool& with_texts);
// POST /detokenize: "tokens".
std::vector<TokenId> parse_detokenize(std::string_view body, const RequestLimits& limits);

}  // namespace moecheck::harness::serve
