#pragma once
// Private to the reader: the fields of one completion or chunk, taken from the JSON text in one pass without a tree.
// Streams are one such text per token, so this is most of a load client's own work.
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "harness/http/openai.h"

namespace moecheck::harness::http {

inline constexpr std::size_t kMessageBytes = 300;  // of what a server says, in a message of ours

struct CompletionFields {
  bool choices = false;      // there is such a list
  bool choice = false;       // with something in it
  bool text_given = false;   // choices[0].text
  bool delta_given = false;  // choices[0].delta, an object
  bool message_given = false;
  bool error = false;  // "error" that is not null, or "object": "error"
  // The first field whose JSON type can not be, e.g. "choices[0].text"; empty: none.
  std::string_view wrong_type;
  std::string text, reasoning, finish_reason, model;
  Usage usage;
  std::vector<std::int32_t> token_ids;
  bool token_ids_given = false;
  std::vector<TokenLogprob> logprobs;

  void clear();  // keeps the memory
};

enum class JsonKind { kInvalid, kNotObject, kObject };
JsonKind read_completion(std::string_view json, CompletionFields& fields);

// The server's words from an error body or event: OpenAI's {"error": {"message", "type", "code"}}, {"error": "..."}, vLLM's
// older {"object": "error", "message"}, FastAPI's {"detail"}; else the first bytes of `raw`.
void take_error_object(Error& error, std::string_view raw);

}  // namespace moecheck::harness::http
