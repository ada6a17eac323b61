#pragma once
// What the kernels of mla_prepare are given: reference/mla_prepare.h's options, resolved on the host, as plain numbers. Internal.
#include <cstdint>

#include "optimized/fault.h"
#include "reference/mla_prepare.h"

namespace moecheck::MOECHECK_OPTIMIZED {

struct MlaPrepareArgs {
  // Inputs, of T but for the tables, ids and scales.
  const char *q_nope = nullptr, *q_pe = nullptr, *k_nope = nullptr, *k_pe = nullptr;
  const void *positions = nullptr, *slot_mapping = nullptr, *cos = nullptr, *sin = nullptr;
  const float *q_scale = nullptr, *k_scale = nullptr;  // or nullptr: 1
  char *q_out = nullptr, *kv_cache = nullptr;
  char *k_pe_out = nullptr, *decode_q_pe_out = nullptr, *q_nope_zeros_out = nullptr;  // or nullptr
  std::uint32_t query_rows = 0, key_rows = 0;  // tokens * heads, rows * kv_heads
  std::uint32_t heads = 1, kv_heads = 1, tokens = 0, decode_tokens = 0, zero_tokens = 0;
  std::int32_t nope_dim = 0, rope_dim = 0, table_width = 0;
  std::int64_t max_positions = 0;
  // The cache: block_size slots a block; block_stride bytes from one block (of one head, if preshuffled) to the next.
  std::int64_t slots = 0, block_size = 1, block_stride = 0;
  reference::DType dtype{}, table_dtype{}, q_dtype{}, cache_dtype{};
  reference::DType product_dtype{}, result_dtype{};  // what the rotation rounds to; kF32: not
  bool preshuffled = false;
  bool neox = false, full_table = false;
  bool divides = false;  // by the scale; else times its reciprocal
  bool nope_saturates = true, rope_saturates = true;
  bool skips_padded = false;  // query rows without a slot are left as they are
  bool positions_are_64_bit = false, slots_are_64_bit = false;
  // Why rows are handled by single channels, or nullptr: 8 at a time.
  const char* not_vectors = nullptr;
};

inline const char* mla_not_vectors(const MlaPrepareArgs& a) {
  if (a.nope_dim % 8 != 0 || a.rope_dim % 16 != 0)
    return "nope_dim is not a multiple of 8, or rope_dim of 16";
  for (const void* p : {static_cast<const void*>(a.q_nope), static_cast<const void*>(a.q_pe),
                        static_cast<const void*>(a.k_nope), static_cast<const void*>(a.k_pe), a.cos, a.sin,
                        static_cast<const void*>(a.q_out), static_cast<const void*>(a.kv_cache),
                        static_cast<const void*>(a.k_pe_out), static_cast<const void*>(a.decode_q_pe_out),
                        static_cast<const void*>(a.q_nope_zeros_out)})
    if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) return "a tensor is not aligned to 16 bytes";
  if (a.block_stride % (8 * size_bytes(a.cache_dtype)) != 0) return "blocks of the cache are not aligned";
  return nullptr;
}

inline MlaPrepareArgs mla_prepare_args(const reference::MlaPrepareInputs& in,
                                       const reference::MlaPrepareOptions& o,
                                       const reference::MlaPrepareOutputs& out) {
  using namespace reference;  // NOLINT
  MlaPrepareArgs a;
  a.q_nope = in.q_nope.as<char>(), a.q_pe = in.q_pe.as<char>();
  a.k_nope = in.k_nope.as<char>(), a.k_pe = in.k_pe.as<char>();
  a.positions = in.positions.data, a.slot_mapping = in.slot_mapping.data;
  a.cos = in.cos.data, a.sin = in.sin.data;
  a.q_scale = in.q_scale.as<float>(), a.k_scale = in.k_scale.as<float>();
  a.q_out = out.q_out.as<char>(), a.kv_cache = out.kv_cache.as<char>();
  a.k_pe_out = out.k_pe_out.as<char>();
  a.decode_q_pe_out = out.decode_q_pe_out.as<char>();
  a.q_nope_zeros_out = out.q_nope_zeros_out.as<char>();
  const auto u32 = [](std::int64_t n) { return static_cast<std::uint32_t>(n); };
  a.heads = u32(o.heads), a.kv_heads = u32(o.kv_heads), a.tokens = u32(in.tokens());
  a.query_rows = u32(in.tokens() * o.heads), a.key_rows = u32(in.rows() * o.kv_heads);
  a.decode_tokens = out.decode_q_pe_out ? u32(out.decode_q_pe_out.shape[0]) : 0;
  a.zero_tokens = out.q_nope_zeros_out ? u32(out.q_nope_zeros_out.shape[0]) : 0;
  a.nope_dim = static_cast<std::int32_t>(o.nope_dim), a.rope_dim = static_cast<std::int32_t>(o.rope.dim);
  a.table_width = static_cast<std::int32_t>(in.cos.shape[1]);
  a.max_positions = in.cos.shape[0];
  a.slots = out.kv_cache.shape.numel() / (o.kv_heads * o.width());
  a.preshuffled = o.layout.order == CacheOrder::kPreshuffled;
  a.block_size = a.preshuffled ? o.layout.block_size : o.layout.block_size / o.kv_heads;
  a.block_stride = o.layout.stride();
  a.dtype = in.q_nope.dtype, a.table_dtype = in.cos.dtype;
  a.q_dtype = out.q_out.dtype, a.cache_dtype = o.layout.dtype;
  const bool per_op = o.rope.rounding == RopeRounding::kPerOp;
  a.product_dtype = per_op ? o.rope.dtype : DType::kF32;
  a.result_dtype = per_op || o.rope.rounding == RopeRounding::kStored ? o.rope.dtype : DType::kF32;
  a.neox = o.rope.style == RopeStyle::kNeox, a.full_table = o.rope.full_table;
  a.divides = o.scaling == CacheScaling::kDivide;
  a.nope_saturates = o.nope_overflow != CastOverflow::kNaN;
  a.rope_saturates = o.rope_overflow != CastOverflow::kNaN;
  a.skips_padded = o.padded == PaddedQuery::kSkip;
  a.positions_are_64_bit = in.positions.dtype == DType::kI64;
  a.slots_are_64_bit = in.slot_mapping.dtype == DType::kI64;
  a.not_vectors = mla_not_vectors(a);
  return a;
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
