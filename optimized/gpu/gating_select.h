#pragma once
// The middle part of the gating kernels: groups, then experts, by unsigned keys in the order of the choice scores.
#include "optimized/gpu/gating_scores.h"

namespace moecheck::MOECHECK_OPTIMIZED::gating_kernels {

using reference::GroupScore;
using reference::Tie;

// Below every number and NaN: masked experts, and those that are taken or do not exist.
constexpr std::uint32_t kKeyMasked = kKeyOfNaN - 1, kKeyTaken = 0;

// The order of equals: the lower rank first; and back.
GPU_DEVICE std::uint32_t reversed5(std::uint32_t v) {
  std::uint32_t r = 0;
  GPU_UNROLL for (int bit = 0; bit < 5; ++bit) r = r << 1 | (v >> bit & 1);
  return r;
}
GPU_DEVICE std::uint32_t tie_rank(Tie tie, int index, int n) {
  const auto i = static_cast<std::uint32_t>(index);
  if (tie == Tie::kHigh) return static_cast<std::uint32_t>(n) - 1 - i;
  if (tie == Tie::kLane64) return i % 64 << 16 | i / 64;
  if (tie == Tie::kBitReversed) return reversed5(i / 32) * 32 + reversed5(i % 32);
  return i;
}
GPU_DEVICE int of_tie_rank(Tie tie, std::uint32_t rank, int n) {
  if (tie == Tie::kHigh) return n - 1 - static_cast<int>(rank);
  if (tie == Tie::kLane64) return static_cast<int>((rank >> 16) + (rank & 0xFFFF) * 64);
  if (tie == Tie::kBitReversed) return static_cast<int>(reversed5(rank / 32) * 32 + reversed5(rank % 32));
  return static_cast<int>(rank);
}

// The two largest numbers; equal ones count twice, or once when only distinct ones do.
struct TopTwo {
  float first, second;

  GPU_DEVICE void add(TopTwo o, bool distinct) {
    const float low = distinct && first == o.first ? -infinity() : smaller(first, o.first);
    second = larger(larger(second, o.second), low);
    first = larger(first, o.first);
  }
};

GPU_DEVICE float group_score_of(const GatingArgs& a, TopTwo t) {
  return a.group_score == GroupScore::kMax ? t.first : round_dtype(a.choice_dtype, t.first + t.second);
}

// Groups that are runs of whole lanes: group_size = run * 2^k. Lane g gets the score of group g; bit g of the answer says that
// group g is selected. c: the choice scores, -Inf behind the last expert.
template <int W, int V>
GPU_DEVICE std::uint32_t select_groups_in_lanes(const GatingArgs& a, const float (&c)[V]) {
  using L = Layout<W, V>;
  const bool distinct = a.group_score == GroupScore::kTop2Distinct;
  const int lanes_per_group = a.group_size / L::kRun;
  const int groups_per_run = (GPU_FAULT(kGpuWaveWidth32) && lanes_per_group <= 32 ? 32 : W) / lanes_per_group;
  const int me = lane<W>();
  float mine = -infinity();
  GPU_UNROLL for (int r = 0; r < L::kRuns; ++r) {
    TopTwo t = {c[r * L::kRun], -infinity()};
    GPU_UNROLL for (int j = 1; j < L::kRun; ++j) t.add({c[r * L::kRun + j], -infinity()}, distinct);
    for (int step = 1; step < lanes_per_group; step *= 2)
      t.add({shfl_xor<W>(t.first, step), shfl_xor<W>(t.second, step)}, distinct);
    const float score = shfl<W>(group_score_of(a, t), me * lanes_per_group % W);
    if (me / groups_per_run == r) mine = score;
  }
  const std::uint32_t key = order_key(mine), rank = tie_rank(a.group_tie, me, a.groups);
  int better = 0;
  for (int g = 0; g < a.groups; ++g) {
    const std::uint32_t other = shfl<W>(key, g);
    better += other > key || (other == key && tie_rank(a.group_tie, g, a.groups) < rank);
  }
  return static_cast<std::uint32_t>(ballot<W>(me < a.groups && better < a.topk_group));
}

// Groups of any size and number, through shared memory: scratch.choice[e] holds the wave's choice scores; allowed[g] comes back.
struct GroupScratch {
  float* choice;          // [experts]
  float* score;           // [groups]
  std::uint8_t* allowed;  // [groups]
};
template <int W, int V>
GPU_DEVICE void select_groups_in_memory(const GatingArgs& a, const float (&c)[V], GroupScratch scratch) {
  using L = Layout<W, V>;
  const bool distinct = a.group_score == GroupScore::kTop2Distinct;
  GPU_UNROLL for (int i = 0; i < V; ++i) {
    const int e = L::expert(i);
    if (e < a.experts) scratch.choice[e] = c[i];
  }
  if (!GPU_FAULT(kGpuMissingWaveBarrier)) wave_barrier<W>();
  for (int g = lane<W>(); g < a.groups; g += W) {
    const float* group = scratch.choice + g * a.group_size;
    TopTwo t = {group[0], -infinity()};
    for (int j = 1; j < a.group_size; ++j) t.add({group[j], -infinity()}, distinct);
    scratch.score[g] = group_score_of(a, t);
  }
  wave_barrier<W>();
  for (int g = lane<W>(); g < a.groups; g += W) {
    const std::uint32_t key = order_key(scratch.score[g]), rank = tie_rank(a.group_tie, g, a.groups);
    int better = 0;
    for (int h = 0; h < a.groups; ++h) {
      const std::uint32_t other = order_key(scratch.score[h]);
      better += other > key || (other == key && tie_rank(a.group_tie, h, a.groups) < rank);
    }
    const bool allowed = better < a.topk_group;
    if (allowed || !GPU_FAULT(kGpuStaleShared)) scratch.allowed[g] = allowed;
  }
  wave_barrier<W>();
}

// topk rounds: the largest key, of equals the lowest rank. Lane k returns the id of slot k, lanes behind them -1.
template <int W, int V, bool kLowTies>
GPU_DEVICE int select_experts(const GatingArgs& a, std::uint32_t (&key)[V]) {
  using L = Layout<W, V>;
  int mine = -1;
  for (int k = 0; k < a.topk; ++k) {
    std::uint32_t best = key[0], rank = kLowTies ? static_cast<std::uint32_t>(L::expert(0))
                                                 : tie_rank(a.expert_tie, L::expert(0), a.experts);
    GPU_UNROLL for (int i = 1; i < V; ++i) {
      if constexpr (kLowTies) {  // registers are in the order of the experts
        if (key[i] > best) {
          best = key[i];
          rank = static_cast<std::uint32_t>(L::expert(i));
        }
      } else {
        const std::uint32_t other = tie_rank(a.expert_tie, L::expert(i), a.experts);
        if (key[i] > best || (key[i] == best && other < rank)) {
          best = key[i];
          rank = other;
        }
      }
    }
    const std::uint32_t top = wave_max<W>(best);
    const std::uint32_t winner = wave_min<W>(best == top ? rank : ~0u);
    const int id = kLowTies ? static_cast<int>(winner) : of_tie_rank(a.expert_tie, winner, a.experts);
    GPU_UNROLL for (int i = 0; i < V; ++i) if (L::expert(i) == id) key[i] = kKeyTaken;
    if (lane<W>() == k) mine = id;
  }
  return mine;
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::gating_kernels
