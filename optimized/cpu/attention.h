#pragma once
// Self-attention of GLM-4-MoE over a paged KV cache (reference/glm4_moe.h is the specification).
#include <cstdint>
#include <span>
#include <vector>

#include "optimized/cpu/aligned.h"
#include "optimized/cpu/options.h"
#include "optimized/cpu/paged_attention.h"
#include "reference/glm4_moe.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// Row r is the token at positions[r] of the sequence whose page_tables[r][p] is its p-th page. Rows of one sequence stand in
// ascending order, and positions below the first of them are in the cache already.
struct RowBatch {
  std::span<const std::int64_t> positions;
  std::span<const std::int32_t* const> page_tables;
  std::int64_t size() const { return static_cast<std::int64_t>(positions.size()); }
};

class Attention {
 public:
  Attention(const reference::Glm4MoeConfig& config, reference::DType dtype, CpuOptions cpu);

  // x, out: rows of padded_columns(hidden) floats; x as stored in T, zeros behind the last column. Writes the rows' keys and
  // values to `layer` of the cache; out is before its rounding to T.
  void run(std::int64_t layer, const reference::AttentionWeights& weights, const float* x, const RowBatch& batch,
           KvCache& cache, float* out);

 private:
  void project_rows(std::int64_t layer, const reference::AttentionWeights& weights, const float* x,
                    const RowBatch& batch, KvCache& cache, std::int64_t begin, std::int64_t rows);
  void norm_and_rotate(float* heads, std::int64_t count, reference::ConstView norm, std::int64_t position) const;

  reference::Glm4MoeConfig config_;
  reference::DType dtype_;
  CpuOptions cpu_;
  std::int64_t x_stride_, qkv_stride_, head_stride_, half_;  // half: rotated pairs of a head
  std::vector<float> cos_, sin_;                             // [max_positions, half]
  AlignedFloats qkv_, heads_;
};

// The operator: x [T, H] in T, positions 0, 1, ... -> out [T, H] in T. The cache is filled `chunk` rows at a time (0: all at
// once), into pages in descending order: neither may change a bit.
void attention(const reference::Glm4MoeConfig& config, const reference::AttentionWeights& weights,
               reference::ConstView x, reference::View out, std::int64_t chunk, CpuOptions cpu = {});

}  // namespace moecheck::MOECHECK_OPTIMIZED
