#pragma once
// What both GEMMs of the experts share: which slots go to which expert, the run of slots of a block, what a slot's results become.
#include "optimized/gpu/experts_math.h"

namespace moecheck::MOECHECK_OPTIMIZED::experts_kernels {

GPU_DEVICE std::int64_t load_id(const void* ids, bool is_64_bit, std::int64_t i) {
  return is_64_bit ? static_cast<const std::int64_t*>(ids)[i] : static_cast<const std::int32_t*>(ids)[i];
}
GPU_DEVICE std::int64_t global_expert(const SlotMap& m, std::int64_t slot) {
  return m.ids == nullptr ? 0 : load_id(m.ids, m.ids_are_64_bit, slot);
}
// The expert's index in this rank's weights; -1: somebody else's, or nobody's.
GPU_DEVICE int local_expert(const SlotMap& m, std::int64_t slot) {
  std::int64_t id = global_expert(m, slot);
  if (id < 0 || id >= m.experts) return -1;
  if (m.map != nullptr) {
    if (id >= m.map_size) return -1;
    id = load_id(m.map, m.map_is_64_bit, id);
  } else if (id >= m.routed) {
    id += m.own - m.routed;
  } else {
    if (!GPU_FAULT(kGpuBlockRankOffset)) id -= m.first;
    if (id >= m.own) return -1;
  }
  return id >= 0 && id < m.local_experts ? static_cast<int>(id) : -1;
}

// Slots of one expert: a block's work.
struct SlotRun {
  int expert = 0, count = 0;
  const std::int32_t* slots = nullptr;
};

// Many slots: run `mine`, if there are so many. count is 0 for blocks without work.
GPU_DEVICE SlotRun sorted_run(const GemmArgs& a, int mine) {
  if (mine >= *a.run_count) return {};
  return {a.runs[3 * mine], a.runs[3 * mine + 2], a.sorted + a.runs[3 * mine + 1]};
}
// Few: the slots of `expert`, slot `mine`'s, if that is the first of them; count is 0 otherwise. other: the expert of the slot of
// the thread's number, -1 past the last. The whole block comes here; there is a barrier in it.
template <int W, int kWaves>
GPU_DEVICE SlotRun find_run(int mine, int expert, int other, LaneMask<W>* found, std::int32_t* list) {
  static_assert(kWaves * W >= kFewSlots, "a thread looks at one slot");
  const int thread = static_cast<int>(thread_x()), wave = wave_in_block<W>();
  const bool same = expert >= 0 && other == expert;
  const LaneMask<W> mask = ballot<W>(same);
  if (lane<W>() == 0) found[wave] = mask;
  block_barrier();
  int before = 0, count = 0;
  bool first = expert >= 0;
  for (int w = 0; w < kWaves; ++w) {
    if (w == wave) before = count;
    const LaneMask<W> earlier = w < mine / W    ? found[w]
                                : w == mine / W ? found[w] & ((LaneMask<W>{1} << mine % W) - 1)
                                                : 0;
    first = first && earlier == 0;
    count += count_bits(found[w]);
  }
  if (first && same) list[before + count_bits(mask & ((LaneMask<W>{1} << lane<W>()) - 1))] = thread;
  block_barrier();
  return {expert, first ? count : 0, list};
}

// The expert of the slot of the thread's number, as find_run() is asked.
GPU_DEVICE int expert_of_thread(const GemmArgs& a) {
  const int thread = static_cast<int>(thread_x());
  return thread < a.slots ? local_expert(a.slot_map, thread) : -1;
}

// Element `column` of the slot's a (gate_up).
GPU_DEVICE void store_activated(const GemmArgs& a, std::int64_t slot, int column, float gate, float up) {
  const float weight = a.router_weight != nullptr ? a.router_weight[slot] : 1.0F;
  store_float(a.out_dtype, a.out, slot * a.out_stride + column,
              gated_activation(a.activation, weight, gate, up));
}
// Element `column` of the slot's y (down).
GPU_DEVICE void store_slot(const GemmArgs& a, std::int64_t slot, int column, float y) {
  if (a.router_weight != nullptr) y *= a.router_weight[slot];
  if (a.round_out) y = rounded(a.round_dtype, y);
  store_float(a.out_dtype, a.out, slot * a.out_stride + column, y);
}

// Where a block's scales of one weight row begin.
GPU_DEVICE const float* scales_of_row(const GemmArgs& a, int expert, int row) {
  const std::int64_t blocks = (a.depth + kScaleBlock - 1) / kScaleBlock,
                     rows = (a.rows + kScaleBlock - 1) / kScaleBlock;
  return a.weight_scale + (expert * rows + row / kScaleBlock) * blocks;
}
GPU_DEVICE std::int64_t x_row(const GemmArgs& a, std::int32_t slot) {
  return a.x_is_per_token ? slot / a.topk : slot;
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::experts_kernels
