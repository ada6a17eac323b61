// Bodies of requests to the server.
#include "harness/serve/request.h"
#include "harness/serve/scripted_engine.h"
#include "target.h"

using namespace moecheck;
using namespace moecheck::harness::serve;

MOECHECK_FUZZ_TARGET(http_request) {
  const RequestLimits limits{&harness::byte_tokenizer(), 256, {"m"}, 16, 1};
  const std::uint8_t what = fuzz::take_byte(bytes);
  const std::string_view body = fuzz::text_of(bytes);
  try {
    bool with_texts = false;
    if (what % 4 == 0) (void)parse_tokenize(body, limits, with_texts);
    if (what % 4 == 1) (void)parse_detokenize(body, limits);
    if (what % 4 < 2) return;
    const GenerationSpec spec =
        parse_generation(what % 4 == 2 ? Api::kCompletions : Api::kChat, body, limits);
    if (spec.prompts.empty() || spec.prompts.size() != spec.max_tokens.size())
      fuzz::broken("prompts without limits");
    for (const auto& prompt : spec.prompts)
      for (const harness::TokenId id : prompt)
        if (id < 0 || id >= limits.tokenizer->vocabulary()) fuzz::broken("an id outside the vocabulary");
  } catch (const ApiFailure&) {
  }
}
