#pragma once
// Speculative decoding's half of the engine: draft tokens from the MTP layer, for the sequences of a step. Internal.
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "harness/glm4_moe/decoder.h"
#include "harness/glm4_moe/sequence.h"

namespace moecheck::harness {

class Drafter {
 public:
  // Pages for the positions below `positions` of a sequence; false when there are none.
  using Reserve = std::function<bool(Sequence& s, std::int64_t positions)>;

  // Tokens are drawn from the first `vocabulary` logits. Decoder and config must outlive this.
  Drafter(Decoder& decoder, const reference::Glm4MoeConfig& config, std::int64_t vocabulary, int speculate,
          Reserve reserve);

  // Runs the MTP layer over the rows of this step whose next token is known, and leaves up to `speculate` tokens in
  // drafts of the sequences that reached their last token. `hidden`: the step's hidden states, a row per position.
  void propose(const std::deque<std::unique_ptr<Sequence>>& running, const std::vector<float>& hidden);

 private:
  using Drafting = std::vector<std::pair<Sequence*, std::size_t>>;  // and the row its draft comes from

  void draft_tokens(Drafting& drafting, std::vector<float>& out);

  Decoder& decoder_;
  const reference::Glm4MoeConfig& config_;
  std::int64_t vocabulary_;
  int speculate_;
  Reserve reserve_;
};

}  // namespace moecheck::harness
