#pragma once
// The step before MLA attention: rotate the rope parts of q and k, put nope and rope parts side by side, write k to the cache.
//
//   query row t, head h      q_out[t, h] = [ q_nope[t, h] | rope(q_pe[t, h], p) ]                  p = positions[t]
//   key row t, head g        k = [ k_nope[t, g] | rope(k_pe[t, g], p) ]      cache[slot_mapping[t], g] = k * fl32(1 / k_scale)
//
// Every number is cast to the dtype where it lands. There are `tokens` query rows and at least as many key rows: those from
// `tokens` on ("prefill") were rotated before and are not rotated again. k_pe_out holds the rope part of k before the scale;
// decode_q_pe_out and q_nope_zeros_out, of the first n tokens, hold the rope part of q and zeros.
//
//   slot < 0      k is not written, its row of k_pe_out is undefined; of q PaddedQuery says what happens
//   equal slots   one of the tokens wins; which one, byte by byte, is undefined
//   cast          nearest even. Past the largest fp8 number CastOverflow decides. From a dtype to itself, unscaled: a copy
//   cache         [blocks, block_size, kv_heads, D] row_major, [blocks, kv_heads, block_size, D] preshuffled; D = nope + rope.
//                 Offsets are CacheLayout's alone, of the row that cache_row() names
//
// concat_mla_absorb_q is q_out without a rotation: a copy of bytes. The cat-skip of sglang goes one step further: it takes q_cat,
// where both parts lie side by side already, for q_all: the same memory, with the same strides.
//
// Sources: aiter fusions/fused_kv_cache.py (Triton) and csrc/kernels/cache_kernels.cu (HIP), sgl-kernel concat_mla, vLLM
// concat_mla_q, concat_and_cache_mla; sglang's nsa backend for the cat-skip.
#include <cstdint>

#include "reference/cache_layout.h"
#include "reference/rope.h"
#include "reference/tensor.h"

namespace moecheck::reference {

//   kReciprocal   x * fl32(1 / scale)     aiter
//   kDivide       x / scale               vLLM
//   kAny          either, or an approximate division
enum class CacheScaling : std::uint8_t { kReciprocal, kDivide, kAny };
//   kCompute   as any other row: its position must be valid     aiter Triton, vLLM
//   kSkip      left as it is                                    aiter HIP
//   kClamp     computed, with positions clamped to the table    aiter HIP with compute_all_q_rope
enum class PaddedQuery : std::uint8_t { kCompute, kSkip, kClamp };
// Of numbers past the largest of an fp8 format, Inf included. NaN always gives NaN, but for kAny, which leaves both open.
enum class CastOverflow : std::uint8_t { kSaturate, kNaN, kAny };

struct MlaPrepareOptions {
  std::int64_t heads = 1, kv_heads = 1;
  std::int64_t nope_dim = 512;
  RopeOptions rope;  // rope.dim: width of the rope part
  CacheScaling scaling = CacheScaling::kReciprocal;
  CastOverflow nope_overflow = CastOverflow::kSaturate, rope_overflow = CastOverflow::kSaturate;
  PaddedQuery padded = PaddedQuery::kCompute;
  CacheLayout layout;  // see mla_cache_layout
  // What wrong implementations do, to recognize them by. Right: both parts are scaled, prefill rows are not rotated, tokens
  // stand before heads in a row-major block, and rotation begins at nope_dim.
  bool scale_nope = true, scale_rope = true, rope_prefill = false, heads_first = false;
  std::int64_t rotate_from = -1;  // -1: nope_dim

  std::int64_t width() const { return nope_dim + rope.dim; }
  CastOverflow overflow(std::int64_t channel) const {
    return channel < nope_dim ? nope_overflow : rope_overflow;
  }
};

// The layout of one cache of kv_heads heads; row_major takes the heads of a token for rows of its block.
CacheLayout mla_cache_layout(CacheOrder order, DType dtype, std::int64_t block_size, std::int64_t kv_heads,
                             std::int64_t nope_dim, std::int64_t rope_dim);
// The slot of that layout which holds head `head` of cache slot `slot`.
std::int64_t cache_row(const MlaPrepareOptions& options, std::int64_t slot, std::int64_t head);

struct MlaPrepareInputs {
  ConstView q_nope, q_pe;      // T [tokens, heads, nope_dim], [tokens, heads, rope_dim]
  ConstView k_nope, k_pe;      // T [rows, kv_heads, nope_dim], [rows, kv_heads, rope_dim]; rows >= tokens
  ConstView positions;         // i64 or i32 [tokens], rows of the tables
  ConstView cos, sin;          // [max_positions, rope_dim or half of it]
  ConstView slot_mapping;      // i64 or i32 [rows]
  ConstView k_scale, q_scale;  // f32 [1]; absent: 1
  std::int64_t tokens() const { return q_nope.shape[0]; }
  std::int64_t rows() const { return k_nope.shape[0]; }
};
// k_pe_out, decode_q_pe_out, q_nope_zeros_out may be absent; the first dimension of the last two says how many tokens they are for.
struct MlaPrepareOutputs {
  View q_out, kv_cache, k_pe_out, decode_q_pe_out, q_nope_zeros_out;
};

// Whether the query row of a token is defined.
bool has_query(const MlaPrepareInputs& in, const MlaPrepareOptions& o, std::int64_t t);
// Rows before any scale and cast, [nope_dim + rope_dim]. Precondition of query_row: has_query; of key_row: slot >= 0.
void query_row(const MlaPrepareInputs& in, const MlaPrepareOptions& o, std::int64_t t, std::int64_t head,
               Bounded* out);
void key_row(const MlaPrepareInputs& in, const MlaPrepareOptions& o, std::int64_t t, std::int64_t head,
             Bounded* out);
// x / scale, as `scaling` says.
Bounded scaled(CacheScaling scaling, const Bounded& x, double scale);
// What the cache holds of channel c of a key row, before the cast.
Bounded cached(const MlaPrepareInputs& in, const MlaPrepareOptions& o, std::int64_t c, const Bounded& k);

// All of it, rounded. Undefined rows are left alone; of tokens with the same slot the last wins. Precondition: slots lie in the
// cache, positions that are read in the tables.
void mla_prepare(const MlaPrepareInputs& in, const MlaPrepareOptions& o, const MlaPrepareOutputs& out);
// q_nope [T, H, n], q_pe [T, H, p] -> out [T, H, n + p], all of one dtype: bytes.
void concat_mla_absorb_q(ConstView q_nope, ConstView q_pe, View out);

}  // namespace moecheck::reference
