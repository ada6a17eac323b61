#pragma once
// Self-attention over a paged KV cache, one query row at a time (reference/glm4_moe.h has the equations). Internal.
//
// A page holds kPage consecutive positions of one sequence and layer:
//   keys    [kv_heads][head_dim][kPage]    so that a vector holds the same channel of several positions
//   values  [kv_heads][kPage][columns]     columns = head_dim rounded up to 16, zeros behind
// Everything a row reads is its own sequence's: its result does not depend on other rows, on how its prefix came into the
// cache, or on threads.
#include <cstdint>
#include <span>

#include "optimized/cpu/aligned.h"
#include "optimized/cpu/options.h"

namespace moecheck::MOECHECK_OPTIMIZED {

inline constexpr std::int64_t kPage = 16;  // positions

struct AttentionShape {
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  std::int64_t columns() const { return (head_dim + 15) / 16 * 16; }
  std::int64_t key_floats() const { return kv_heads * head_dim * kPage; }
  std::int64_t value_floats() const { return kv_heads * columns() * kPage; }
};

// Keys and values of all layers in `pages` pages, zero-filled.
class KvCache {
 public:
  KvCache() = default;
  KvCache(const AttentionShape& shape, std::int64_t layers, std::int64_t pages);

  std::int64_t pages() const { return pages_; }
  float* keys(std::int64_t layer, std::int64_t page) { return data_.data() + (layer * pages_ + page) * page_floats_; }
  float* values(std::int64_t layer, std::int64_t page) { return keys(layer, page) + shape_.key_floats(); }
  // k, v [kv_heads * head_dim] of one position.
  void write(std::int64_t layer, std::int64_t page, std::int64_t slot, const float* k, const float* v);

  const AttentionShape& shape() const { return shape_; }

 private:
  AttentionShape shape_;
  std::int64_t pages_ = 0, page_floats_ = 0;
  AlignedFloats data_;
};

struct AttentionRow {
  std::int64_t layer = 0;
  const std::int32_t* page_table = nullptr;  // of the row's sequence
  std::int64_t positions = 0;                // how many it sees, its own included
  const float* q = nullptr;                  // [heads * head_dim]
  bool round_bf16 = false;                   // the weights, before they meet the values
};
// out [heads * head_dim]; scores: scratch of score_floats(positions).
using Attend = void (*)(KvCache& cache, const AttentionRow& row, float* scores, float* out);
Attend attend_row();
inline std::int64_t score_floats(std::int64_t positions) { return (positions + kPage - 1) / kPage * kPage; }

}  // namespace moecheck::MOECHECK_OPTIMIZED
