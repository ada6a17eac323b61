#pragma once
// One running request of the engine. Internal.
#include <cstdint>
#include <optional>
#include <vector>

#include "harness/glm4_moe/page_pool.h"
#include "harness/serve/engine.h"

namespace moecheck::harness {

struct Sequence {
  GenerationRequest request;
  OnUpdate on_update;

  std::vector<TokenId> tokens;  // the prompt and what was generated
  std::vector<TokenId> drafts;  // proposed for the positions behind them
  std::vector<std::int32_t> pages;
  std::int64_t computed = 0;   // positions whose keys and values are in the cache (without drafts)
  std::int64_t published = 0;  // full pages that were offered for sharing
  std::int64_t cached = 0;     // prompt positions that came from the prefix cache
  std::vector<TokenLogprob> prompt_logprobs;
  bool told_cached = false, counted = false;

  std::optional<GenerationUpdate> update;  // of this step, not delivered yet

  // Of this step: rows [first_row, first_row + rows) are positions computed, computed + 1, ...
  std::int64_t first_row = 0, rows = 0, before = 0;  // before: computed, when the step began

  std::int64_t prompt() const { return static_cast<std::int64_t>(request.prompt.size()); }
  std::int64_t length() const { return static_cast<std::int64_t>(tokens.size()); }
  std::int64_t generated() const { return length() - prompt(); }
  // Token at a position of this step: known, or drafted.
  TokenId token(std::int64_t position) const {
    return position < length() ? tokens[static_cast<std::size_t>(position)]
                               : drafts[static_cast<std::size_t>(position - length())];
  }
  // Whether this step reaches the last known token, so that new ones come out of it.
  bool samples() const { return computed + rows >= length(); }
};

}  // namespace moecheck::harness
