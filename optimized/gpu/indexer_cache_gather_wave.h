#pragma once
// The kernel that gathers rows of 128 channels with one scale: 8 pieces of 16 bytes.
//
// A wave has as many rows as lanes, and waits for no other. It finds the request of its first row, all lanes looking at once; then a
// lane each looks its own row up, and has 8 pieces on their way. They are stored row by row: 8 lanes one row, the wave what lies
// together in dst. What is read is read once; what is stored is what the next kernel reads, and caches should rather keep that.
//
// Where tokens of a tile lie 16 bytes apart, a row's pieces are 256 bytes from each other. There the wave reads 16 tokens by 16 lanes,
// whole runs of a tile, and turns the pieces over in shared memory.
#include "optimized/gpu/indexer_cache_gather.h"

namespace moecheck::MOECHECK_OPTIMIZED::indexer_cache_kernels {

inline constexpr int kWaveGatherThreads = 128;
inline constexpr int kRowPieces = 8;

#if defined(MOECHECK_GATHER_ALT)
GPU_DEVICE Bytes16 load_key(const std::uint8_t* p) { return load16(p); }
#else
GPU_DEVICE Bytes16 load_key(const std::uint8_t* p) { return load16_once(p); }
#endif

struct RequestOfRow {
  std::int32_t request, begin;  // its first row
};
// Of the wave's rows `first` and on: the request of this lane's. All lanes come here.
template <int W>
GPU_DEVICE RequestOfRow request_in_wave(const GatherArgs& a, std::int64_t first) {
  const std::int32_t requests = requests_searched(a);
  std::int32_t low = 0, high = requests;
  while (high - low > 1) {  // W parts at a time
    const std::int32_t step = (high - low + W - 1) / W, begin = low + lane<W>() * step;
    const bool looks = begin > low && begin < high;
    const int begun = count_bits(ballot<W>(looks && a.cu_seq_lens[begin] <= first));
    low += begun * step;
    high = high - low < step ? high : low + step;
  }
  const std::int32_t next = low + 1 < requests ? a.cu_seq_lens[low + 1] : INT32_MAX;
  const std::int64_t t = first + lane<W>();
  if (t >= next && !GPU_FAULT(kGpuIndexerOneRequest)) low = request_of(a, t, low + 1, requests);
  return {low, a.cu_seq_lens[low]};
}

template <int W, bool kTiles>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kWaveGatherThreads) gather_128(const GatherArgs a) {
  const std::int64_t first =
      (static_cast<std::int64_t>(block_x()) * (block_dim_x() / W) + wave_in_block<W>()) * W;
  if (first >= a.rows) return;  // the whole wave
  const int me = lane<W>();
  const std::int64_t t = first + me;
  const std::int32_t end = a.cu_seq_lens[a.requests];
  const RequestOfRow of = request_in_wave<W>(a, first);
  Source s;
  if (t < a.rows && t < end) s = source_in(a, of.request, t - of.begin);
  const bool found = s.block >= 0;
  const LaneMask<W> rows = ballot<W>(found);
  const std::int64_t at = s.block + a.places.row(s.token);
  const std::uint32_t scale =
      found ? *reinterpret_cast<const std::uint32_t*>(a.cache + s.block + a.places.scale(s.token)) : 0;

  // Piece j of a lane is stored to row j * kStored + me / 8, as piece me % 8 of that.
  constexpr int kStored = W / kRowPieces;
  const LaneMask<W> stored = rows >> (me / kRowPieces);
  Bytes16 piece[kRowPieces] = {};
  if constexpr (kTiles) {
    // A tile of 16 tokens is kAtOnce of its 8 columns of pieces at a time.
    constexpr int kAtOnce = W / kTile, kTimes = kRowPieces / kAtOnce;
    const std::uint8_t* const column = a.cache + me / kTile * a.places.byte_tile_step;
    GPU_UNROLL for (int tile = 0; tile < W / kTile; ++tile) {
      const int row = tile * kTile + me % kTile;
      const std::int64_t from = shfl<W>(at, row);
      if ((rows >> row & 1) != 0) {
        GPU_UNROLL for (int j = 0; j < kTimes; ++j) piece[tile * kTimes + j] =
            load_key(column + from + j * kAtOnce * a.places.byte_tile_step);
      }
    }
    wave_barrier<W>();  // all loads are on their way before one is waited for
    // Pieces of a row are 8 places next to each other. Which is whose differs from row to row: else the 8 lanes that put at once,
    // or those that take, would meet in the same banks.
    GPU_SHARED(Bytes16, turned, kWaveGatherThreads * kRowPieces);
    Bytes16* const mine = turned + wave_in_block<W>() * (W * kRowPieces);
    Bytes16* const put = mine + me % kTile * kRowPieces;
    const int put_at = (me / kTile ^ me) % kRowPieces, take_at = (me / kRowPieces ^ me) % kRowPieces;
    GPU_UNROLL for (int tile = 0; tile < W / kTile; ++tile) GPU_UNROLL for (int j = 0; j < kTimes; ++j)
        put[tile * kTile * kRowPieces + (put_at ^ j * kAtOnce)] = piece[tile * kTimes + j];
    if (!GPU_FAULT(kGpuIndexerMissingWaveBarrier)) wave_barrier<W>();
    const Bytes16* const take = mine + me / kRowPieces * kRowPieces;
    GPU_UNROLL for (int j = 0; j < kRowPieces; ++j) piece[j] =
        take[j * kStored * kRowPieces + (take_at ^ (j * kStored & (kRowPieces - 1)))];
  } else {
    const std::uint8_t* const column = a.cache + me % kRowPieces * a.places.byte_tile_step;
    GPU_UNROLL for (int j = 0; j < kRowPieces; ++j) {
      const std::int64_t from = shfl<W>(at, j * kStored + me / kRowPieces);
      if ((stored >> j * kStored & 1) != 0) piece[j] = load_key(column + from);
    }
  }
  std::uint8_t* const to = a.dst_k + (first * kRowPieces + me) * kTile;
  GPU_UNROLL for (int j = 0; j < kRowPieces; ++j) if ((stored >> j * kStored & 1) != 0)
      store16(to + j * W * kTile, piece[j]);
  if (found) a.dst_scale[t] = scale;
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::indexer_cache_kernels
