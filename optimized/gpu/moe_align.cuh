#pragma once
// Alignment of slots to experts' rows on GPUs. The operator is specified in reference/moe_align.h.
//
// Few slots: one block. Every wave counts its part in shared memory, the block adds up, every wave places its part.
// Many slots: three launches do the same over units of slots: count (a block a unit), add up (one block), place (a wave a unit).
// Rows are moved by moe_align_rows.h; unpermute is in combine.cuh.
#include <string>

#include "optimized/gpu/moe_align_rows.h"
#include "optimized/gpu/moe_align_sort.h"
#include "optimized/gpu/specializations.h"

namespace moecheck::MOECHECK_OPTIMIZED::moe_align_kernels {

inline constexpr int kSmallWaves = 16;  // at most
inline constexpr int kCountThreads = 256, kAddThreads = 1024;
inline constexpr int kSharedBytes = 40 << 10;  // of the small kernel at most

// Shared memory: counts [waves][buckets], starts [buckets], experts_of [buckets].
template <int W>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kSmallWaves* W) align_small(const AlignArgs a) {
  GPU_DYNAMIC_SHARED(std::int32_t, counts);
  GPU_SHARED(std::uint64_t, sums, kSmallWaves);
  const int threads = static_cast<int>(block_dim_x()), waves = threads / W, wave = wave_in_block<W>();
  std::int32_t *const totals = counts + waves * a.buckets, *const experts_of = totals + a.buckets;
  const int each = (a.slots + threads - 1) / threads * W;  // slots of a wave: a multiple of W
  const int begin = wave * each < a.slots ? wave * each : a.slots,
            end = begin + each < a.slots ? begin + each : a.slots;
  if (!GPU_FAULT(kGpuAlignStaleCounts))
    for (int i = static_cast<int>(thread_x()); i < waves * a.buckets; i += threads) counts[i] = 0;
  fill_outputs(a, thread_x(), threads);
  block_barrier();
  std::int32_t* const mine = counts + wave * a.buckets;
  const int count_end = end + (GPU_FAULT(kGpuAlignTailSlots) && end == a.slots ? 1 : 0);
  for (int s = begin + lane<W>(); s < count_end; s += W)
    if (const int b = bucket_of(a, s); b >= 0) atomic_add(mine + b, 1);
  if (!GPU_FAULT(kGpuAlignNoCountBarrier)) block_barrier();
  for (int b = static_cast<int>(thread_x()); b < a.buckets; b += threads) {
    std::uint32_t before = 0;
    for (int w = 0; w < waves; ++w) {
      const auto count = static_cast<std::uint32_t>(counts[w * a.buckets + b]);
      counts[w * a.buckets + b] = static_cast<std::int32_t>(before);
      before += count;
    }
    totals[b] = static_cast<std::int32_t>(before);
  }
  block_barrier();
  // Starts take the place of the totals, once nobody reads those any more.
  std::int32_t* const starts = a.ignore_invalid ? experts_of + a.buckets : totals;
  place_buckets<W>(a, totals, starts, experts_of, sums);
  block_barrier();
  place_slots<W>(a, begin, end, mine, starts, experts_of);
}

// counts[b][unit] of slots; shared memory: counts [buckets].
template <int W>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kCountThreads) align_count(const AlignArgs a) {
  GPU_DYNAMIC_SHARED(std::int32_t, counts);
  const int unit = static_cast<int>(block_x());
  for (int b = static_cast<int>(thread_x()); b < a.buckets; b += kCountThreads) counts[b] = 0;
  fill_outputs(a, static_cast<std::int64_t>(unit) * kCountThreads + thread_x(),
               static_cast<std::int64_t>(a.units) * kCountThreads);
  block_barrier();
  const int begin = unit * a.unit, end = begin + a.unit < a.slots ? begin + a.unit : a.slots;
  for (int s = begin + static_cast<int>(thread_x()); s < end; s += kCountThreads)
    if (const int b = bucket_of(a, s); b >= 0) atomic_add(counts + b, 1);
  block_barrier();
  for (int b = static_cast<int>(thread_x()); b < a.buckets; b += kCountThreads) a.counts[b * a.stride + unit] = counts[b];
}

// counts[b][u]: from how many slots unit u has to how many the units before it have. One block; shared memory: totals [buckets].
template <int W>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kAddThreads) align_add(const AlignArgs a) {
  GPU_DYNAMIC_SHARED(std::int32_t, totals);
  GPU_SHARED(std::uint64_t, sums, kAddThreads / W);
  const int stride = GPU_FAULT(kGpuAlignUnitStride) ? a.units / 4 * 4 : a.stride;
  for (int b = wave_in_block<W>(); b < a.buckets; b += kAddThreads / W) {
    std::int32_t* const row = a.counts + static_cast<std::int64_t>(b) * stride;
    std::uint64_t before = 0;
    for (int first = 0; first < a.units; first += 4 * W) {
      const int u = first + 4 * lane<W>();
      Bytes16 four{};
      if (u < a.units) four = load16(row + u);
      std::uint64_t mine = 0;
      GPU_UNROLL for (int j = 0; j < 4; ++j) {
        if (u + j >= a.units) four.word[j] = 0;  // between `units` and `stride` there is nothing
        mine += four.word[j];
      }
      const std::uint64_t sum = wave_inclusive_sum<W>(mine);
      std::uint32_t at = static_cast<std::uint32_t>(before + sum - mine);
      GPU_UNROLL for (int j = 0; j < 4; ++j) {
        const std::uint32_t count = four.word[j];
        four.word[j] = at;
        at += count;
      }
      if (u < a.units) store16(row + u, four);
      before += shfl<W>(sum, W - 1);
    }
    if (lane<W>() == 0) totals[b] = static_cast<std::int32_t>(before);
  }
  block_barrier();
  place_buckets<W>(a, totals, a.starts, a.experts_of, sums);
}

// One wave a block: its unit's slots to their rows. Shared memory: next [buckets].
template <int W>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(W) align_place(const AlignArgs a) {
  GPU_DYNAMIC_SHARED(std::int32_t, next);
  const int unit = static_cast<int>(block_x());
  for (int b = lane<W>(); b < a.buckets; b += W) next[b] = a.counts[b * a.stride + unit];
  wave_barrier<W>();
  const int begin = unit * a.unit, end = begin + a.unit < a.slots ? begin + a.unit : a.slots;
  place_slots<W>(a, begin, end, next, a.starts, a.experts_of);
}

// ---- launches

template <int W>
void launch_small(const AlignArgs& a, Stream stream) {
  static Specialization& one = register_specialization(
      "moe_align", std::string(GPU_BACKEND_NAME) + " wave " + std::to_string(W) + " small");
  ++one.executed;
  const int of_bucket = static_cast<int>(sizeof(std::int32_t)) * (a.buckets > 0 ? a.buckets : 1);
  int waves = (a.slots + W - 1) / W;
  if (waves < 4) waves = 4;
  if (waves > kSmallWaves) waves = kSmallWaves;
  if (waves > kSharedBytes / of_bucket - 3) waves = kSharedBytes / of_bucket - 3;
  launch(align_small<W>,
         {.block = static_cast<unsigned>(waves * W),
          .dynamic_shared = static_cast<std::size_t>((waves + 3) * of_bucket),
          .stream = stream,
          .wave = W},
         a);
}

template <int W>
void launch_large(const AlignArgs& a, Stream stream) {
  static Specialization& one = register_specialization(
      "moe_align", std::string(GPU_BACKEND_NAME) + " wave " + std::to_string(W) + " large");
  ++one.executed;
  note_fallback("moe_align", "more slots or experts than one block sorts");
  LaunchConfig config{.grid = static_cast<unsigned>(a.units),
                      .block = kCountThreads,
                      .dynamic_shared = static_cast<std::size_t>(a.buckets) * sizeof(std::int32_t),
                      .stream = stream,
                      .wave = W};
  launch(align_count<W>, config, a);
  config.grid = 1, config.block = kAddThreads;
  launch(align_add<W>, config, a);
  config.grid = static_cast<unsigned>(a.units), config.block = W;
  launch(align_place<W>, config, a);
}

inline void launch_align(const AlignArgs& a, Stream stream) {
  with_wave_width([&]<int W>() { a.counts == nullptr ? launch_small<W>(a, stream) : launch_large<W>(a, stream); });
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::moe_align_kernels

namespace moecheck::MOECHECK_OPTIMIZED {

template <class Backend>
void gpu_moe_align_block_size(const reference::AlignOptions& options, reference::ConstView topk_ids,
                              reference::View sorted_token_ids, reference::View expert_ids,
                              reference::View num_tokens_post_padded, void* workspace, gpu::Stream stream) {
  moe_align_kernels::launch_align(
      block_args(options, topk_ids, sorted_token_ids, expert_ids, num_tokens_post_padded, workspace), stream);
}

template <class Backend>
void gpu_moe_sorting(const reference::SortingOptions& options, reference::ConstView topk_ids,
                     reference::ConstView topk_weights, reference::View sorted_ids, reference::View sorted_weights,
                     reference::View sorted_expert_ids, reference::View num_valid_ids, void* workspace,
                     gpu::Stream stream) {
  moe_align_kernels::launch_align(sorting_args(options, topk_ids, topk_weights, sorted_ids, sorted_weights,
                                               sorted_expert_ids, num_valid_ids, workspace),
                                  stream);
}

template <class Backend>
void gpu_permute(const reference::PermuteOptions& options, reference::ConstView topk_ids,
                 reference::View expert_first_token_offset, reference::View row_of_slot, reference::View slot_of_row,
                 reference::View m_indices, void* workspace, gpu::Stream stream) {
  moe_align_kernels::launch_align(permute_args(options, topk_ids, expert_first_token_offset, row_of_slot, slot_of_row,
                                               m_indices, workspace),
                                  stream);
}

template <class Backend>
void gpu_permute_rows(const reference::PermuteOptions& options, reference::ConstView hidden_states,
                      reference::ConstView slot_of_row, reference::View permuted, gpu::Stream stream) {
  moe_align_kernels::move_rows(options, hidden_states, slot_of_row, permuted, stream);
}

using reference::ConstView;
using reference::View;
template void gpu_moe_align_block_size<gpu::ThisBackend>(const reference::AlignOptions&, ConstView, View, View, View,
                                                         void*, gpu::Stream);
template void gpu_moe_sorting<gpu::ThisBackend>(const reference::SortingOptions&, ConstView, ConstView, View, View, View,
                                                View, void*, gpu::Stream);
template void gpu_permute<gpu::ThisBackend>(const reference::PermuteOptions&, ConstView, View, View, View, View, void*,
                                            gpu::Stream);
template void gpu_permute_rows<gpu::ThisBackend>(const reference::PermuteOptions&, ConstView, ConstView, View,
                                                 gpu::Stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED
