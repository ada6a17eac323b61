#pragma once
// Parts of the contract of indexer_cache (reference/indexer_cache.h), one file each; and paged caches for its consumers.
#include <functional>
#include <string>
#include <vector>

#include "harness/operators/common.h"
#include "reference/indexer_cache.h"

namespace moecheck::harness {

// ---- Paged caches (also for mqa_logits)

// A valid paged cache: requests of `lengths` tokens (0: an empty request), their blocks scattered over the pool.
struct PagedCache {
  reference::CacheLayout layout;
  std::vector<std::int64_t> lengths;  // tokens of each request
  std::int64_t blocks = 0;            // of the pool, at least 1; below blocks_needed() requests share blocks
  std::int64_t columns = 0;           // of the block table: at least columns_needed()
  bool share_prefix =
      false;  // every second request starts with the full blocks of the one before (prefix cache)

  std::int64_t columns_needed() const;  // blocks of the longest request
  std::int64_t blocks_needed() const;   // by all together, nothing shared
};

// Block table [R, row stride] i32: distinct blocks in random order, shared ones with share_prefix. Entries that belong to no token
// hold ids that must not be followed: -1, the largest int, another request's block. `table` may be wider than p.columns (a
// narrowed view): the rest holds blocks of others, which a wrong row stride would follow.
void fill_block_table(const PagedCache& p, const Random& random, View table);
// The slot of position `position` of request r: block * block_size + token.
std::int64_t slot_of(const PagedCache& p, ConstView table, std::int64_t r, std::int64_t position);

// K of a slot, as fp32 numbers: rows belong to slots, not to requests, as requests may share blocks. n = layout.head_dim.
using SlotRow = std::function<void(std::int64_t slot, std::span<float> row)>;
// Random bytes in the whole cache (poison: NaN codes, wild scales), then the quantized rows of every slot that a request
// reads. `kv_cache` is u8 [blocks, layout.stride()]; table as filled above.
void fill_paged_cache(const PagedCache& p, const reference::IndexerQuant& quant, const Random& random,
                      const SlotRow& row, ConstView table, Tensor& kv_cache);
// Random bytes in all of a tensor.
void fill_bytes(Tensor& tensor, const Random& random);

// ---- The operator

bool is_gather(const Case& c);
reference::CacheLayout cache_layout(const Case& c);
reference::IndexerQuant indexer_quant(const Case& c);
// form=gather: tokens of each request, which add up to tokens - extra_rows; some have none.
std::vector<std::int64_t> request_lengths(const Case& c);
PagedCache paged_cache(const Case& c);
std::int64_t pool_blocks(const Case& c);
// form=quantize: how many tokens are looked at.
std::int64_t tokens_written(const Case& c);
reference::PagedTable paged_table(const Case& c, const TensorSet& inputs);

// A slot that form=quantize writes: by its last token. Undefined: by several, or the dummy slot.
struct WrittenSlot {
  std::int64_t slot = 0, token = 0;
  bool undefined = false;
};
std::vector<WrittenSlot> written_slots(const Case& c, const TensorSet& inputs);  // by slot, each once
// The slot of each row of dst; -1 from cu_seq_lens[R] on.
std::vector<std::int64_t> gathered_slots(const reference::PagedTable& table, std::int64_t block_size,
                                         std::int64_t rows);

struct IndexerCacheExpected final : Expected {
  std::vector<std::uint8_t> cache;             // form=quantize: all bytes
  std::vector<std::uint8_t> dst_k, dst_scale;  // form=gather
};

// Why no implementation can run the case, with the remedy.
std::optional<std::string> indexer_cache_refusal(const Case& c);
void generate_indexer_cache(const Case& c, TensorSet& inputs);
std::optional<std::string> bad_indexer_input(const Case& c, const TensorSet& inputs);
void judge_indexer_cache(const Case& c, const TensorSet& inputs, const IndexerCacheExpected& expected,
                         const TensorSet& outputs, Judgement& j);
std::string indexer_cache_cause(const Case& c, const TensorSet& inputs, const IndexerCacheExpected& expected,
                                const TensorSet& outputs);
void blank_indexer_cache(const Case& c, const TensorSet& inputs, TensorSet& outputs);
std::span<const Relation> indexer_cache_relations();
std::vector<Case> indexer_cache_cases(Suite suite);

}  // namespace moecheck::harness
