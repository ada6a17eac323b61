// The CPU version of indexer_cache on a case.
#include "harness/implementations/cpu_adapter.h"
#include "harness/operators/indexer_cache.h"
#include "optimized/cpu/indexer_cache.h"

namespace moecheck::harness::adapters::MOECHECK_OPTIMIZED {

namespace cpu = moecheck::MOECHECK_OPTIMIZED;

const CpuAdapter kIndexerCache = {
    "indexer_cache", nothing_unsupported,
    [](const Case& c, const TensorSet& in, TensorSet& out, cpu::CpuOptions options) {
      if (is_gather(c)) {
        const reference::PagedTable table = paged_table(c, in);
        cpu::cp_gather_indexer_k_quant_cache(cache_layout(c), in.view("kv_cache"), table,
                                             table.row_stride - c.integer("table_pad"), out.view("dst_k"),
                                             out.view("dst_scale"), options);
        return;
      }
      const ConstView k = in.view("k");
      cpu::indexer_k_quant_and_cache(indexer_quant(c), cache_layout(c), k, k.shape[1],
                                     in.view("slot_mapping"), tokens_written(c), out.view("kv_cache"),
                                     options);
    }};

}  // namespace moecheck::harness::adapters::MOECHECK_OPTIMIZED
