#pragma once
// The middle part of the gating kernels: groups, then experts, by unsigned keys in the order of the choice scores.
#include "optimized/gpu/gating_scores.h"

namespace moecheck::MOECHECK_OPTIMIZED::gating_kernels {

using reference::GroupScore;
using reference::Tie;

// Below every number and NaN: masked experts, and those that are taken or do not exist.
constexpr std::uint32_t kKeyMasked = kKeyOfNaN - 1, kKeyAbsent = 1, kKeyTaken = 0;

// order_key of a number that is neither NaN nor -0, and back.
GPU_DEVICE std::uint32_t key_of_number(float v) {
  const std::uint32_t bits = float_bits(v),
                      sign = static_cast<std::uint32_t>(static_cast<std::int32_t>(bits) >> 31);
  return bits ^ (sign | 0x80000000);
}
GPU_DEVICE float number_of_key(std::uint32_t key) {
  const std::uint32_t sign = static_cast<std::uint32_t>(static_cast<std::int32_t>(~key) >> 31);
  return bits_as<float>(key ^ (sign | 0x80000000));
}

GPU_DEVICE std::uint32_t more(std::uint32_t a, std::uint32_t b) { return a > b ? a : b; }
GPU_DEVICE std::uint32_t less(std::uint32_t a, std::uint32_t b) { return a < b ? a : b; }

// The largest keys of a lane, in descending order.
template <int V>
struct Best {
  static constexpr int kDepth = V < 4 ? V : 4;
  std::uint32_t key[kDepth];

  GPU_DEVICE void order(int i, int j) {
    const std::uint32_t high = more(key[i], key[j]);
    key[j] = less(key[i], key[j]);
    key[i] = high;
  }
  GPU_DEVICE void order_four() { order(0, 1), order(2, 3), order(0, 2), order(1, 3), order(1, 2); }

  GPU_DEVICE explicit Best(const std::uint32_t (&all)[V]) {
    GPU_UNROLL for (int i = 0; i < kDepth; ++i) key[i] = all[i];
    if constexpr (kDepth == 4) {
      order_four();
    } else {
      GPU_UNROLL for (int i = 1; i < kDepth; ++i) GPU_UNROLL for (int j = i; j > 0; --j) order(j - 1, j);
    }
    if constexpr (V % 4 == 0) {
      GPU_UNROLL for (int first = 4; first < V; first += 4) {
        const std::uint32_t four[4] = {all[first], all[first + 1], all[first + 2], all[first + 3]};
        const Best<4> other(four);
        GPU_UNROLL for (int i = 0; i < 4; ++i) key[i] = more(key[i], other.key[3 - i]);  // the four largest
        order(0, 2), order(1, 3), order(0, 1), order(2, 3);
      }
    } else {
      GPU_UNROLL for (int i = kDepth; i < V; ++i) {
        std::uint32_t v = all[i];
        GPU_UNROLL for (int j = 0; j < kDepth; ++j) {
          const std::uint32_t high = more(key[j], v);
          v = less(key[j], v);
          key[j] = high;
        }
      }
    }
  }
  GPU_DEVICE void take() {
    GPU_UNROLL for (int i = 0; i + 1 < kDepth; ++i) key[i] = key[i + 1];
    key[kDepth - 1] = kKeyTaken;
  }
};

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

// Groups that are 2^k whole lanes: whether this lane's group is selected. Lanes behind the last expert: true.
template <int W, int V>
GPU_DEVICE bool group_is_selected(const GatingArgs& a, const std::uint32_t (&key)[V], const Best<V>& best) {
  static_assert(V == 4 || V == 8 || V == 16);
  const bool distinct = a.group_score == GroupScore::kTop2Distinct;
  const int shift = a.group_shift - (V == 4 ? 2 : V == 8 ? 3 : 4), lanes = 1 << shift, me = lane<W>();
  std::uint32_t second = best.key[1];
  if (distinct) {
    second = kKeyOfMinusInf;
    GPU_UNROLL for (int i = 0; i < V; ++i) second = key[i] < best.key[0] ? more(second, key[i]) : second;
  }
  TopTwo t = {number_of_key(best.key[0]), number_of_key(second)};
  GATING_ROLLED for (int step = 1; step < lanes; step *= 2)
      t.add({shfl_xor<W>(t.first, step), shfl_xor<W>(t.second, step)}, distinct);
  const bool absent = me * V >= a.experts;
  const std::uint32_t mine =
      absent ? 0 : order_key(a.group_score == GroupScore::kMax ? t.first : t.first + t.second);
  // Group g ^ d comes before g if its key is larger, or equal and the highest bit of d is one of g (for kHigh: none of g).
  const int flip = a.group_tie == Tie::kHigh ? ~0 : 0, group = (me >> shift) ^ flip;
  int better = 0;
  const auto compare = [&](int d, int high) {
    const std::uint32_t other = shfl_xor<W>(mine, d << shift), first = mine - ((group & high) != 0);
    if (!(GPU_FAULT(kGpuWaveWidth32) && d << shift >= 32)) better += other > first;
  };
  if (a.groups > 4 && a.groups <= 8) {
    GPU_UNROLL for (int d = 1; d < 8; ++d) compare(d, d < 2 ? 1 : d < 4 ? 2 : 4);
  } else {
    GATING_ROLLED for (int d = 1, high = 1; high < a.groups; ++d) {
      compare(d, high);
      if (d + 1 == 2 * high) high = d + 1;
    }
  }
  return absent || better < a.topk_group;
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

// topk rounds among the lanes' best keys; of equal ones the lowest expert. Lane k gets the id of slot k, lanes behind them -1.
// False, of the whole wave, when these keys do not settle it: a lane has given all of its best, equal keys within a lane, or keys
// that are not above `floor`.
template <int W, int V>
GPU_DEVICE bool select_of_best(int topk, const std::uint32_t (&key)[V], Best<V> best, std::uint32_t floor,
                               int& id) {
  const int me = lane<W>();
  const LaneMask<W> before = (LaneMask<W>{1} << me) - 1;
  std::uint32_t top = 0, mine = 0;
  LaneMask<W> winners = 1;
  GATING_ROLLED for (int k = 0; k < topk; ++k) {
    top = wave_max<W>(best.key[0]);
    const bool hit = best.key[0] == top;
    const LaneMask<W> hits = ballot<W>(hit);
    if (me == k) {
      mine = top;
      winners = hits;
    }
    if (hit && (hits & before) == 0) best.take();
  }
  const int winner = count_bits(~winners & (winners - 1));
  int slot = V;
  GPU_UNROLL for (int i = V - 1; i >= 0; --i) slot = shfl<W>(key[i], winner) == mine ? i : slot;
  id = me < topk ? winner * V + slot : -1;
  const int previous = shfl_up<W>(id, 1);
  bool open = top <= floor || (me < topk && (slot == V || (me > 0 && id == previous)));
  if constexpr (V > Best<V>::kDepth) open = open || best.key[0] == kKeyTaken;
  return !any<W>(open);
}

// The same for any keys.
template <int W, int V>
GPU_DEVICE int select_of_all(int topk, std::uint32_t (&key)[V]) {
  const int me = lane<W>();
  const LaneMask<W> before = (LaneMask<W>{1} << me) - 1;
  int mine = -1;
  GATING_ROLLED for (int k = 0; k < topk; ++k) {
    std::uint32_t best = key[0];
    GPU_UNROLL for (int i = 1; i < V; ++i) best = more(best, key[i]);
    const std::uint32_t top = wave_max<W>(best);
    const LaneMask<W> hits = ballot<W>(best == top);
    bool here = best == top && (hits & before) == 0;
    int taken = 0;
    GPU_UNROLL for (int i = 0; i < V; ++i) {
      if (here && key[i] == top) {
        key[i] = kKeyTaken;
        taken = i;
        here = false;
      }
    }
    const int winner = count_bits(~hits & (hits - 1)), id = winner * V + shfl<W>(taken, winner);
    if (me == k) mine = id;
  }
  return mine;
}

// The same with ties in the policy's order.
template <int W, int V>
GPU_DEVICE int select_by_rank(const GatingArgs& a, std::uint32_t (&key)[V]) {
  using L = Layout<W, V>;
  std::uint32_t rank[V];
  GPU_UNROLL for (int i = 0; i < V; ++i) rank[i] = 0;
  each_of(rank, [&](int i, std::uint32_t) { return tie_rank(a.expert_tie, L::expert(i), a.experts); });
  int mine = -1;
  GATING_ROLLED for (int k = 0; k < a.topk; ++k) {
    std::uint32_t best = key[0], first = rank[0];
    GPU_UNROLL for (int i = 1; i < V; ++i) {
      const bool better = key[i] > best || (key[i] == best && rank[i] < first);
      best = better ? key[i] : best;
      first = better ? rank[i] : first;
    }
    const std::uint32_t top = wave_max<W>(best);
    const std::uint32_t winner = wave_min<W>(best == top ? first : ~0u);
    GPU_UNROLL for (int i = 0; i < V; ++i) key[i] = rank[i] == winner ? kKeyTaken : key[i];
    if (lane<W>() == k) mine = of_tie_rank(a.expert_tie, winner, a.experts);
  }
  return mine;
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::gating_kernels
