#pragma once
// Top-k over a row of logits: a block finds the k-th largest number by its bits, eleven at a time from the top, and then takes in
// ascending order what is larger, and of what equals it as many as are missing. Counts are integers: no order matters.
#include "optimized/gpu/mqa_logits_keys.h"

namespace moecheck::MOECHECK_OPTIMIZED::mqa_logits_kernels {

inline constexpr int kTopkThreads = 1024, kDigitBits = 11, kBins = 1 << kDigitBits, kBinsOfLane = 64;
inline constexpr int kLogitsInFlight = 8;  // of a thread

// Logits of the row, as numbers in their order.
struct RowOfLogits {
  const MqaLogitsArgs& a;
  std::int64_t first;
  GPU_DEVICE std::uint32_t key(int i) const { return order_key(load_logit(a, first + i)); }
};

// Which of the W counts, from the highest lane down, the `rank`-th (from 1) thing counted falls in: its lane, and in `rank` its
// rank in there; -1 and the rank behind them where it comes later. All lanes.
template <int W>
GPU_DEVICE int find_from_top(std::uint32_t count, std::uint32_t& rank) {
  std::uint32_t above = count;  // in this lane and higher ones
  GPU_UNROLL for (int step = 1; step < W; step *= 2) {
    const std::uint32_t more = shfl_down<W>(above, step);
    if (lane<W>() + step < W) above += more;
  }
  const std::uint32_t here = count_bits(ballot<W>(above >= rank));  // lanes 0 .. here - 1
  const int found = static_cast<int>(here) - 1;
  const std::uint32_t all = shfl<W>(above, 0), higher = shfl<W>(above - count, found < 0 ? 0 : found);
  rank -= found < 0 ? all : higher;
  return found;
}

// The digit that the rank-th largest of the counted numbers has; `rank` becomes its rank among those. All threads.
// result: of 2, in shared memory.
template <int W>
GPU_DEVICE std::uint32_t digit_of_rank(const std::uint32_t* bins, std::uint32_t* result,
                                       std::uint32_t& rank) {
  static_assert(kBins / kBinsOfLane <= W && kBinsOfLane % W == 0);
  if (wave_in_block<W>() == 0) {
    const int l = lane<W>();
    std::uint32_t sum = 0;
    if (l < kBins / kBinsOfLane)
      for (int b = 0; b < kBinsOfLane; ++b)
        sum += bins[l * kBinsOfLane + (b + l) % kBinsOfLane];  // each in a bank of its own
    int first = (find_from_top<W>(sum, rank) + 1) * kBinsOfLane, found = -1;
    while (found < 0 && first > 0) {
      first -= W;
      found = find_from_top<W>(bins[first + l], rank);
    }
    if (l == 0) result[0] = static_cast<std::uint32_t>(first + found), result[1] = rank;
  }
  block_barrier();
  rank = result[1];
  return result[0];
}

// Counts the digits at `shift` of the numbers whose higher bits are `prefix`.
template <int W>
GPU_DEVICE void count_digits(const RowOfLogits& row, int n, std::uint32_t prefix, std::uint32_t mask,
                             int shift, std::uint32_t* bins) {
  const int threads = static_cast<int>(block_dim_x()), thread = static_cast<int>(thread_in_block());
  for (int begin = thread; begin < n; begin += kLogitsInFlight * threads) {
    std::uint32_t key[kLogitsInFlight];
    GPU_UNROLL for (int u = 0; u < kLogitsInFlight; ++u) key[u] =
        begin + u * threads < n ? row.key(begin + u * threads) : 0;
    GPU_UNROLL for (int u = 0; u < kLogitsInFlight;
                    ++u) if (begin + u * threads < n && (key[u] & mask) == prefix)
        atomic_add(bins + (key[u] >> shift & (kBins - 1)), std::uint32_t{1});
  }
}

// A wave's part of the row, [begin, end): how many are larger than `threshold`, and how many equal it.
struct Counts {
  std::uint32_t larger, equal;
};
template <int W>
GPU_DEVICE Counts count_taken(const RowOfLogits& row, int begin, int end, std::uint32_t threshold) {
  Counts c{0, 0};
  for (int first = begin + lane<W>(); first < end; first += kLogitsInFlight * W) {
    std::uint32_t key[kLogitsInFlight];
    GPU_UNROLL for (int u = 0; u < kLogitsInFlight; ++u) key[u] =
        first + u * W < end ? row.key(first + u * W) : 0;  // 0 is no number's
    GPU_UNROLL for (int u = 0; u < kLogitsInFlight; ++u) c.larger += key[u] > threshold,
        c.equal += key[u] == threshold;
  }
  std::uint64_t both = static_cast<std::uint64_t>(c.larger) << 32 | c.equal;
  GPU_UNROLL for (int step = W / 2; step > 0; step /= 2) both += shfl_xor<W>(both, step);
  return {static_cast<std::uint32_t>(both >> 32), static_cast<std::uint32_t>(both)};
}

// Writes the indices that are taken, given those of earlier parts. Never more than `topk`.
template <int W>
GPU_DEVICE void write_taken(const RowOfLogits& row, int begin, int end, std::uint32_t threshold,
                            std::uint32_t ties, Counts before, std::uint32_t topk, std::int32_t* out) {
  const LaneMask<W> lower = (LaneMask<W>{1} << lane<W>()) - 1;
  for (int first = begin; first < end; first += kLogitsInFlight * W) {
    std::uint32_t key[kLogitsInFlight];
    GPU_UNROLL for (int u = 0; u < kLogitsInFlight; ++u) {
      const int i = first + u * W + lane<W>();
      key[u] = i < end ? row.key(i) : 0;
    }
    GPU_UNROLL for (int u = 0; u < kLogitsInFlight; ++u) {
      if (first + u * W >= end) break;  // the whole wave
      const bool is_larger = key[u] > threshold, is_equal = key[u] == threshold;
      const LaneMask<W> larger_lanes = ballot<W>(is_larger), equal_lanes = ballot<W>(is_equal);
      const auto rank = before.equal + static_cast<std::uint32_t>(count_bits(equal_lanes & lower));
      const auto at = before.larger + static_cast<std::uint32_t>(count_bits(larger_lanes & lower)) +
                      (rank < ties ? rank : ties);
      if ((is_larger || (is_equal && rank < ties)) && at < topk) out[at] = first + u * W + lane<W>();
      before.larger += static_cast<std::uint32_t>(count_bits(larger_lanes));
      before.equal += static_cast<std::uint32_t>(count_bits(equal_lanes));
    }
  }
}

template <int W>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kTopkThreads) mqa_logits_topk(const MqaLogitsArgs a) {
  GPU_SHARED(std::uint32_t, bins, kBins);
  GPU_SHARED(std::uint32_t, digit, 2);
  GPU_SHARED(Counts, part, kTopkThreads / W);
  const int threads = static_cast<int>(block_dim_x()), thread = static_cast<int>(thread_in_block());
  const Seen seen = tokens_seen(a, block_x());
  const RowOfLogits row{a, static_cast<std::int64_t>(block_x()) * a.row_stride + seen.column};
  std::int32_t* out = a.topk_indices + static_cast<std::int64_t>(block_x()) * a.topk;
  if (seen.count <= a.topk) {  // the whole block
    for (int i = thread; i < a.topk; i += threads) out[i] = i < seen.count ? i : -1;
    return;
  }
  std::uint32_t prefix = 0, mask = 0, rank = static_cast<std::uint32_t>(a.topk);
  for (int shift = 32 - kDigitBits;; shift -= kDigitBits) {
    if (shift < 0) shift = 0;  // the last digit repeats a bit of the one before it
    if (!GPU_FAULT(kGpuTopkStaleBins) || mask == 0)
      for (int b = thread; b < kBins; b += threads) bins[b] = 0;
    block_barrier();
    count_digits<W>(row, seen.count, prefix, mask, shift, bins);
    if (!GPU_FAULT(kGpuTopkNoBarrier)) block_barrier();
    prefix |= digit_of_rank<W>(bins, digit, rank) << shift;
    mask |= static_cast<std::uint32_t>(kBins - 1) << shift;
    if (shift == 0) break;
  }
  // A part of the row for each wave; of the numbers that equal the k-th largest the first `rank` are taken.
  const int waves = threads / W, wave = wave_in_block<W>();
  const int size = (seen.count + waves - 1) / waves, begin = wave * size;
  const int end = begin + size < seen.count ? begin + size : seen.count;
  const Counts mine = count_taken<W>(row, begin, end, prefix);
  if (lane<W>() == 0) part[wave] = mine;
  block_barrier();
  Counts before{0, 0};
  for (int w = 0; w < wave; ++w) before.larger += part[w].larger, before.equal += part[w].equal;
  if (GPU_FAULT(kGpuTopkTiesOfWave)) before.equal = 0;
  write_taken<W>(row, begin, end, prefix, rank, before, static_cast<std::uint32_t>(a.topk), out);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::mqa_logits_kernels
