#pragma once
// Many slots (prefill): a block has a run of slots of one expert, up to 64 (e4m3: 32), and 128 weight rows, two strips for each wave.
// 32 elements of depth at a time go through shared memory; the next 32 are on their way in registers meanwhile.
#include "optimized/gpu/experts_matrix.h"

namespace moecheck::MOECHECK_OPTIMIZED::experts_kernels {

inline constexpr int kTileWaves = 4, kTileWeightRows = 2 * kMatrixTile * kTileWaves;
inline constexpr int kStageStride =
    kStepDepth + 8;  // bf16 numbers: rows that are read together lie in different banks

// A thread's part of what a block stages.
template <int W, bool kDown, bool kFp8>
struct Stage {
  static constexpr int kThreads = kTileWaves * W, kPerRow = kStepDepth / 8,
                       kSlots = kFp8 ? kRunSlots / 2 : kRunSlots;
  static constexpr int kX = (kSlots * kPerRow + kThreads - 1) / kThreads,
                       kWeight = kTileWeightRows * kPerRow / kThreads;
  Chunk<false> x[kX];
  Chunk<kFp8> weight[kWeight];
  std::int64_t x_at[kX], weight_at[kWeight];

  static GPU_DEVICE int row(int i) { return (static_cast<int>(thread_x()) + i * kThreads) / kPerRow; }
  static GPU_DEVICE int k() { return static_cast<int>(thread_x()) % kPerRow * 8; }

  GPU_DEVICE void start(const GemmArgs& a, const SlotRun& run, int column) {
    GPU_UNROLL for (int i = 0; i < kX; ++i) x_at[i] =
        row(i) < run.count ? x_row(a, run.slots[row(i)]) * a.x_stride : -1;
    GPU_UNROLL for (int i = 0; i < kWeight; ++i) {
      const int wave = row(i) / (2 * kMatrixTile), strip = row(i) / kMatrixTile % 2;
      const int n = weight_row<kDown>(a, column + wave * kStripColumns<kDown>, strip, row(i) % kMatrixTile);
      weight_at[i] = (std::int64_t{run.expert} * a.rows + n) * a.depth;
    }
  }
  GPU_DEVICE void load(const GemmArgs& a, int first) {
    GPU_UNROLL for (int i = 0; i < kX; ++i) if (x_at[i] >= 0) x[i].load(a.x, x_at[i], first + k(), a.depth,
                                                                        a.vectors);
    GPU_UNROLL for (int i = 0; i < kWeight; ++i) weight[i].load(a.weight, weight_at[i], first + k(), a.depth,
                                                                a.vectors);
  }
  GPU_DEVICE void store(const GemmArgs& a, int first, std::uint16_t* xs, std::uint16_t* ws) {
    GPU_UNROLL for (int i = 0; i < kX; ++i) if (row(i) < kSlots)
        store16(xs + row(i) * kStageStride + k(), x[i].bits);
    if (GPU_FAULT(kGpuExpertsStaleTail) && first > 0 && first + kStepDepth > a.depth) return;
    const bool fnuz = a.weight_dtype == DType::kE4M3FNUZ;
    GPU_UNROLL for (int i = 0; i < kWeight; ++i)
        store16(ws + row(i) * kStageStride + k(), weight[i].as_bf16(fnuz));
  }
};

// c[r] += 32 elements of depth of row tile r times the wave's two strips.
template <int W, int kRowTiles>
GPU_DEVICE void multiply_stage(const std::uint16_t* xs, const std::uint16_t* ws, int row_tiles,
                               TileC<W> (&c)[kRowTiles][2]) {
  using F = Fragment<W>;
  WeightTiles<W> w[2];
  GPU_UNROLL for (int s = 0; s < 2; ++s) GPU_UNROLL for (int h = 0; h < F::kRows; ++h)
      GPU_UNROLL for (int i = 0; i < F::kChunks; ++i) w[s]
          .set(h, i, load16(ws + (s * kMatrixTile + F::row(h)) * kStageStride + F::k() + 8 * i));
  GPU_UNROLL for (int r = 0; r < kRowTiles; ++r) {
    if (r >= row_tiles) break;
    TileA<W, BF16Tile> x[2];
    GPU_UNROLL for (int h = 0; h < F::kRows; ++h) GPU_UNROLL for (int i = 0; i < F::kChunks; ++i)
        set_chunk<W>(x, h, i, load16(xs + (r * kMatrixTile + F::row(h)) * kStageStride + F::k() + 8 * i));
    GPU_UNROLL for (int s = 0; s < 2; ++s) GPU_UNROLL for (int half = 0; half < 2; ++half)
        tile_multiply<W>(c[r][s], x[half], w[s].tile[half]);
  }
}

// Grid: runs of slots times a.column_tiles; blocks behind the last run leave.
template <int W, bool kDown, bool kFp8>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kTileWaves* W) many_slots(const GemmArgs a) {
  constexpr int kSlots = Stage<W, kDown, kFp8>::kSlots, kRowTiles = kSlots / kMatrixTile;
  GPU_SHARED(Bytes16, x_memory, kSlots * kStageStride / 8);
  GPU_SHARED(Bytes16, weight_memory, kTileWeightRows * kStageStride / 8);
  auto *const xs = reinterpret_cast<std::uint16_t*>(x_memory), *const ws = reinterpret_cast<std::uint16_t*>(
                                                                   weight_memory);
  const int mine = static_cast<int>(block_x()) / a.column_tiles;
  if (mine >= *a.run_count) return;  // the whole block
  const SlotRun run{a.runs[3 * mine], a.runs[3 * mine + 2], a.sorted + a.runs[3 * mine + 1]};
  const int row_tiles = (run.count + kMatrixTile - 1) / kMatrixTile, wave = wave_in_block<W>();
  const int first_column = static_cast<int>(block_x()) % a.column_tiles * kTileWaves * kStripColumns<kDown>;
  const int column = first_column + wave * kStripColumns<kDown>, length = segment_length(a.depth);
  TileC<W> part[kRowTiles][2], total[kRowTiles][2], block[kFp8 ? kRowTiles : 1][2];
  Stage<W, kDown, kFp8> stage;
  stage.start(a, run, first_column);
  stage.load(a, 0);
  for (int first = 0; first < a.depth; first += kStepDepth) {
    stage.store(a, first, xs, ws);
    if (!GPU_FAULT(kGpuExpertsMissingBarrier)) block_barrier();
    const int next = first + kStepDepth;
    if (next < a.depth) stage.load(a, next);
    const std::uint16_t* mine_of = ws + wave * 2 * kMatrixTile * kStageStride;
    if constexpr (kFp8) {
      multiply_stage<W>(xs, mine_of, row_tiles, block);
      if (next % kScaleBlock == 0 || next >= a.depth)
        GPU_UNROLL for (int r = 0; r < kRowTiles; ++r) if (r < row_tiles) add_block<W, kDown>(
            a, run, r * kMatrixTile, column, first / static_cast<int>(kScaleBlock), block[r], part[r]);
    } else {
      multiply_stage<W>(xs, mine_of, row_tiles, part);
    }
    if (next % length == 0 || next >= a.depth)
      GPU_UNROLL for (int r = 0; r < kRowTiles; ++r) add_tiles<W>(total[r], part[r]);
    block_barrier();  // before the next step overwrites what others still read
  }
  GPU_UNROLL for (int r = 0; r < kRowTiles; ++r) if (r < row_tiles)
      store_tiles<W, kDown>(a, run, r * kMatrixTile, column, total[r]);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::experts_kernels
