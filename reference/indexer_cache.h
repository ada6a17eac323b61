#pragma once
// The indexer's key cache: quantize rows of K into a paged fp8 cache, and gather rows of requests out of it.
//
// indexer_k_quant_and_cache, for token t with slot s = slot_mapping[t], group g of Q = layout.quant_block channels:
//
//   amax   = max |k[t, c]| over the group, exact; NaN is passed over
//   a      = max(amax, amax_floor)                       an fp32 number
//   scale  = fl32(a / F)  or  fl32(a * fl32(1 / F))      ScaleOp; F = divisor
//   scale  = 2^ceil(log2(scale))                         ue8m0 only; stored as fp32 all the same
//   code   = fp8(fl32(k / scale))  or  fp8(fl32(k * fl32(1 / scale)))    ValueOp; nearest even, saturating
//
// and code and scale go where the layout says (reference/cache_layout.h). s < 0: the token leaves no trace. Of tokens with the
// same slot one wins, which one is not said, nor that codes and scales are the same token's. With ue8m0 both value ops give the
// same codes, as powers of two divide exactly.
//
// cp_gather_indexer_k_quant_cache copies bytes: row cu_seq_lens[r] + p of dst is position p of request r, which lies in block
// block_table[r][p / B] at token p % B. Rows from cu_seq_lens[R] on are left alone.
//
// Golden vectors and the upstreams' differences: aiter csrc/kernels/cache_kernels.cu, vLLM csrc cache_kernels.cu and
// v1/attention/ops/rocm_aiter_mla_sparse.py, sglang fused_store_index_cache.cuh and act_quant, DeepGEMM's test helper.
#include <array>
#include <cstdint>

#include "reference/cache_layout.h"
#include "reference/tensor.h"

namespace moecheck::reference {

// kAny: an upstream's fast-math, or nobody said. References compute as kDivide; judges accept what either gives.
enum class DivisionOp : std::uint8_t { kDivide, kReciprocal, kAny };
// How the power of two is found. Log2 is fp32's log2f, which rounds to the integer just above a power of two: with fp32 keys
// either exponent is right there (all bf16 and f16 amax agree; proven exhaustively in the tests).
enum class ExponentOp : std::uint8_t { kBits, kLog2 };
// Codes of NaN elements, and of all elements of a group with Inf.
//   kOpen     nothing is promised for the group
//   kCode     amax passes NaN over; NaN gets a NaN code; with Inf the scale is Inf, finite elements get +-0 and Inf a NaN code
//   kClamped  the same, but a clamp by max(x, -F) before the conversion turns NaN into the largest negative code
enum class NonFiniteKeys : std::uint8_t { kOpen, kCode, kClamped };

struct IndexerQuant {
  DType fp8 = DType::kE4M3FN;  // or kE4M3FNUZ
  double divisor = 448;        // F: at most the largest code
  double amax_floor = 1e-4;    // rounded to fp32
  bool ue8m0 = false;
  DivisionOp scale_op = DivisionOp::kDivide, value_op = DivisionOp::kDivide;
  ExponentOp exponent = ExponentOp::kBits;
  NonFiniteKeys non_finite = NonFiniteKeys::kOpen;
};

// The scales a group may have: one, or more where the options leave it open.
struct GroupScale {
  std::array<float, 4> scale{};  // [0] is what the reference stores
  int count = 0;
  bool finite = true;  // all elements are

  bool holds(float s) const;  // bit for bit
};
GroupScale group_scale(const IndexerQuant& q, const float* k, std::int64_t n);
// The code of one element; kAny divides.
std::uint8_t indexer_code(const IndexerQuant& q, DivisionOp op, float k, float scale);
// Whether an implementation with these options may give `code`: exactly one may, or with kAny those between which a quotient
// within 2^-22 (relative) of k / scale rounds.
bool may_be_code(const IndexerQuant& q, float k, float scale, std::uint8_t code);

// Codes [n] and scales [n / group] of one row.
void quantize_row(const IndexerQuant& q, std::int64_t group, const float* k, std::int64_t n,
                  std::uint8_t* codes, float* scales);
// Puts a row where the layout says. cache: the bytes of all blocks.
void put_row(const CacheLayout& layout, std::uint8_t* cache, std::int64_t slot, const std::uint8_t* codes,
             const float* scales);
void get_row(const CacheLayout& layout, const std::uint8_t* cache, std::int64_t slot, std::uint8_t* codes,
             float* scales);

// k: rows of row_stride elements, of which the first layout.head_dim count. Tokens [0, tokens) are written in order.
// Precondition: slots < blocks * block_size.
void indexer_k_quant_and_cache(const IndexerQuant& q, const CacheLayout& layout, ConstView k,
                               std::int64_t row_stride, ConstView slot_mapping, std::int64_t tokens,
                               std::uint8_t* kv_cache);

struct PagedTable {
  ConstView block_table;        // i32 [R, row_stride]
  std::int64_t row_stride = 0;  // of block_table, in elements
  ConstView cu_seq_lens;        // i32 [R + 1], from 0, ascending
};
// The slot of row t of dst, or -1 for rows from cu_seq_lens[R] on.
std::int64_t gathered_slot(const PagedTable& table, std::int64_t block_size, std::int64_t t);
// dst_k [N, D] bytes, dst_scale [N, 4 D / Q] bytes.
void cp_gather_indexer_k_quant_cache(const CacheLayout& layout, const std::uint8_t* kv_cache,
                                     const PagedTable& table, std::int64_t rows, std::uint8_t* dst_k,
                                     std::uint8_t* dst_scale);

}  // namespace moecheck::reference
