#pragma once
// Logits of the sparse-attention indexer (DeepSeek-V3.2, GLM-5): how much each cached token matters to each query.
//
//   logit[r, n] = k_scale[n] * sum_h relu( sum_d q[r, h, d] k[n, d] ) * weights[r, h]          fp32, in any order
//
// q and k are fp8 codes without further scale (q's is folded into the weights), k_scale >= 0 is one fp32 number per token. As it
// is not negative, multiplying it in before relu, after it, per head or once is the same but for rounding: all are allowed for.
//
// Query row r sees the tokens [first, last) of its request:
//   paged    r = i next_n + j, request i:   first = 0,  last = context_lens[i] - next_n + j + 1    lengths 1-D: causal
//                                                        last = context_lens[i, j]                 lengths 2-D
//            token n lies in block block_table[i, n / B] at place n % B, where the CacheLayout says.
//   ragged   first = cu_seqlen_ks[r], last = cu_seqlen_ke[r]: tokens of the contiguous k
// last <= first (also a negative last): the row sees nothing. Token n's logit is in column n, or n - first with `compressed`.
// What the other columns hold is `tail`; columns from `width` on are padding between the rows.
//
// topk_indices[r] names the topk tokens with the largest logits, as n - first, in any order, then -1 where the row sees fewer.
//
// Where q or k of a token that is seen holds a NaN, nothing is promised: relu is fmaxf here (0) and torch's there (NaN).
// Sources: DeepGEMM fp8_mqa_logits and fp8_paged_mqa_logits; aiter op_tests of pa_mqa_logits and fp8_mqa_logits; vLLM
// fp8_mqa_logits_torch and its paged form, topKPerRowPrefill and topKPerRowDecode.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "reference/bounded.h"
#include "reference/cache_layout.h"
#include "reference/tensor.h"

namespace moecheck::reference {

enum class LogitsForm : std::uint8_t { kPaged, kRagged };

// Columns of a row below `width` that belong to no token it sees.
//   kMinusInf    the kernel writes -Inf
//   kPrefilled   the caller has filled them with -Inf, and they still hold it; padding is left alone
//   kUndefined   anything: their readers know the lengths
enum class LogitsTail : std::uint8_t { kMinusInf, kPrefilled, kUndefined };

struct MqaLogitsOptions {
  LogitsForm form = LogitsForm::kPaged;
  CacheLayout
      layout;  // paged: one scale per token (quant_block == head_dim). ragged: dtype and head_dim count
  std::int64_t heads = 0, requests = 0, next_n = 1;  // rows = requests * next_n
  bool lengths_2d = false;
  bool compressed = false;      // ragged
  std::int64_t width = 0;       // columns that logits may have (max_model_len)
  std::int64_t row_stride = 0;  // elements from one row of the output to the next
  LogitsTail tail = LogitsTail::kMinusInf;
  DType dtype = DType::kF32;  // of the output
  bool dot_in_bf16 = false;   // sum_d is stored in bf16 (vLLM's ragged fallback: a bf16 einsum)
  std::int64_t topk = 0;      // 0: no top-k

  std::int64_t rows() const { return requests * next_n; }
};

struct MqaLogitsInputs {
  ConstView q;        // fp8 [rows, heads, head_dim]
  ConstView weights;  // f32 [rows, heads]
  // paged
  ConstView kv_cache;      // u8 [blocks, layout.stride()]
  ConstView block_table;   // i32 [requests, columns]
  ConstView context_lens;  // i32 [requests] or [requests, next_n]
  // ragged
  ConstView k, k_scale;                  // fp8 [tokens, head_dim], f32 [tokens]
  ConstView cu_seqlen_ks, cu_seqlen_ke;  // i32 [rows]
};

// Tokens [first, last) that row r sees, last >= first; `base` is the token of column 0.
struct TokenRange {
  std::int64_t first = 0, last = 0, base = 0;
  std::int64_t size() const { return last - first; }
};
TokenRange tokens_seen(const MqaLogitsOptions& o, const MqaLogitsInputs& in, std::int64_t row);

// The codes [head_dim] and the scale of a token: position n of request i, or row n of k.
float read_token(const MqaLogitsOptions& o, const MqaLogitsInputs& in, std::int64_t request, std::int64_t n,
                 std::uint8_t* codes);

// Why these inputs have no logits (a block table too short, an id outside the cache, a length outside the width, a scale that is
// negative or NaN), with tensor, element, value and remedy; or nothing.
std::optional<std::string> mqa_logits_fault(const MqaLogitsOptions& o, const MqaLogitsInputs& in);

struct MqaLogits {
  std::vector<TokenRange> range;            // of each row
  std::vector<std::vector<Bounded>> logit;  // [row][n - first]
  std::vector<std::vector<std::uint8_t>>
      open;  // the same; 1: a NaN is involved, nothing is promised. Empty: none in the row
};
// Throws std::invalid_argument with mqa_logits_fault's words.
MqaLogits mqa_logits(const MqaLogitsOptions& o, const MqaLogitsInputs& in);

// What is wrong with a row of topk_indices, given the row's logits; or nothing. A token may be missing only if one that was taken
// instead may be as large: value + bound of the taken reaches value - bound of the missing. `near_ties` counts the taken ones that
// need their bounds for it.
std::optional<std::string> topk_fault(const std::vector<Bounded>& logits,
                                      const std::vector<std::uint8_t>& open, const std::int32_t* indices,
                                      std::int64_t topk, std::int64_t* near_ties);
// The tokens with the largest values, ties by the lower index; in ascending order, then -1.
std::vector<std::int32_t> topk_of(const std::vector<Bounded>& logits, std::int64_t topk);

}  // namespace moecheck::reference
