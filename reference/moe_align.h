#pragma once
// From a token's experts to an expert's rows: alignment to GEMM blocks, sorting, permutation. All integer,
// all exact.
//
// moe_align_block_size: slot s = t*K + k of topk_ids [M, K]
//   cnt_e  = slots with id e          pad_e = ceil(cnt_e / B) * B         num_post = sum_e pad_e
//   sorted_token_ids = the slots of expert 0, padding, the slots of expert 1, padding, ...      padding = M*K
//   expert_ids[b]    = the expert of block b
// The order of slots within an expert is not promised (atomics): alignment_fault() compares sets. Beyond
// num_post nothing may be read, so nothing is asked of it except where the convention fills it.
//
// aiter moe_sorting packs the slot as (k << 24) | t and pads with (K << 24) | M.
//
// Source: sections 4.1, 4.2, 4.7 of the operator notes (vLLM moe_align_sum_kernels.cu,
// moe_permute_unpermute.py; sglang moe_align_block_size.py; aiter moe_sorting).
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "reference/bounded.h"
#include "reference/tensor.h"

namespace moecheck::reference {

// kVllm    E buckets; ids outside [0, E) are skipped; capacity M*K + E*(B-1)
// kSglang  E+1 buckets, bucket 0 for id -1: its slots come first, in blocks with expert -1;
//          capacity M*K + (E+1)*(B-1), or M*K*B when M*K < E+1
enum class AlignConvention : std::uint8_t { kVllm, kSglang };

struct AlignOptions {
  AlignConvention convention = AlignConvention::kVllm;
  std::int64_t experts = 0;       // E, global
  std::int64_t block_size = 16;   // B
  std::int32_t tail_expert = -1;  // what fills expert_ids beyond the last block (0 in older vLLM)
  // vLLM, expert parallelism: expert_map [E], local index or -1. It is applied to expert_ids after alignment,
  // so blocks of other ranks stay, with expert -1; ignore_invalid_experts applies it to the ids first and
  // such slots take no block.
  std::span<const std::int32_t> expert_map;
  bool ignore_invalid_experts = false;

  std::int64_t capacity(std::int64_t numel) const;
};

struct Alignment {
  std::vector<std::int32_t> sorted_token_ids;  // [capacity], filled with M*K
  std::vector<std::int32_t> expert_ids;        // [ceil(capacity / B)]
  std::int32_t num_tokens_post_padded = 0;
};
// topk_ids [M*K]. Slots of an expert in ascending order.
Alignment moe_align_block_size(std::span<const std::int64_t> topk_ids, const AlignOptions& options);
// What is wrong with someone's alignment of topk_ids, or nothing: every valid slot exactly once, in a block
// of its expert; padding equals M*K; experts ascending and contiguous; counts right. `got` may be longer.
std::optional<std::string> alignment_fault(const Alignment& got, std::span<const std::int64_t> topk_ids,
                                           const AlignOptions& options);

// aiter moe_sorting.

inline constexpr std::uint32_t kSortedTokenBits = 24;
constexpr std::uint32_t encode_sorted_id(std::uint32_t k, std::uint32_t token) {
  return k << kSortedTokenBits | token;
}
constexpr std::uint32_t sorted_token(std::uint32_t id) { return id & ((1U << kSortedTokenBits) - 1); }
constexpr std::uint32_t sorted_k(std::uint32_t id) { return id >> kSortedTokenBits; }

struct SortingOptions {
  std::int64_t experts = 0;      // E, shared and sentinel slots included
  std::int64_t topk = 0;         // K
  std::int64_t block_size = 32;  // B
  // [E] 0 or 1; empty: all 1. sorted_expert_ids are local: the mask's running sum
  std::span<const std::int32_t> expert_mask;
  std::int64_t num_local_tokens = -1;  // rows beyond are not sorted; -1: all
};
struct Sorting {
  std::vector<std::uint32_t> sorted_ids;        // [M*K + E*B - K], padding (K << 24) | M
  std::vector<float> sorted_weights;            // parallel; 0 at padding
  std::vector<std::int32_t> sorted_expert_ids;  // [ceil(capacity / B)], tail -1
  std::int32_t num_valid_ids[2] = {0, 0};       // padded count, tokens
};
// Throws std::invalid_argument when M >= 2^24 or K >= 256: they do not fit the packing.
Sorting moe_sorting(std::span<const std::int64_t> topk_ids, std::span<const float> topk_weights,
                    const SortingOptions& options);
std::optional<std::string> sorting_fault(const Sorting& got, std::span<const std::int64_t> topk_ids,
                                         std::span<const float> topk_weights, const SortingOptions& options);

// permute and unpermute.

// How slot (t, k) is numbered in the maps: t*K + k, or t + k*M (the vLLM snapshot's radix sort). topk_weights
// are token-major in both.
enum class SlotIndex : std::uint8_t { kTokenMajor, kKMajor };

struct PermuteOptions {
  std::int64_t topk = 0;                     // K
  std::int64_t experts = 0;                  // E, global
  std::span<const std::int32_t> expert_map;  // [E] local index or -1; empty: all local
  SlotIndex index = SlotIndex::kTokenMajor;
  std::int64_t align = 1;            // each expert's rows start at a multiple of it (grouped GEMM)
  std::int32_t invalid_expert = -1;  // m_indices of padding rows (0 for old DeepGEMM)

  std::int64_t local_experts() const;
  std::int64_t slot(std::int64_t t, std::int64_t k, std::int64_t tokens) const {
    return index == SlotIndex::kTokenMajor ? t * topk + k : t + k * tokens;
  }
};
struct Permutation {
  std::vector<std::int64_t> expert_first_token_offset;  // [E_local + 1], without padding when align is 1
  std::vector<std::int32_t> row_of_slot;                // [M*K] permuted row, -1 for slots that are not local
  std::vector<std::int32_t> slot_of_row;                // [rows] slot, -1 for padding rows
  std::vector<std::int32_t> m_indices;                  // [rows] local expert of each row
  std::int64_t rows() const { return static_cast<std::int64_t>(slot_of_row.size()); }
};
// Stable: rows of an expert in ascending slot number.
Permutation permute(std::span<const std::int64_t> topk_ids, const PermuteOptions& options);
// Row r = hidden_states[token of slot_of_row[r]]; padding rows keep what `permuted` holds.
// [M, H] -> [rows, H], same dtype.
void permute_rows(ConstView hidden_states, const Permutation& permutation, const PermuteOptions& options,
                  View permuted);
// out[t] = sum_k w[t, k] * permuted[row_of_slot(t, k)] in fp32, rows of -1 skipped. topk_weights [M, K] f32.
// Returns [M * H].
std::vector<Bounded> unpermute(ConstView permuted, ConstView topk_weights, const Permutation& permutation,
                               const PermuteOptions& options);

}  // namespace moecheck::reference
