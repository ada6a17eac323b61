#pragma once
// The indexer's paged key cache on GPUs. The operator is specified in reference/indexer_cache.h; the kernels are indexer_cache.cuh.
#include <optional>
#include <string>

#include "optimized/fault.h"
#include "optimized/gpu/types.h"
#include "reference/indexer_cache.h"

namespace moecheck::MOECHECK_OPTIMIZED {

// Why the kernels cannot do this, or nothing. layout.check() has passed.
inline std::optional<std::string> gpu_indexer_cache_unsupported(const reference::CacheLayout& layout) {
  if (reference::size_bytes(layout.dtype) != 1 || layout.quant_block == 0)
    return "layout " + layout.str() + ": the GPU kernels take fp8 with scales";
  if (layout.split != 0)
    return "split=" + std::to_string(layout.split) + ": the indexer's cache has one region";
  if (layout.block_bytes() >= std::int64_t{1} << 31)
    return "blocks of " + std::to_string(layout.block_bytes()) + " bytes: the GPU kernels take up to 2 GiB";
  return std::nullopt;
}

// Both work in memory the device reads, without a workspace, and are asynchronous on `stream`. kv_cache u8 [blocks, layout.stride()].
// Pointers need the alignment of their elements, those to a cache or its parts that of a scale, 4 bytes; with 16 bytes, and strides
// that keep it, rows move 16 bytes at a time.
// Nothing outside the tensors is touched whatever they hold: slots past the cache are skipped as negative ones are, and rows that
// the table leads to no block of the cache are left alone.
// Throw gpu::DeviceError, std::invalid_argument where shapes contradict each other; on the host executor of this OS thread
// gpu::host::Error.

// As optimized::indexer_k_quant_and_cache (optimized/cpu/indexer_cache.h), with the same bits for every policy; kAny divides. k: rows
// of row_stride elements, f32|bf16|f16; slot_mapping i32|i64 [>= tokens]. Of tokens with one slot any wins, each 16 bytes and each
// scale for itself: then, and only then, two runs may differ.
template <class Backend>
void gpu_indexer_k_quant_and_cache(const reference::IndexerQuant& quant, const reference::CacheLayout& layout,
                                   reference::ConstView k, std::int64_t row_stride,
                                   reference::ConstView slot_mapping, std::int64_t tokens,
                                   reference::View kv_cache, gpu::Stream stream);

// As optimized::cp_gather_indexer_k_quant_cache. `columns` of the table's row stride are the table's own. dst_k [N, D] bytes, dst_scale
// [N, 4 D / Q] bytes; rows from cu_seq_lens[R] on are left alone.
template <class Backend>
void gpu_cp_gather_indexer_k_quant_cache(const reference::CacheLayout& layout, reference::ConstView kv_cache,
                                         const reference::PagedTable& table, std::int64_t columns,
                                         reference::View dst_k, reference::View dst_scale,
                                         gpu::Stream stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED
