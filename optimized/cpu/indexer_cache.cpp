#include "optimized/cpu/indexer_cache.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "optimized/cpu/indexer_cache_row.h"
#include "optimized/cpu/machine_faults.h"
#include "optimized/cpu/thread_pool.h"

namespace moecheck::MOECHECK_OPTIMIZED {
namespace {

using reference::CacheLayout;
using reference::CacheOrder;
using reference::IndexerQuant;
using reference::PagedTable;

[[noreturn]] void refuse(const std::string& why) { throw std::invalid_argument("indexer_cache: " + why); }

// Where rows lie: asked of the layout once, then stepped.
struct Places {
  explicit Places(const CacheLayout& l, bool shuffled_too)
      : layout(l), run(l.run()), runs(l.head_dim / l.run()), scale_bytes(4 * l.scales()), stride(l.stride()) {
    // The bug of vllm#52109: one side does not know that the cache is shuffled.
    if (!shuffled_too) layout.order = CacheOrder::kRowMajor, run = layout.run(), runs = 1;
    step = runs > 1 ? layout.value_offset(0, run) : run;
    rows_adjoin = layout.block_size == 1 || layout.value_offset(1, 0) == layout.head_dim;
    if (fault(Fault::kIndexerPadIgnored)) stride = layout.block_bytes();
  }

  std::int64_t block(std::int64_t id) const {
    const std::int64_t offset = id * stride;
    return fault(Fault::kIndexerOffset24) ? offset & 0xFFFFFF : offset;
  }
  std::int64_t scale(std::int64_t token) const {
    if (fault(Fault::kIndexerScaleInterleaved))
      return token * (layout.head_dim + scale_bytes) + layout.head_dim;
    return layout.scale_offset(token, 0);
  }

  CacheLayout layout;
  std::int64_t run, runs, step = 0, scale_bytes, stride;
  bool rows_adjoin = false;  // tokens of a block follow each other without a gap
};

// Copies runs of 16 bytes between a row and where the layout has them, `step` apart.
template <std::int64_t kRuns>
void copy_runs(std::uint8_t* to, std::int64_t to_step, const std::uint8_t* from, std::int64_t from_step,
               std::int64_t runs) {
  for (std::int64_t i = 0; i < (kRuns > 0 ? kRuns : runs); ++i)
    std::memcpy(to + i * to_step, from + i * from_step, CacheLayout::kTile);
}

// The same past the caches: whole lines of what is more than they hold, and is not read again soon, need not be fetched first.
// `to` is a multiple of 64, and so is what is written.
void stream_runs(std::uint8_t* to, const std::uint8_t* from, std::int64_t from_step, std::int64_t runs) {
#ifdef __SSE2__
  for (std::int64_t i = 0; i < runs; ++i)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i * CacheLayout::kTile),
                     _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * from_step)));
#else
  copy_runs<0>(to, CacheLayout::kTile, from, from_step, runs);
#endif
}

void end_streams() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

// ---- Writing

struct Writer {
  static constexpr std::int64_t kRows = CacheLayout::kTile;  // at once, at most
  static constexpr std::int64_t kLine = 64;                  // bytes
  static constexpr std::int64_t kLarge = 2 << 20;            // bytes of codes: more than a core's own caches

  const IndexerQuant& quant;
  const Places places;
  ConstView k, slot_mapping;
  std::int64_t row_stride, tokens, blocks;
  std::uint8_t* cache;
  QuantizeRows quantize;
  std::int64_t threads, parts = 1;
  bool large = tokens * places.layout.head_dim >= kLarge;

  std::int64_t slot(std::int64_t t) const {
    const std::int64_t s = load_id(slot_mapping, t);
    if (fault(Fault::kIndexerNegativeWraps) && s < 0) return blocks * places.layout.block_size - 1;
    if (fault(Fault::kIndexerSkipsSlotZero) && s == 0) return -1;
    if (fault(Fault::kIndexerTailDropped) && tokens >= 8 && t >= tokens / 8 * 8) return -1;
    return s;
  }

  void check() const {
    const std::int64_t slots = blocks * places.layout.block_size;
    std::int64_t most = -1;
    for (std::int64_t t = 0; t < tokens; ++t) most = std::max(most, slot(t));
    for (std::int64_t t = 0; most >= slots && t < tokens; ++t)
      if (slot(t) >= slots)
        refuse("slot_mapping[" + std::to_string(t) + "] = " + std::to_string(slot(t)) +
               " lies past the cache's " + std::to_string(slots) + " slots");
  }

  // Whether no two tokens have one slot, by a bit per slot: looked at a run of slots at a time, as prompts fill blocks in order.
  // A pool that is much larger than the prompt is not worth the memory: false then.
  bool slots_are_distinct() const {
    const std::int64_t slots = blocks * places.layout.block_size;
    if (slots / 64 > tokens) return false;
    std::vector<std::uint64_t> taken(static_cast<std::size_t>(slots / 64 + 1));
    for (std::int64_t t = 0; t < tokens;) {
      const std::int64_t first = slot(t);
      std::int64_t n = 1;
      if (first < 0) {
        ++t;
        continue;
      }
      while (n < 64 - first % 64 && t + n < tokens && slot(t + n) == first + n) ++n;
      const std::uint64_t run = (n == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1) << first % 64;
      std::uint64_t& word = taken[static_cast<std::size_t>(first / 64)];
      if ((word & run) != 0) return false;
      word |= run;
      t += n;
    }
    return true;
  }

  // 16 slots side by side always belong to one part: two tokens of one slot, or of one line of scales, never meet in two threads.
  bool mine(std::int64_t s, std::int64_t part) const {
    if (parts == 1) return s >= 0;
    const std::uint64_t mixed = (static_cast<std::uint64_t>(s >> 4) * 0x9E3779B97F4A7C15ull) >> 32;
    return s >= 0 && static_cast<std::int64_t>((mixed * static_cast<std::uint64_t>(parts)) >> 32) == part;
  }

  // Tokens that follow each other, quantized together.
  struct Batch {
    std::int64_t t = 0, n = 0;
    std::int64_t slots[kRows];
  };

  // The first tokens of this part in [t, end); none: n = 0.
  void find(std::int64_t t, std::int64_t end, std::int64_t part, std::int64_t most, Batch& b) const {
    while (t < end && !mine(slot(t), part)) ++t;
    b.t = t, b.n = 0;
    while (b.n < most && t + b.n < end && mine(b.slots[b.n] = slot(t + b.n), part)) ++b.n;
  }

  // Tokens of this part in [begin, end).
  void write(std::int64_t begin, std::int64_t end, std::int64_t part) const {
    const CacheLayout& l = places.layout;
    const std::int64_t most = std::clamp<std::int64_t>(4096 / l.head_dim, 1, kRows);
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(most * l.head_dim));
    std::vector<float> scales(static_cast<std::size_t>(most * l.scales()));
    const std::int64_t stride = fault(Fault::kIndexerKStrideIgnored) ? l.head_dim : row_stride;
    Batch batch;
    for (find(begin, end, part, most, batch); batch.n > 0; find(batch.t + batch.n, end, part, most, batch)) {
      quantize(quant, l.quant_block, {k, batch.t * stride, stride, batch.n, l.head_dim}, codes.data(),
               scales.data());
      for (std::int64_t i = 0; i < batch.n;)
        i += put(batch.slots + i, batch.n - i, codes.data() + i * l.head_dim, scales.data() + i * l.scales());
      if (fault(Fault::kIndexerThreadsLoseScale) && threads > 1 && batch.t + batch.n == tokens)
        std::memset(scale_of(batch.slots[batch.n - 1]), 0, 1);
    }
    end_streams();
  }

  std::uint8_t* scale_of(std::int64_t s) const {
    return cache + places.block(s / places.layout.block_size) + places.scale(s % places.layout.block_size);
  }

  // Stores the first of these rows, or, where its neighbours in the cache come next, as many as lie in its tile. Returns how many.
  std::int64_t put(const std::int64_t* slots, std::int64_t rows, const std::uint8_t* codes,
                   const float* scales) const {
    const CacheLayout& l = places.layout;
    std::int64_t token = slots[0] % l.block_size, n = 1;
    const std::int64_t room =
        std::min({rows, l.block_size - token, CacheLayout::kTile - token % CacheLayout::kTile});
    while (n < room && slots[n] == slots[0] + n) ++n;
    if (fault(Fault::kIndexerPagesHalved)) token %= (l.block_size + 1) / 2, n = 1;
    std::uint8_t* block = cache + places.block(slots[0] / l.block_size);
    std::uint8_t* values = block + l.value_offset(token, 0);
    put_values(values, n, codes);
    if (fault(Fault::kIndexerScaleInterleaved)) n = 1;
    std::memcpy(block + places.scale(token), scales, static_cast<std::size_t>(n * places.scale_bytes));
    if (fault(Fault::kIndexerClearsPadding) && l.stride() > l.block_bytes()) block[l.block_bytes()] = 0;
    if (fault(Fault::kIndexerClearsNeighbour) && token + n < l.block_size)
      std::memset(block + l.value_offset(token + n, 0), 0, 4);
    return n;
  }

  void put_values(std::uint8_t* to, std::int64_t rows, const std::uint8_t* codes) const {
    const std::int64_t dim = places.layout.head_dim,
                       bytes = rows * (places.rows_adjoin ? dim : CacheLayout::kTile);
    const bool lines = large && bytes % kLine == 0 && reinterpret_cast<std::uintptr_t>(to) % kLine == 0;
    if (places.rows_adjoin) {
      if (lines)
        stream_runs(to, codes, CacheLayout::kTile, bytes / CacheLayout::kTile);
      else
        std::memcpy(to, codes, static_cast<std::size_t>(bytes));
      return;
    }
    for (std::int64_t i = 0; i < places.runs; ++i, to += places.step, codes += CacheLayout::kTile) {
      if (lines)
        stream_runs(to, codes, dim, rows);
      else
        copy_runs<0>(to, CacheLayout::kTile, codes, dim, rows);
    }
  }
};

// ---- Gathering

struct Gatherer {
  const Places places;
  const PagedTable& table;
  std::int64_t columns, requests, blocks, rows;
  const std::uint8_t* cache;
  std::uint8_t *dst_k, *dst_scale;

  std::int64_t cu(std::int64_t r) const { return load_id(table.cu_seq_lens, r); }
  std::int64_t block_id(std::int64_t r, std::int64_t i) const {
    return load_id(table.block_table,
                   r * (fault(Fault::kIndexerTableStride) ? columns : table.row_stride) + i);
  }

  void check() const {
    if (cu(0) != 0) refuse("cu_seq_lens[0] = " + std::to_string(cu(0)) + " must be 0");
    for (std::int64_t r = 0; r < requests; ++r) {
      const std::int64_t length = cu(r + 1) - cu(r), b = places.layout.block_size,
                         needed = (length + b - 1) / b;
      if (length < 0) refuse("cu_seq_lens descends at " + std::to_string(r + 1));
      if (cu(r + 1) > rows)
        refuse("cu_seq_lens[" + std::to_string(r + 1) + "] lies past the " + std::to_string(rows) +
               " rows of dst");
      if (needed > columns) refuse("block_table is too short for request " + std::to_string(r));
      for (std::int64_t i = 0; i < needed; ++i)
        if (const std::int64_t id = load_id(table.block_table, r * table.row_stride + i);
            id < 0 || id >= blocks)
          refuse("block_table[" + std::to_string(r) + ", " + std::to_string(i) + "] = " + std::to_string(id) +
                 " is no block of " + std::to_string(blocks));
    }
  }

  // The request of row t: the last one that begins at or before it, so that empty ones are passed over.
  std::int64_t request_of(std::int64_t t) const {
    std::int64_t low = 0, high = requests;  // cu(low) <= t < cu(high)
    while (high - low > 1) {
      const std::int64_t middle = (low + high) / 2;
      const bool before = fault(Fault::kIndexerRequestOffByOne) ? cu(middle) < t : cu(middle) <= t;
      (before ? low : high) = middle;
    }
    return fault(Fault::kIndexerFirstEight) ? std::min<std::int64_t>(low, 7) : low;
  }

  // Rows [t, t + n) are tokens [token, token + n) of one block.
  void copy(std::int64_t t, std::int64_t n, std::int64_t id, std::int64_t token) const {
    const CacheLayout& l = places.layout;
    std::int64_t base = places.block(id);
    if (fault(Fault::kIndexerTruncatedAddress)) base = base / 16 * 16;
    const std::uint8_t* values = cache + base + l.value_offset(token, 0);
    std::uint8_t* to = dst_k + t * l.head_dim;
    if (places.rows_adjoin) {
      std::memcpy(to, values, static_cast<std::size_t>(n * l.head_dim));
    } else {
      // 128 channels are what there is.
      const auto copy_row = places.runs == 8 ? copy_runs<8> : copy_runs<0>;
      for (std::int64_t row = 0; row < n;) {
        const std::uint8_t* from = cache + base + l.value_offset(token + row, 0);
        const std::int64_t end = std::min(n, row + CacheLayout::kTile - (token + row) % CacheLayout::kTile);
        for (; row < end; ++row, from += CacheLayout::kTile)
          copy_row(to + row * l.head_dim, CacheLayout::kTile, from, places.step, places.runs);
      }
    }
    std::uint8_t* scale = dst_scale + t * places.scale_bytes;
    if (!fault(Fault::kIndexerScaleInterleaved)) {
      std::memcpy(scale, cache + base + places.scale(token),
                  static_cast<std::size_t>(n * places.scale_bytes));
      return;
    }
    for (std::int64_t row = 0; row < n; ++row)
      std::memcpy(scale + row * places.scale_bytes, cache + base + places.scale(token + row),
                  static_cast<std::size_t>(places.scale_bytes));
  }

  void gather(std::int64_t begin, std::int64_t end) const {
    const std::int64_t b = places.layout.block_size;
    for (std::int64_t t = begin; t < end;) {
      const std::int64_t r = request_of(t), p = std::max<std::int64_t>(0, t - cu(r));
      const std::int64_t n = std::min({b - p % b, end - t, std::max<std::int64_t>(cu(r + 1) - t, 1)});
      std::int64_t column = std::min(p / b, columns - 1);
      if (fault(Fault::kIndexerStaleBlockSize)) column /= 2;
      const std::int64_t id = block_id(r, column);
      // Only faults come to blocks that check() has not seen.
      if (id >= 0 && id < blocks) copy(t, n, id, p % b);
      t += n;
    }
  }
};

}  // namespace

void indexer_k_quant_and_cache(const IndexerQuant& quant, const CacheLayout& layout, ConstView k,
                               std::int64_t row_stride, ConstView slot_mapping, std::int64_t tokens,
                               View kv_cache, CpuOptions options) {
  // Below this many tokens a thread's start costs more than it saves.
  constexpr std::int64_t kTokensPerThread = 32, kTokensPerTask = 2048;
  const std::int64_t threads = std::clamp<std::int64_t>(tokens / kTokensPerThread, 1, options.threads);
  Writer w{quant,
           Places(layout, !fault(Fault::kIndexerWritesFlat)),
           k,
           slot_mapping,
           row_stride,
           tokens,
           kv_cache.shape[0],
           kv_cache.as<std::uint8_t>(),
           quantize_rows(),
           threads};
  if (slot_mapping.shape.numel() < tokens) refuse("slot_mapping is shorter than the tokens");
  w.check();
  if (threads == 1 || w.slots_are_distinct()) {
    // Rows that follow each other in memory are read by one thread: that is faster by far than every second sixteen.
    const std::int64_t rows = std::clamp(tokens / threads / 4, kTokensPerThread / 2, kTokensPerTask);
    const std::int64_t step = threads == 1 ? std::max<std::int64_t>(tokens, 1) : rows;
    parallel_for(options.threads, (tokens + step - 1) / step, [&](std::int64_t task, int) {
      w.write(task * step, std::min(tokens, (task + 1) * step), 0);
    });
  } else {
    w.parts = threads;
    parallel_for(options.threads, threads, [&](std::int64_t part, int) { w.write(0, tokens, part); });
  }
  if (fault(Fault::kIndexerModifiesKeys)) modify_first_byte(k);
}

void cp_gather_indexer_k_quant_cache(const CacheLayout& layout, ConstView kv_cache, const PagedTable& table,
                                     std::int64_t columns, View dst_k, View dst_scale, CpuOptions options) {
  constexpr std::int64_t kRowsPerTask = 256;
  const Gatherer g{Places(layout, !fault(Fault::kIndexerReadsFlat)),
                   table,
                   columns,
                   table.cu_seq_lens.shape.numel() - 1,
                   kv_cache.shape[0],
                   dst_k.shape[0],
                   kv_cache.as<std::uint8_t>(),
                   dst_k.as<std::uint8_t>(),
                   dst_scale.as<std::uint8_t>()};
  g.check();
  const std::int64_t rows = g.cu(g.requests), tasks = (rows + kRowsPerTask - 1) / kRowsPerTask;
  parallel_for(options.threads, tasks, [&](std::int64_t task, int) {
    g.gather(task * kRowsPerTask, std::min(rows, (task + 1) * kRowsPerTask));
  });
  // A row without a request finds the first block.
  if (fault(Fault::kIndexerPastRowsWritten))
    for (std::int64_t t = rows; t < g.rows; ++t) g.copy(t, 1, 0, 0);
  if (fault(Fault::kIndexerWritesPastEnd)) write_past_end(dst_k);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED
