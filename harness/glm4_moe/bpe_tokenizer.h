#pragma once
// Byte-level BPE as tokenizer.json of Hugging Face's tokenizers describes it.
#include <memory>
#include <string>
#include <vector>

#include "harness/serve/engine.h"

namespace moecheck::harness {

// Reads tokenizer.json: model BPE, byte-level, split by the pattern " ?[A-Za-z]+|[^A-Za-z]" (that of datasets/tiny_glm4_moe);
// special added tokens are recognized in text. Anything else is refused. `end_ids` are the end-of-text tokens. Throws UsageError.
std::unique_ptr<Tokenizer> load_bpe_tokenizer(const std::string& path, std::vector<TokenId> end_ids);

}  // namespace moecheck::harness
