#pragma once
// f16 and f32 numbers, which the matrix tiles do not take: dot products in f32 of weight rows with up to four left sides at a time.
//
//   gate_up  a wave has gate and up of two columns; its lanes share the depth
//   down     eight lanes have four rows, since their depth is short
//
// Lanes read 16 bytes at a time. A block of e4m3 is eight lanes wide: its products are summed before its scales multiply.
#include "optimized/gpu/experts_slots.h"

namespace moecheck::MOECHECK_OPTIMIZED::experts_kernels {

inline constexpr int kDotWaves = 4, kRowsOfLane = 4, kSlotsAtOnce = 4, kLanesDown = 8;

// The four weight rows of a lane and the left sides they meet.
template <class Weight, class X, int kSlots>
struct DotOperands {
  const typename Weight::Bits* row[kRowsOfLane];
  const float* row_scale[kRowsOfLane];
  const typename X::Bits* x[kSlots];
  const float* x_scale[kSlots];
};

// Sums of products of kPacked<Weight> elements from k on.
template <class Weight, class X, int kSlots>
GPU_DEVICE void add_products(const GemmArgs& a, const DotOperands<Weight, X, kSlots>& o,
                             const Bytes16 (&w)[kRowsOfLane], int k, float (&sum)[kRowsOfLane][kSlots]) {
  constexpr int kX = kPacked<X>, kW = kPacked<Weight>, kStep = kX < kW ? kX : kW;
  GPU_UNROLL for (int part = 0; part < kW; part += kStep) {
    float x[kSlots][kStep];
    GPU_UNROLL for (int t = 0; t < kSlots; ++t) {
      const Bytes16 bytes = load_packed<X>(o.x[t], k + part, a.depth, a.vectors);
      GPU_UNROLL for (int i = 0; i < kStep; ++i) x[t][i] = unpacked<X>(bytes, i);
    }
    GPU_UNROLL for (int r = 0; r < kRowsOfLane; ++r) GPU_UNROLL for (int i = 0; i < kStep; ++i) {
      const float v = unpacked<Weight>(w[r], part + i);
      GPU_UNROLL for (int t = 0; t < kSlots; ++t) sum[r][t] += v * x[t][i];
    }
  }
}

// sum[r][t] = row r . x[t], in every one of the kLanes lanes that share the rows.
template <int W, int kLanes, class Weight, class X, int kSlots>
GPU_DEVICE void dot_products(const GemmArgs& a, const DotOperands<Weight, X, kSlots>& o,
                             float (&sum)[kRowsOfLane][kSlots]) {
  constexpr int kPack = kPacked<Weight>, kUnroll = 2;
  constexpr bool kScaled = sizeof(typename Weight::Bits) == 1;
  static_assert(!kScaled || kPack * 8 == kScaleBlock);
  const int me = lane<W>() % kLanes;
  for (int first = 0; first < a.depth; first += kUnroll * kLanes * kPack) {
    Bytes16 w[kUnroll][kRowsOfLane];
    GPU_UNROLL for (int u = 0; u < kUnroll; ++u) GPU_UNROLL for (int r = 0; r < kRowsOfLane; ++r) w[u][r] =
        load_packed<Weight>(o.row[r], first + (u * kLanes + me) * kPack, a.depth, a.vectors);
    GPU_UNROLL for (int u = 0; u < kUnroll; ++u) {
      const int k = first + (u * kLanes + me) * kPack;
      if constexpr (!kScaled) {
        add_products<Weight, X, kSlots>(a, o, w[u], k, sum);
      } else {
        float block[kRowsOfLane][kSlots] = {};
        add_products<Weight, X, kSlots>(a, o, w[u], k, block);
        GPU_UNROLL for (int step = 4; step > 0; step /= 2) GPU_UNROLL for (int r = 0; r < kRowsOfLane; ++r)
            GPU_UNROLL for (int t = 0; t < kSlots; ++t) block[r][t] += shfl_xor<W>(block[r][t], step);
        const int b = k / static_cast<int>(kScaleBlock);
        if (k / static_cast<int>(kScaleBlock) * static_cast<int>(kScaleBlock) >= a.depth) continue;
        GPU_UNROLL for (int r = 0; r < kRowsOfLane; ++r) GPU_UNROLL for (int t = 0; t < kSlots; ++t) {
          const float v = o.x_scale[t] != nullptr ? block[r][t] * o.x_scale[t][b] : block[r][t];
          sum[r][t] += v * o.row_scale[r][b];
        }
      }
    }
  }
  for (int step = (GPU_FAULT(kGpuExpertsWaveWidth32) && kLanes > 32 ? 32 : kLanes) / 2;
       step > (kScaled ? 4 : 0); step /= 2)
    GPU_UNROLL for (int r = 0; r < kRowsOfLane; ++r) GPU_UNROLL for (int t = 0; t < kSlots; ++t) sum[r][t] +=
        shfl_xor<W>(sum[r][t], step);
}

// The rows of the caller's lane for slots list[0..count), count <= kSlots, and what becomes of them.
template <int W, bool kDown, class Weight, class X, int kSlots>
GPU_DEVICE void dot_slots(const GemmArgs& a, int expert, int column, const std::int32_t* list, int count) {
  constexpr int kLanes = kDown ? kLanesDown : W, kColumns = kDown ? kRowsOfLane : kRowsOfLane / 2;
  DotOperands<Weight, X, kSlots> o;
  const auto* weight =
      static_cast<const typename Weight::Bits*>(a.weight) + std::int64_t{a.rows} * a.depth * expert;
  GPU_UNROLL for (int r = 0; r < kRowsOfLane; ++r) {
    int c = column + (kDown ? r : r / 2);
    if (c >= a.columns) c = a.columns - 1;
    const int row = kDown        ? c
                    : r % 2 == 0 ? gate_row(a.activation, a.columns, c)
                                 : up_row(a.activation, a.columns, c);
    o.row[r] = weight + std::int64_t{row} * a.depth;
    if (a.weight_scale != nullptr)
      o.row_scale[r] =
          scales_of_row(a, expert, GPU_FAULT(kGpuExpertsScaleOfFirstRow) ? row / 256 * 256 : row);
  }
  const std::int64_t blocks = (a.depth + kScaleBlock - 1) / kScaleBlock;
  GPU_UNROLL for (int t = 0; t < kSlots; ++t) {
    const std::int64_t row = x_row(a, list[t < count ? t : count - 1]);
    o.x[t] = static_cast<const typename X::Bits*>(a.x) + row * a.x_stride;
    o.x_scale[t] = a.x_scale != nullptr ? a.x_scale + row * blocks : nullptr;
  }
  float sum[kRowsOfLane][kSlots] = {};
  dot_products<W, kLanes, Weight, X, kSlots>(a, o, sum);
  const int me = lane<W>() % kLanes;
  GPU_UNROLL for (int t = 0; t < kSlots; ++t) GPU_UNROLL for (int c = 0; c < kColumns; ++c) {
    const int writer = (t * kColumns + c) % kLanes;
    if (me != writer || t >= count || column + c >= a.columns) continue;
    if constexpr (kDown)
      store_slot(a, list[t], column + c, sum[c][t]);
    else
      store_activated(a, list[t], column + c, sum[2 * c][t],
                      sum[2 * (GPU_FAULT(kGpuExpertsNeighboursUp) ? 0 : c) + 1][t]);
  }
}

// Grid: runs of slots times a.column_tiles; see sorted_run() and find_run().
template <int W, bool kDown, class Weight, class X>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kDotWaves* W) dot_experts(const GemmArgs a) {
  GPU_SHARED(LaneMask<W>, found, kDotWaves);
  GPU_SHARED(std::int32_t, list, kFewSlots);
  const int mine = static_cast<int>(block_x()) / a.column_tiles;
  const SlotRun run = a.sorted != nullptr ? sorted_run(a, mine)
                                          : find_run<W, kDotWaves>(mine, local_expert(a.slot_map, mine),
                                                                   expert_of_thread(a), found, list);
  const int each = kDown ? kRowsOfLane * (W / kLanesDown) : kRowsOfLane / 2;
  const int first = (static_cast<int>(block_x()) % a.column_tiles * kDotWaves + wave_in_block<W>()) * each;
  if (run.count == 0 || first >= a.columns) return;  // the whole wave; no block barrier follows
  const int column = first + (kDown ? lane<W>() / kLanesDown * kRowsOfLane : 0);
  const int count = GPU_FAULT(kGpuExpertsOneRound) && run.count > kSlotsAtOnce ? kSlotsAtOnce : run.count;
  for (int i = 0; i < count; i += kSlotsAtOnce)
    dot_slots<W, kDown, Weight, X, kSlotsAtOnce>(a, run.expert, column, run.slots + i,
                                                 count - i < kSlotsAtOnce ? count - i : kSlotsAtOnce);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::experts_kernels
