#pragma once
// How mqa_logits is cut up: which tokens each row sees, chunks of tokens that are decoded once for all rows that share them, and
// where a token's bytes lie.
#include <cstdint>
#include <vector>

#include "optimized/cpu/options.h"
#include "reference/mqa_logits.h"

namespace moecheck::MOECHECK_OPTIMIZED {

using reference::ConstView;
using reference::DType;
using reference::View;

// Two vectors of 512 bits, and with head_dim 128 half of a first-level cache.
inline constexpr std::int64_t kChunkTokens = 32;

struct TokenChunk {
  std::int64_t request = 0;              // paged
  std::int64_t first_row = 0, rows = 0;  // that may see its tokens
  std::int64_t first = 0, last = 0;      // at most kChunkTokens
};

// A chunk, decoded: values [head_dim][kChunkTokens], scales [kChunkTokens], 0 behind the last token.
struct KeyChunk {
  const float* values = nullptr;
  const float* scales = nullptr;
  std::int64_t head_dim = 0;
  bool dot_in_bf16 = false;
  bool scale_first = false;  // a planted fault: heads are scaled one by one
};

class MqaLogitsPlan {
 public:
  // Throws std::invalid_argument where lengths, table or ids do not fit.
  MqaLogitsPlan(const reference::MqaLogitsOptions& o, const reference::MqaLogitsInputs& in);

  const reference::TokenRange& row(std::int64_t r) const { return rows_[static_cast<std::size_t>(r)]; }
  const std::vector<TokenChunk>& chunks() const { return chunks_; }
  // Codes [head_dim] and scale of token n. False (in planted faults alone): nothing was read.
  bool read(const TokenChunk& chunk, std::int64_t n, std::uint8_t* codes, float& scale) const;

 private:
  void check_paged() const;
  void check_ragged() const;
  void add_chunks(std::int64_t first_row, std::int64_t rows);
  bool read_paged(std::int64_t request, std::int64_t n, std::uint8_t* codes, float& scale) const;

  const reference::MqaLogitsOptions& o_;
  const reference::MqaLogitsInputs& in_;
  reference::CacheLayout layout_;
  std::int64_t table_stride_ = 0;
  std::vector<reference::TokenRange> rows_;
  std::vector<std::int64_t> lengths_;  // paged: tokens of each request
  std::vector<TokenChunk> chunks_;
};

// The topk largest of n logits, from element `first` of a row; ties go to the lower index. Ascending, then -1.
void select_topk(ConstView logits, std::int64_t first, std::int64_t n, std::int64_t topk, std::int32_t* out);

}  // namespace moecheck::MOECHECK_OPTIMIZED
