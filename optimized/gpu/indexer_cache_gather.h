#pragma once
// Gathering rows of requests out of the cache: where a row comes from, and the kernel for rows of any size. Rows of 128 channels, which
// is what indexers have, are indexer_cache_gather_wave.h.
//
// A block has a tile of consecutive rows. First a thread per row looks its request up; then all threads copy, 16 bytes a piece and some
// pieces at once, so that the look-up's chain of loads is paid once a row.
#include "optimized/gpu/fault.h"
#include "optimized/gpu/indexer_cache_layout.h"

namespace moecheck::MOECHECK_OPTIMIZED::indexer_cache_kernels {

inline constexpr int kGatherThreads = 256;
inline constexpr int kMostRows = 128;  // of a tile
inline constexpr int kBatch = 4;       // pieces that a thread has on their way

struct GatherArgs {
  const std::uint8_t* cache = nullptr;
  const std::int32_t* block_table = nullptr;  // [requests, table_stride]
  const std::int32_t* cu_seq_lens = nullptr;  // [requests + 1]
  std::uint8_t* dst_k = nullptr;              // [rows, head_dim]
  std::uint32_t* dst_scale = nullptr;         // [rows, scales]
  std::int64_t blocks = 0, table_stride = 0, rows = 0;
  std::int32_t requests = 0, columns = 0;
  std::int32_t scales = 0, pieces = 0;  // of a row
  std::int32_t tile_rows = 0;
  CachePlaces places;
};

// A piece: one load and one store.
template <int kBytes>
struct PieceOf;
template <>
struct PieceOf<16> {
  using type = Bytes16;
  static GPU_DEVICE Bytes16 load(const std::uint8_t* p) { return load16(p); }
  static GPU_DEVICE void store(std::uint8_t* p, Bytes16 v) { store16(p, v); }
};
template <>
struct PieceOf<4> {
  using type = std::uint32_t;
  static GPU_DEVICE std::uint32_t load(const std::uint8_t* p) {
    return *reinterpret_cast<const std::uint32_t*>(p);
  }
  static GPU_DEVICE void store(std::uint8_t* p, std::uint32_t v) { *reinterpret_cast<std::uint32_t*>(p) = v; }
};
template <>
struct PieceOf<1> {
  using type = std::uint8_t;
  static GPU_DEVICE std::uint8_t load(const std::uint8_t* p) { return *p; }
  static GPU_DEVICE void store(std::uint8_t* p, std::uint8_t v) { *p = v; }
};

// Of the requests [low, high) the last that begins at or before row t: empty ones are passed over. low, where none does.
GPU_DEVICE std::int32_t request_of(const GatherArgs& a, std::int64_t t, std::int32_t low, std::int32_t high) {
  while (high - low > 1) {
    const std::int32_t middle = low + (high - low) / 2;
    if (a.cu_seq_lens[middle] <= t)
      low = middle;
    else
      high = middle;
  }
  return low;
}
GPU_DEVICE std::int32_t requests_searched(const GatherArgs& a) {
  return GPU_FAULT(kGpuIndexerFirstWave) && a.requests > 32 ? 32 : a.requests;
}

// Where a row of dst comes from: the offset in the cache of its block, and its token there; block -1 where it has no source.
struct Source {
  std::int64_t block = -1;
  std::int32_t token = 0;
};
GPU_DEVICE Source source_in(const GatherArgs& a, std::int32_t request, std::int64_t position) {
  if (position < 0) return {};
  const auto p = static_cast<std::uint32_t>(position);  // differences of two i32
  const std::uint32_t column = a.places.block_of(p);
  if (column >= static_cast<std::uint32_t>(a.columns)) return {};
  const std::int64_t id = a.block_table[request * a.table_stride + column];
  if (id < 0 || id >= a.blocks) return {};
  return {id * a.places.block_stride,
          static_cast<std::int32_t>(p - column * static_cast<std::uint32_t>(a.places.block_size))};
}
GPU_DEVICE Source source_of(const GatherArgs& a, std::int64_t t) {
  if (t >= a.cu_seq_lens[a.requests]) return {};
  const std::int32_t request = request_of(a, t, 0, requests_searched(a));
  return source_in(a, request, t - a.cu_seq_lens[request]);
}

template <int kBytes>  // of a piece
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kGatherThreads) gather_rows(const GatherArgs a) {
  using Piece = PieceOf<kBytes>;
  GPU_SHARED(std::int64_t, values_at, kMostRows);  // offsets in the cache; -1: no source
  GPU_SHARED(std::int64_t, scales_at, kMostRows);
  const int me = static_cast<int>(thread_x()), pieces = a.pieces, scales = a.scales;
  const std::int64_t first =
      static_cast<std::int64_t>(block_x()) * (GPU_FAULT(kGpuIndexerTileRows) ? kMostRows : a.tile_rows);
  const std::int64_t left = a.rows - first;
  const int rows = left < a.tile_rows ? static_cast<int>(left) : a.tile_rows;
  if (me < rows) {
    const Source s = source_of(a, first + me);
    values_at[me] = s.block < 0 ? -1 : s.block + a.places.row(s.token);
    scales_at[me] = s.block < 0 ? -1 : s.block + a.places.scale(s.token);
  }
  if (!GPU_FAULT(kGpuIndexerMissingBarrier)) block_barrier();

  // Scales are on their way while the values are copied.
  const int words = rows * scales;
  const auto scale_from = [&](int i) {
    const std::int64_t at = scales_at[i / scales];
    return at < 0 ? nullptr : reinterpret_cast<const std::uint32_t*>(a.cache + at) + i % scales;
  };
  const std::uint32_t* from_scale = me < words ? scale_from(me) : nullptr;
  const std::uint32_t scale = from_scale != nullptr ? *from_scale : 0;

  const int total = rows * pieces;
  std::uint8_t* to = a.dst_k + first * pieces * kBytes;
  for (int begin = me; begin < total; begin += kBatch * kGatherThreads) {
    const std::uint8_t* from[kBatch];
    typename Piece::type piece[kBatch];
    GPU_UNROLL for (int j = 0; j < kBatch; ++j) {
      const int i = begin + j * kGatherThreads;
      from[j] = nullptr;
      if (i < total && values_at[i / pieces] >= 0)
        from[j] = a.cache + values_at[i / pieces] + a.places.in_row(i % pieces * kBytes);
    }
    GPU_UNROLL for (int j = 0; j < kBatch; ++j) if (from[j] != nullptr) piece[j] = Piece::load(from[j]);
    GPU_UNROLL for (int j = 0; j < kBatch; ++j) if (from[j] != nullptr)
        Piece::store(to + (begin + j * kGatherThreads) * kBytes, piece[j]);
  }

  std::uint32_t* to_scale = a.dst_scale + first * scales;
  if (from_scale != nullptr) to_scale[me] = scale;
  for (int i = me + kGatherThreads; i < words; i += kGatherThreads)
    if (const std::uint32_t* more = scale_from(i)) to_scale[i] = *more;
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::indexer_cache_kernels
