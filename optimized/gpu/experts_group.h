#pragma once
// Many slots: grouped by expert, and cut into runs for the GEMMs. The order within an expert is whatever the atomics
// make it; no result depends on it.
#include "optimized/gpu/experts_slots.h"

namespace moecheck::MOECHECK_OPTIMIZED::experts_kernels {

inline constexpr int kGroupThreads = 512;

struct GroupArgs {
  SlotMap slot_map;
  std::int64_t slots = 0;
  std::int32_t *sorted = nullptr, *runs = nullptr,
               *run_count = nullptr;  // runs [.., 3]: expert, first, count
  std::int32_t run_slots = kRunSlots;
};

// One block. Dynamic shared memory: local_experts integers.
template <int W>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kGroupThreads) group_slots(const GroupArgs a) {
  GPU_DYNAMIC_SHARED(std::int32_t, next);  // how many slots an expert has, then where its next one goes
  const int thread = static_cast<int>(thread_x()), experts = static_cast<int>(a.slot_map.local_experts);
  for (int e = thread; e < experts; e += kGroupThreads) next[e] = 0;
  block_barrier();
  for (std::int64_t s = thread; s < a.slots; s += kGroupThreads)
    if (const int e = local_expert(a.slot_map, s); e >= 0) atomic_add(next + e, 1);
  block_barrier();
  if (thread < W) {  // a lane has a run of experts
    const int each = (experts + W - 1) / W, begin = thread * each,
              end = begin + each < experts ? begin + each : experts;
    int slots = 0, runs = 0;
    for (int e = begin; e < end; ++e) slots += next[e], runs += (next[e] + a.run_slots - 1) / a.run_slots;
    int first = slots, run = runs;
    for (int step = 1; step < (GPU_FAULT(kGpuExpertsScanWidth32) ? 32 : W); step *= 2) {
      const int s = shfl_up<W>(first, step), r = shfl_up<W>(run, step);
      if (thread >= step) first += s, run += r;
    }
    if (thread == W - 1) *a.run_count = run;
    first -= slots, run -= runs;
    for (int e = begin; e < end; ++e) {
      const int count = next[e];
      next[e] = first;
      for (int i = 0; i < count; i += a.run_slots, ++run) {
        a.runs[3 * run] = e;
        a.runs[3 * run + 1] = first + i;
        a.runs[3 * run + 2] = count - i < a.run_slots ? count - i : a.run_slots;
      }
      first += count;
    }
  }
  block_barrier();
  for (std::int64_t s = thread; s < a.slots; s += kGroupThreads)
    if (const int e = local_expert(a.slot_map, s); e >= 0)
      a.sorted[atomic_add(next + e, 1)] = static_cast<std::int32_t>(s);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED::experts_kernels
