#pragma once
// The steps of the align kernels' counting sort: a slot's bucket, the buckets' rooms, a slot's place. Semantics:
// reference/moe_align.h.
//
//   place of a slot = first row of its bucket + slots of the bucket in earlier units + those before it in its unit
// A unit is what one wave walks through in order, W slots at a time; lanes of one bucket are told apart by ballots. So the sort is
// stable, and no atomic decides an order.
#include "optimized/gpu/fault.h"
#include "optimized/gpu/gpu.h"
#include "optimized/gpu/moe_align_args.h"

namespace moecheck::MOECHECK_OPTIMIZED::moe_align_kernels {

using namespace moecheck::gpu;  // NOLINT: kernels speak gpu.h

// The bucket of slot s, or -1.
GPU_DEVICE int bucket_of(const AlignArgs& a, int s) {
  if (s >= a.sorted_slots + (GPU_FAULT(kGpuAlignTailSlots) ? 1 : 0)) return -1;
  const int at = a.k_major ? s % a.tokens * a.topk + s / a.tokens : s;  // topk_ids are token-major
  const std::int64_t id = a.ids_are_64_bit ? static_cast<const std::int64_t*>(a.topk_ids)[at]
                                           : static_cast<const std::int32_t*>(a.topk_ids)[at];
  if (id >= a.experts) return -1;
  if (id < 0) return a.bucket_of_nobody ? 0 : -1;
  const int e = static_cast<int>(id);
  if (a.kind == AlignKind::kPermute) {
    const int local = a.expert_map == nullptr ? e : a.expert_map[e];
    return local < a.buckets ? local : -1;
  }
  if (a.kind == AlignKind::kSorting) return a.expert_map == nullptr || a.expert_map[e] != 0 ? e : -1;
  if (a.ignore_invalid && a.expert_map[e] < 0) return -1;
  return e + (a.bucket_of_nobody ? 1 : 0);
}

// kBlocks: what a bucket's blocks are labelled with.
GPU_DEVICE std::int32_t label_of(const AlignArgs& a, int bucket) {
  const int e = bucket - (a.bucket_of_nobody ? 1 : 0);
  if (e < 0) return -1;
  return a.expert_map == nullptr ? e : a.expert_map[e];
}

GPU_DEVICE std::uint32_t room(const AlignArgs& a, std::int32_t count) {
  const auto block = static_cast<std::uint32_t>(a.block);
  return (static_cast<std::uint32_t>(count) + block - 1) / block * block;
}

// ---- the sum of all threads' values before this one's

template <int W>
GPU_DEVICE std::uint64_t wave_inclusive_sum(std::uint64_t v) {
  for (int step = 1; step < W; step *= 2) {
    const std::uint64_t below = shfl_up<W>(v, step);
    if (lane<W>() >= step) v += below;
  }
  return v;
}

// All threads of the block; waves [block size / W] is shared memory.
template <int W>
GPU_DEVICE std::uint64_t block_exclusive_sum(std::uint64_t mine, std::uint64_t* waves, std::uint64_t& total) {
  const std::uint64_t sum = wave_inclusive_sum<W>(mine);
  const int count = static_cast<int>(block_dim_x()) / W, wave = wave_in_block<W>();
  if (lane<W>() == W - 1) waves[wave] = sum;
  if (!GPU_FAULT(kGpuAlignNoScanBarrier)) block_barrier();
  std::uint64_t before = 0;
  total = 0;
  for (int w = 0; w < count; ++w) {
    if (w < wave) before += waves[w];
    total += waves[w];
  }
  return before + sum - mine;
}

// ---- the buckets' rooms

// Blocks in the order of the local ids: the room of all buckets that come before this one.
GPU_DEVICE std::int32_t start_by_label(const AlignArgs& a, const std::int32_t* counts, int bucket) {
  const std::int32_t label = label_of(a, bucket);
  std::uint32_t before = 0;
  for (int b = 0; b < a.buckets; ++b) {
    const std::int32_t other = label_of(a, b);
    if (other < label || (other == label && b < bucket)) before += room(a, counts[b]);
  }
  return static_cast<std::int32_t>(before);
}

// counts [buckets] (shared) -> starts, experts_of [buckets], and the outputs that are about all. All threads of one block.
template <int W>
GPU_DEVICE void place_buckets(const AlignArgs& a, const std::int32_t* counts, std::int32_t* starts,
                              std::int32_t* experts_of, std::uint64_t* waves) {
  const int threads = static_cast<int>(block_dim_x()), each = (a.buckets + threads - 1) / threads;
  const int begin = static_cast<int>(thread_x()) * each, end = begin + each < a.buckets ? begin + each : a.buckets;
  // Rows above, local experts below: one sum for both.
  const auto share = [&](int b) {
    const bool local = a.kind == AlignKind::kSorting && (a.expert_map == nullptr || a.expert_map[b] != 0);
    return static_cast<std::uint64_t>(room(a, counts[b])) << 32 | (local ? 1u : 0u);
  };
  std::uint64_t mine = 0, total = 0;
  for (int b = begin; b < end; ++b) mine += share(b);
  std::uint64_t at = block_exclusive_sum<W>(mine, waves, total);
  for (int b = begin; b < end; ++b) {
    const std::uint64_t after = at + share(b);  // starts may be counts
    const auto start = static_cast<std::int32_t>(at >> 32), local = static_cast<std::int32_t>(at & 0xFFFFFFFF);
    starts[b] = a.ignore_invalid ? start_by_label(a, counts, b) : start;
    experts_of[b] = a.kind == AlignKind::kSorting   ? local
                    : a.kind == AlignKind::kPermute ? b
                                                    : label_of(a, b);
    if (a.offsets != nullptr) a.offsets[b] = start;
    at = after;
  }
  if (thread_x() != 0) return;
  if (a.offsets != nullptr) a.offsets[a.buckets] = static_cast<std::int64_t>(total >> 32);
  if (a.totals != nullptr) a.totals[0] = static_cast<std::int32_t>(total >> 32);
  if (a.kind == AlignKind::kSorting) a.totals[1] = a.sorted_slots / a.topk;
}

// Entries without a slot: thread `first` of `threads`.
GPU_DEVICE void fill_outputs(const AlignArgs& a, std::int64_t first, std::int64_t threads) {
  const auto end_of = [&](std::int32_t n) {
    return GPU_FAULT(kGpuAlignTailFill) ? n / static_cast<int>(block_dim_x()) * static_cast<int>(block_dim_x()) : n;
  };
  for (std::int64_t i = first; i < end_of(a.capacity); i += threads) {
    a.sorted[i] = a.padding;
    if (a.sorted_weights != nullptr) a.sorted_weights[i] = 0;
  }
  for (std::int64_t i = first; i < end_of(a.label_count); i += threads) a.labels[i] = a.tail;
}

// ---- the slots of a unit

// The lanes whose bucket is this lane's.
template <int W>
GPU_DEVICE LaneMask<W> same_bucket(int bucket, int bits) {
  LaneMask<W> same = ballot<W>(bucket >= 0);
  for (int bit = 0; bit < bits; ++bit) {
    const bool set = (bucket >> bit & 1) != 0;
    const LaneMask<W> with = ballot<W>(set);
    same &= set ? with : ~with;
  }
  if (GPU_FAULT(kGpuAlignWaveWidth32)) same &= static_cast<LaneMask<W>>(0xFFFFFFFF);
  return same;
}

GPU_DEVICE void write_slot(const AlignArgs& a, int s, std::int32_t expert, std::int32_t at) {
  if (a.row_of_slot != nullptr) a.row_of_slot[s] = at;
  if (at < 0 || at >= a.capacity) return;  // of nobody; buffers that are too small
  if (a.kind == AlignKind::kSorting) {
    const int token = s / a.topk, k = s - token * a.topk;
    a.sorted[at] = static_cast<std::int32_t>(static_cast<std::uint32_t>(k) << reference::kSortedTokenBits |
                                             static_cast<std::uint32_t>(token));
    a.sorted_weights[at] = a.topk_weights[s];
  } else {
    a.sorted[at] = s;
  }
  // A block that there is begins with a slot.
  if (a.kind == AlignKind::kPermute) {
    if (at < a.label_count) a.labels[at] = expert;
  } else if (at % a.block == 0 && at / a.block < a.label_count) {
    a.labels[at / a.block] = expert;
  }
}

// One wave places slots [begin, end). next [buckets], its own: rows of its bucket before the wave's next slot.
template <int W>
GPU_DEVICE void place_slots(const AlignArgs& a, int begin, int end, std::int32_t* next, const std::int32_t* starts,
                            const std::int32_t* experts_of) {
  constexpr int kAhead = 4;  // loads in flight
  for (int tile = begin; tile < end; tile += kAhead * W) {
    int bucket[kAhead];
    GPU_UNROLL for (int i = 0; i < kAhead; ++i) {
      const int s = tile + i * W + lane<W>();
      bucket[i] = s < end ? bucket_of(a, s) : -1;
    }
    for (int i = 0; i < kAhead; ++i) {
      const int s = tile + i * W + lane<W>(), b = bucket[i];
      if (tile + i * W >= end) break;  // all lanes
      const LaneMask<W> same = same_bucket<W>(b, a.bits);
      const int rank = count_bits(same & ((LaneMask<W>{1} << lane<W>()) - 1));
      std::int32_t at = -1;
      if (b >= 0) at = starts[b] + next[b] + rank;
      if (!GPU_FAULT(kGpuAlignNoWaveBarrier)) wave_barrier<W>();
      if (b >= 0 && rank == 0) next[b] += count_bits(same);
      wave_barrier<W>();
      if (s < end) write_slot(a, s, b >= 0 ? experts_of[b] : -1, at);
    }
  }
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::moe_align_kernels
