// tokenizer.json, and what the tokenizer it describes makes of a text.
#include "harness/case.h"
#include "harness/glm4_moe/bpe_tokenizer.h"
#include "scratch.h"
#include "target.h"

using namespace moecheck;

MOECHECK_FUZZ_TARGET(tokenizer_json) {
  static const fuzz::Scratch scratch("tokenizer");
  const std::string path = scratch.write("tokenizer.json", fuzz::text_of(bytes));
  try {
    const auto tokenizer = harness::load_bpe_tokenizer(path, {0});
    for (const harness::TokenId id : tokenizer->encode("Two cats, 3 dogs\n<|end|>\xc3\xa9")) {
      if (id < 0 || id >= tokenizer->vocabulary()) fuzz::broken("an id outside the vocabulary");
      (void)tokenizer->bytes(id);
    }
  } catch (const harness::UsageError&) {
  }
}
