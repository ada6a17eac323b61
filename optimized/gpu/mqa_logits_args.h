#pragma once
// What the kernels of mqa_logits are given: options and views, resolved on the host, as plain numbers. Internal.
#include <bit>
#include <cstdint>

#include "optimized/fault.h"
#include "reference/mqa_logits.h"

namespace moecheck::MOECHECK_OPTIMIZED {

struct MqaLogitsArgs {
  const std::uint8_t* q = nullptr;            // [rows, heads, head_dim]
  const float* weights = nullptr;             // [rows, heads]
  const std::uint8_t* keys = nullptr;         // the cache, or k
  const std::uint8_t* key_scales = nullptr;   // ragged: f32 [tokens]
  const std::int32_t* block_table = nullptr;  // paged [requests, table_columns]
  const std::int32_t* starts = nullptr;       // ragged [rows]
  const std::int32_t* lengths = nullptr;      // ragged [rows], paged [requests] or [rows]
  void* logits = nullptr;
  std::int32_t* topk_indices = nullptr;
  std::int64_t rows = 0, row_stride = 0, table_columns = 0;
  std::int64_t block_stride = 0,
               scales_at = 0;  // bytes: from block to block; from a block's first byte to its scales
  std::int32_t width = 0, heads = 0, head_dim = 0, next_n = 1, topk = 0;
  std::int32_t block_size = 1, block_shift = -1;  // log2 of block_size, or -1
  std::int32_t piece_stride = 16;                 // bytes from 16 values of a token to the next 16
  bool paged = false, lengths_2d = false, compressed = false, preshuffled = false;
  bool fills = false;  // -Inf in columns of no token
  bool logits_bf16 = false, dot_in_bf16 = false, fnuz = false;
};

inline MqaLogitsArgs mqa_logits_args(const reference::MqaLogitsOptions& o,
                                     const reference::MqaLogitsInputs& in, reference::View logits,
                                     reference::View topk_indices) {
  using namespace reference;  // NOLINT
  MqaLogitsArgs a;
  a.paged = o.form == LogitsForm::kPaged;
  a.q = in.q.as<std::uint8_t>();
  a.weights = in.weights.as<float>();
  a.keys = a.paged ? in.kv_cache.as<std::uint8_t>() : in.k.as<std::uint8_t>();
  a.key_scales = a.paged ? nullptr : in.k_scale.as<std::uint8_t>();
  a.block_table = in.block_table.as<std::int32_t>();
  a.starts = in.cu_seqlen_ks.as<std::int32_t>();
  a.lengths = a.paged ? in.context_lens.as<std::int32_t>() : in.cu_seqlen_ke.as<std::int32_t>();
  a.logits = logits.data;
  a.topk_indices = o.topk > 0 ? topk_indices.as<std::int32_t>() : nullptr;
  a.rows = o.rows();
  a.row_stride = o.row_stride;
  a.table_columns = a.paged ? in.block_table.shape[1] : 0;
  a.block_stride = o.layout.stride();
  a.scales_at = o.layout.value_bytes();
  const auto number = [](std::int64_t v) { return static_cast<std::int32_t>(v); };
  a.width = number(o.width);
  a.heads = number(o.heads);
  a.head_dim = number(o.layout.head_dim);
  a.next_n = number(o.next_n);
  a.topk = number(o.topk);
  a.block_size = number(o.layout.block_size);
  const auto size = static_cast<std::uint32_t>(a.block_size);
  a.block_shift = std::has_single_bit(size) ? std::countr_zero(size) : -1;
  a.preshuffled = a.paged && o.layout.order == CacheOrder::kPreshuffled;
  a.piece_stride = a.preshuffled ? 256 : 16;
  a.lengths_2d = o.lengths_2d;
  a.compressed = o.compressed;
  a.fills = o.tail == LogitsTail::kMinusInf;
  a.logits_bf16 = o.dtype == DType::kBF16;
  a.dot_in_bf16 = o.dot_in_bf16;
  a.fnuz = o.layout.dtype == DType::kE4M3FNUZ;
  return a;
}

// The widest words, 16, 4 or 1 bytes, at which all rows of q and K may be read.
inline int mqa_word_bytes(const MqaLogitsArgs& a) {
  const auto all_multiples = [&](std::uintptr_t bytes) {
    std::uintptr_t any = reinterpret_cast<std::uintptr_t>(a.q) | reinterpret_cast<std::uintptr_t>(a.keys) |
                         static_cast<std::uintptr_t>(a.head_dim);
    if (a.paged) any |= static_cast<std::uintptr_t>(a.block_stride);
    return any % bytes == 0;
  };
  return all_multiples(16) ? 16 : all_multiples(4) ? 4 : 1;
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
