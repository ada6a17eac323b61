// The adapter of indexer_cache.
#include "optimized/gpu/indexer_cache.h"

#include "harness/implementations/gpu/adapter.h"
#include "harness/operators/indexer_cache.h"

namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND {

const GpuAdapter kIndexerCache = {
    "indexer_cache", [](const Case& c) { return kernels::gpu_indexer_cache_unsupported(cache_layout(c)); },
    [](const GpuCall& call) {
      const Case& c = call.c;
      if (is_gather(c)) {
        const reference::PagedTable table = paged_table(c, call.in);
        kernels::gpu_cp_gather_indexer_k_quant_cache<Backend>(
            cache_layout(c), call.in.view("kv_cache"), table, table.row_stride - c.integer("table_pad"),
            call.out.view("dst_k"), call.out.view("dst_scale"), call.stream);
        return;
      }
      const ConstView k = call.in.view("k");
      kernels::gpu_indexer_k_quant_and_cache<Backend>(indexer_quant(c), cache_layout(c), k, k.shape[1],
                                                      call.in.view("slot_mapping"), tokens_written(c),
                                                      call.out.view("kv_cache"), call.stream);
    }};

}  // namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND
