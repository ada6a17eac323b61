#pragma once
// Alignment to GEMM blocks, sorting and permutation (reference/moe_align.h). Counting sorts, slots of an
// expert in ascending order.
#include <cstdint>

#include "optimized/cpu/options.h"
#include "reference/moe_align.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// topk_ids [M, K] or [M*K] i32|i64 -> sorted_token_ids i32 [capacity], filled with M*K; expert_ids i32
// [ceil(capacity / B)], filled with tail_expert; num_tokens_post_padded i32 [1].
void moe_align_block_size(const reference::AlignOptions& options, reference::ConstView topk_ids,
                          reference::View sorted_token_ids, reference::View expert_ids,
                          reference::View num_tokens_post_padded);

// topk_ids [M, K] i32|i64, topk_weights [M, K] f32 -> sorted_ids i32 (bits of the packed u32) and
// sorted_weights f32 [M*K + E*B - K], sorted_expert_ids i32 [ceil(capacity / B)], num_valid_ids i32 [2].
void moe_sorting(const reference::SortingOptions& options, reference::ConstView topk_ids,
                 reference::ConstView topk_weights, reference::View sorted_ids,
                 reference::View sorted_weights, reference::View sorted_expert_ids,
                 reference::View num_valid_ids);

// topk_ids [M, K] i32|i64 -> expert_first_token_offset i64 [E_local + 1], row_of_slot i32 [M*K], slot_of_row
// and m_indices i32 [R], R >= the rows needed: M*K + E_local * (align - 1) always suffices. Entries beyond
// the last row are set to -1 and invalid_expert. Returns the number of rows.
std::int64_t permute(const reference::PermuteOptions& options, reference::ConstView topk_ids,
                     reference::View expert_first_token_offset, reference::View row_of_slot,
                     reference::View slot_of_row, reference::View m_indices);

// hidden_states [M, H], slot_of_row i32 [R] -> permuted [R, H], same dtype; rows with slot -1 keep what
// `permuted` holds.
void permute_rows(const reference::PermuteOptions& options, reference::ConstView hidden_states,
                  reference::ConstView slot_of_row, reference::View permuted, CpuOptions cpu = {});

// permuted [R, H] f32|bf16|f16, topk_weights [M, K] f32, row_of_slot i32 [M*K] -> out [M, H], rounded once to
// its dtype.
void unpermute(const reference::PermuteOptions& options, reference::ConstView permuted,
               reference::ConstView topk_weights, reference::ConstView row_of_slot, reference::View out,
               CpuOptions cpu = {});

}  // namespace moecheck::MOECHECK_OPTIMIZED
