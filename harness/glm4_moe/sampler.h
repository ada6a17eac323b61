#pragma once
// From logits to a token and to logprobs.
#include <cstdint>
#include <span>

#include "harness/serve/engine.h"

namespace moecheck::harness {

// Greedy: the largest logit, the lowest id among equals. Else softmax of logits / temperature, cut to the top_k likeliest and to
// the smallest set of mass top_p, drawn with a number that depends on (seed, position) alone: the same request gives the same
// tokens whatever else runs, with speculative decoding or without. NaN logits are never chosen; if all are NaN, token 0.
TokenId sample(std::span<const float> logits, const Sampling& sampling, std::int64_t position);

// log softmax of the raw logits: of `id`, and of the `top` likeliest. NaN logits count as -Inf; everything stays finite
// (at least -9999).
TokenLogprob token_logprob(std::span<const float> logits, TokenId id, int top);

}  // namespace moecheck::harness
