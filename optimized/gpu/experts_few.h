#pragma once
// Few slots (decode): memory-bound. A block is there for an expert that has slots, reads its weight rows straight into registers,
// and once for sixteen slots. Where the depth is long its waves share it, a segment each.
#include "optimized/gpu/experts_matrix.h"

namespace moecheck::MOECHECK_OPTIMIZED::experts_kernels {

inline constexpr int kFewWaves = kMostSegments;

// One wave's segment [begin, end) for sixteen slots and two strips. kVectors: a.vectors; nothing stands between the loads then.
template <int W, bool kDown, bool kFp8, bool kVectors>
GPU_DEVICE void multiply_segment(const GemmArgs& a, const SlotRun& run, int first_slot, int column, int begin,
                                 int end, TileC<W> (&sum)[2]) {
  using F = Fragment<W>;
  constexpr int kSteps = kFp8 ? 4 : 2;  // in flight at once; of e4m3 a block
  static_assert(!kFp8 || kSteps * kStepDepth == kScaleBlock);
  std::int64_t x_at[F::kRows], weight_at[2][F::kRows];
  GPU_UNROLL for (int h = 0; h < F::kRows; ++h) {
    const int slot = first_slot + F::row(h);
    x_at[h] = slot < run.count ? x_row(a, run.slots[slot]) * a.x_stride : -1;
    GPU_UNROLL for (int s = 0; s < 2; ++s) weight_at[s][h] =
        (std::int64_t{run.expert} * a.rows + weight_row<kDown>(a, column, s, F::row(h))) * a.depth;
  }
  const bool fnuz = a.weight_dtype == DType::kE4M3FNUZ;
  TileC<W> block[2];
  for (int first = begin; first < end; first += kSteps * kStepDepth) {
    Chunk<kFp8> weight[kSteps][2][F::kRows][F::kChunks];
    GPU_UNROLL for (int step = 0; step < kSteps; ++step) GPU_UNROLL for (int s = 0; s < 2; ++s)
        GPU_UNROLL for (int h = 0; h < F::kRows; ++h) GPU_UNROLL for (int c = 0; c < F::kChunks;
                                                                      ++c) weight[step][s][h][c]
            .load(a.weight, weight_at[s][h], first + step * kStepDepth + F::k() + 8 * c, a.depth, kVectors);
    GPU_UNROLL for (int step = 0; step < kSteps; ++step) {
      TileA<W, BF16Tile> x[2];
      GPU_UNROLL for (int h = 0; h < F::kRows; ++h) GPU_UNROLL for (int c = 0; c < F::kChunks; ++c) {
        Chunk<false> chunk;
        if (x_at[h] >= 0)
          chunk.load(a.x, x_at[h], first + step * kStepDepth + F::k() + 8 * c, a.depth, kVectors);
        set_chunk<W>(x, h, c, chunk.bits);
      }
      GPU_UNROLL for (int s = 0; s < 2; ++s) {
        WeightTiles<W> w;
        GPU_UNROLL for (int h = 0; h < F::kRows; ++h) GPU_UNROLL for (int c = 0; c < F::kChunks; ++c)
            w.set(h, c, weight[step][s][h][c].as_bf16(fnuz));
        GPU_UNROLL for (int half = 0; half < 2; ++half)
            tile_multiply<W>(kFp8 ? block[s] : sum[s], x[half], w.tile[half]);
      }
    }
    if constexpr (kFp8)
      add_block<W, kDown>(a, run, first_slot, column, first / static_cast<int>(kScaleBlock), block, sum);
  }
}

// Grid: slots times a.column_tiles; see find_run().
template <int W, bool kDown, bool kFp8>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kFewWaves* W) few_slots(const GemmArgs a) {
  constexpr int kNumbers = 2 * TileC<W>::kCount;
  GPU_SHARED(LaneMask<W>, found, kFewWaves);
  GPU_SHARED(std::int32_t, list, kFewSlots);
  GPU_SHARED(float, parts, kFewWaves* kNumbers* W);
  const SlotRun run = find_run<W, kFewWaves>(a, found, list);
  if (run.count == 0) return;  // the whole block
  const int segments = segments_of(a.depth), length = segment_length(a.depth), wave = wave_in_block<W>();
  const int strip = static_cast<int>(block_x()) % a.column_tiles * (kFewWaves / segments) + wave / segments;
  const int column = strip * kStripColumns<kDown>, segment = wave % segments, begin = segment * length;
  const int end = begin + length < a.depth ? begin + length : a.depth;
  const int count = GPU_FAULT(kGpuExpertsOneRound) && run.count > kMatrixTile ? kMatrixTile : run.count;
  for (int first = 0; first < count; first += kMatrixTile) {
    TileC<W> sum[2];
    if (column < a.columns) {
      if (a.vectors)
        multiply_segment<W, kDown, kFp8, true>(a, run, first, column, begin, end, sum);
      else
        multiply_segment<W, kDown, kFp8, false>(a, run, first, column, begin, end, sum);
    }
    if (segments > 1) {
      float* mine = parts + wave * kNumbers * W + lane<W>();
      GPU_UNROLL for (int i = 0; i < kNumbers; ++i) mine[i * W] =
          sum[i / TileC<W>::kCount].value[i % TileC<W>::kCount];
      if (!GPU_FAULT(kGpuExpertsMissingBarrier)) block_barrier();
      if (segment == 0) {
        TileC<W> all[2];
        for (int s = 0; s < segments; ++s)
          GPU_UNROLL for (int i = 0; i < kNumbers; ++i) all[i / TileC<W>::kCount]
              .value[i % TileC<W>::kCount] += mine[(s * kNumbers + i) * W];
        if (column < a.columns) store_tiles<W, kDown>(a, run, first, column, all);
      }
      block_barrier();  // before the next slots overwrite what is read here
    } else if (column < a.columns) {
      store_tiles<W, kDown>(a, run, first, column, sum);
    }
  }
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::experts_kernels
