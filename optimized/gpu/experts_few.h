#pragma once
// Few slots (decode): memory-bound. A block is there for an expert that has slots, reads its weight rows straight into registers,
// and once for sixteen slots. Where the depth is long its waves share it, a segment each. The first weights are on their way before
// the block knows which slots it has, and some steps of depth (kFewInFlight) are all the time. Two passes through experts can share a launch.
#include "optimized/gpu/experts_matrix.h"

namespace moecheck::MOECHECK_OPTIMIZED::experts_kernels {

inline constexpr int kFewWaves = kMostSegments, kFewSteps = 4;
static_assert(kFewSteps * kStepDepth == kScaleBlock);
template <bool kFp8>
constexpr int kFewInFlight = kFp8 ? 4 : 2;  // more does not fit into the registers of two blocks

// Two blocks of an SM, so that one computes while the other waits.
#if defined(GPU_BACKEND_CUDA)
#define EXPERTS_FEW_BOUNDS(threads) __launch_bounds__(threads, 2)
#else
#define EXPERTS_FEW_BOUNDS(threads) GPU_LAUNCH_BOUNDS(threads)
#endif

// The blocks of gemm[0], then those of gemm[1].
struct GemmPair {
  GemmArgs gemm[2];
  unsigned first_blocks = 0;
};

// What a lane has of the next steps of two strips. kVectors: a.vectors; nothing stands between the loads then.
template <int W, bool kDown, bool kFp8, bool kVectors>
struct FewWeights {
  using F = Fragment<W>;
  static constexpr int kInFlight = kFewInFlight<kFp8>;
  Chunk<kFp8> chunk[kInFlight][2][F::kRows][F::kChunks];
  std::int64_t at[2][F::kRows];

  GPU_DEVICE void load(const GemmArgs& a, int step, int k, int end) {
    GPU_UNROLL for (int s = 0; s < 2; ++s) GPU_UNROLL for (int h = 0; h < F::kRows; ++h)
        GPU_UNROLL for (int c = 0; c < F::kChunks; ++c) chunk[step][s][h][c]
            .load(a.weight, at[s][h], k + F::k() + 8 * c, end, kVectors);
  }
  GPU_DEVICE void start(const GemmArgs& a, int expert, int column, int begin, int end) {
    GPU_UNROLL for (int s = 0; s < 2; ++s) GPU_UNROLL for (int h = 0; h < F::kRows; ++h) at[s][h] =
        (std::int64_t{expert} * a.rows + weight_row<kDown>(a, column, s, F::row(h))) * a.depth;
    GPU_UNROLL for (int step = 0; step < kInFlight; ++step) load(a, step, begin + step * kStepDepth, end);
  }
  GPU_DEVICE WeightTiles<W> tiles(int step, int s, bool fnuz) const {
    WeightTiles<W> w;
    GPU_UNROLL for (int h = 0; h < F::kRows; ++h) GPU_UNROLL for (int c = 0; c < F::kChunks; ++c)
        w.set(h, c, chunk[step][s][h][c].as_bf16(fnuz));
    return w;
  }
};

// One wave's segment [begin, end) for sixteen slots and two strips, whose first weights are there.
template <int W, bool kDown, bool kFp8, bool kVectors>
GPU_DEVICE void multiply_segment(const GemmArgs& a, const SlotRun& run, int first_slot, int column, int begin,
                                 int end, FewWeights<W, kDown, kFp8, kVectors>& weights, TileC<W> (&sum)[2]) {
  using F = Fragment<W>;
  std::int64_t x_at[F::kRows];
  GPU_UNROLL for (int h = 0; h < F::kRows; ++h) {
    const int slot = first_slot + F::row(h);
    x_at[h] = slot < run.count ? x_row(a, run.slots[slot]) * a.x_stride : -1;
  }
  Chunk<false> x[2][F::kRows][F::kChunks];  // of this step and the next
  const auto load_x = [&](int which, int k) {
    GPU_UNROLL for (int h = 0; h < F::kRows; ++h) GPU_UNROLL for (int c = 0; c < F::kChunks;
                                                                  ++c) if (x_at[h] >= 0) x[which][h][c]
        .load(a.x, x_at[h], k + F::k() + 8 * c, end, kVectors);
  };
  load_x(0, begin);
  const bool fnuz = a.weight_dtype == DType::kE4M3FNUZ;
  TileC<W> block[2];
  for (int first = begin; first < end; first += kFewSteps * kStepDepth) {
    GPU_UNROLL for (int step = 0; step < kFewSteps; ++step) {
      const int k = first + step * kStepDepth;
      if (k >= end) break;
      load_x((step + 1) % 2, k + kStepDepth);
      TileA<W, BF16Tile> left[2];
      GPU_UNROLL for (int h = 0; h < F::kRows; ++h) GPU_UNROLL for (int c = 0; c < F::kChunks; ++c)
          set_chunk<W>(left, h, c, x[step % 2][h][c].bits);
      GPU_UNROLL for (int s = 0; s < 2; ++s) {
        const WeightTiles<W> w = weights.tiles(step % kFewInFlight<kFp8>, s, fnuz);
        GPU_UNROLL for (int half = 0; half < 2; ++half)
            tile_multiply<W>(kFp8 ? block[s] : sum[s], left[half], w.tile[half]);
      }
      weights.load(a, step % kFewInFlight<kFp8>, k + kFewInFlight<kFp8> * kStepDepth, end);
    }
    if constexpr (kFp8)
      add_block<W, kDown>(a, run, first_slot, column, first / static_cast<int>(kScaleBlock), block, sum);
  }
}

// Block `number` of a's.
template <int W, bool kDown, bool kFp8, bool kVectors>
GPU_DEVICE void few_slots_of(const GemmArgs& a, int number, LaneMask<W>* found, std::int32_t* list,
                             float* parts) {
  constexpr int kNumbers = 2 * TileC<W>::kCount;
  const int segments = segments_of(a.depth), length = segment_length(a.depth), wave = wave_in_block<W>();
  const int strip = number % a.column_tiles * (kFewWaves / segments) + wave / segments;
  const int column = strip * kStripColumns<kDown>, segment = wave % segments, begin = segment * length;
  const int end = begin + length < a.depth ? begin + length : a.depth;
  const int slot = number / a.column_tiles, expert = local_expert(a.slot_map, slot),
            other = expert_of_thread(a);
  FewWeights<W, kDown, kFp8, kVectors> weights;
  if (expert >= 0 && column < a.columns) weights.start(a, expert, column, begin, end);
  const SlotRun run = find_run<W, kFewWaves>(slot, expert, other, found, list);
  if (run.count == 0) return;  // the whole block
  const int count = GPU_FAULT(kGpuExpertsOneRound) && run.count > kMatrixTile ? kMatrixTile : run.count;
  for (int first = 0; first < count; first += kMatrixTile) {
    TileC<W> sum[2];
    if (column < a.columns) {
      if (first > 0) weights.start(a, expert, column, begin, end);
      multiply_segment<W>(a, run, first, column, begin, end, weights, sum);
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

// Grid: for each GEMM its slots times a.column_tiles; see find_run().
template <int W, bool kDown, bool kFp8>
GPU_KERNEL void EXPERTS_FEW_BOUNDS(kFewWaves* W) few_slots(const GemmPair pair) {
  GPU_SHARED(LaneMask<W>, found, kFewWaves);
  GPU_SHARED(std::int32_t, list, kFewSlots);
  GPU_SHARED(float, parts, kFewWaves * 2 * TileC<W>::kCount * W);
  const unsigned which = block_x() >= pair.first_blocks ? 1 : 0;
  const int number = static_cast<int>(block_x() - which * pair.first_blocks);
  const GemmArgs& a = pair.gemm[which];
  if (a.vectors)
    few_slots_of<W, kDown, kFp8, true>(a, number, found, list, parts);
  else
    few_slots_of<W, kDown, kFp8, false>(a, number, found, list, parts);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::experts_kernels
