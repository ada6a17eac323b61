#pragma once
// The indexer's paged key cache: reference/indexer_cache.h says what is computed. Bit exact for every policy; kAny divides.
//
// Nothing outside the tensors is touched whatever they hold: a slot past the cache, a block table that is too short or lengths that
// descend throw std::invalid_argument, naming the element, before anything is written.
#include "optimized/cpu/options.h"
#include "reference/indexer_cache.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// k: tokens rows of row_stride elements (f32, bf16, f16). slot_mapping i32 or i64 [>= tokens]; negative: skipped. kv_cache u8
// [blocks, layout.stride()], updated in place. Of tokens with one slot the last wins, whatever the number of threads.
void indexer_k_quant_and_cache(const reference::IndexerQuant& quant, const reference::CacheLayout& layout,
                               reference::ConstView k, std::int64_t row_stride,
                               reference::ConstView slot_mapping, std::int64_t tokens,
                               reference::View kv_cache, CpuOptions options);

// dst_k [N, D] of a 1-byte dtype, dst_scale f32 [N, D / Q] or u8 [N, 4 D / Q]. Rows from cu_seq_lens[R] on keep what they hold.
// `columns`: how many entries a row of the block table has, at most table.row_stride.
void cp_gather_indexer_k_quant_cache(const reference::CacheLayout& layout, reference::ConstView kv_cache,
                                     const reference::PagedTable& table, std::int64_t columns,
                                     reference::View dst_k, reference::View dst_scale, CpuOptions options);

}  // namespace moecheck::MOECHECK_OPTIMIZED
