// Injected bugs: kernels with one mistake each, and which build and order finds it.
//
//   bug                                     plain forward  reverse  seeds    ASan     TSan
//   missing barrier, every thread writes    found          found    found    found    found, any order
//   missing barrier, thread 0 writes        missed         found    found    -        found, any order
//   shuffle used as a fence                 missed         missed   missed   missed   found, any order
//   part of a wave leaves a shuffle loop    found          found    found    found    found (a deadlock)
//   early return before a barrier           found          found    found    found    found (a deadlock)
//   read past a shared array                poison         poison   poison   found    poison
//   write past a shared array               found (guard)  found    found    found    found (guard)
//   blocks race on global memory            missed         missed   missed   missed   found
// "poison": what is read there is NaN, so a kernel that uses it is found. The two that only diagnoses find are in gpu_host_test.cpp.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "gpu_test_support.h"
#include "optimized/gpu/gpu.h"

namespace moecheck::gpu {
namespace {

using host::Executor;
using host::Order;
using host::UseExecutor;

// Every thread takes the number of its neighbour in the next wave.
template <int W>
GPU_KERNEL void ring(int* out, bool barrier) {
  GPU_SHARED(int, number, 2 * W);
  const unsigned me = thread_in_block();
  number[me] = static_cast<int>(me);
  if (barrier) block_barrier();
  out[me] = number[(me + W) % (2 * W)];
}

// Thread 0 prepares what all use.
template <int W>
GPU_KERNEL void prepared_by_one(int* out, bool barrier) {
  GPU_SHARED(int, prepared, 1);
  if (thread_in_block() == 0) prepared[0] = 42;
  if (barrier) block_barrier();
  out[thread_in_block()] = prepared[0];
}

// Lanes exchange through shared memory, with a shuffle where the wave barrier belongs.
template <int W>
GPU_KERNEL void fenced_by_shuffle(int* out, bool barrier) {
  GPU_SHARED(int, number, W);
  const int me = lane<W>();
  number[me] = me;
  if (barrier)
    wave_barrier<W>();
  else
    (void)shfl_xor<W>(me, 1);
  out[me] = number[me ^ 1];
}

template <int W>
GPU_KERNEL void reads_past_array(float* out, int count) {
  GPU_SHARED(float, number, W);
  number[lane<W>()] = 1;
  wave_barrier<W>();
  float sum = 0;
  const float* p = number;  // UBSan knows the array's bound, and would be first
  for (int i = 0; i < count; ++i) sum += p[i];
  out[lane<W>()] = sum;
}

template <int W>
GPU_KERNEL void writes_past_array(int count) {
  GPU_SHARED(float, number, W);
  float* p = number;
  if (lane<W>() == 0)
    for (int i = 0; i < count; ++i) p[i] = 1;
}

GPU_KERNEL void blocks_add(int* sum, bool atomic) {
  if (atomic)
    atomic_add(sum, 1);
  else
    *sum += 1;
}

// Wrong elements of what kernel(out, barrier) writes, where thread t should write expected(t).
template <class Kernel, class Expected>
int wrong(Kernel kernel, unsigned threads, bool barrier, Expected expected) {
  std::vector<int> out(threads);
  launch(kernel, {.block = threads}, out.data(), barrier);
  int count = 0;
  for (unsigned t = 0; t < threads; ++t) count += out[t] != static_cast<int>(expected(t));
  return count;
}

TEST(GpuHostBugs, RightKernelsAreRight) {
  for_all_schedules([]<int W>(Width<W>, Executor&) {
    EXPECT_EQ(wrong(ring<W>, 2 * W, true, [](unsigned t) { return (t + W) % (2 * W); }), 0);
    EXPECT_EQ(wrong(prepared_by_one<W>, 2 * W, true, [](unsigned) { return 42; }), 0);
    EXPECT_EQ(wrong(fenced_by_shuffle<W>, W, true, [](unsigned t) { return t ^ 1; }), 0);
    int sum = 0;
    launch(blocks_add, {.grid = 7, .block = 3}, &sum, true);
    EXPECT_EQ(sum, 21);
    std::vector<float> out(W);
    launch(reads_past_array<W>, {.block = W}, out.data(), W);
    EXPECT_EQ(out[0], static_cast<float>(W));
    launch(writes_past_array<W>, {.block = W}, W);
  });
}

TEST(GpuHostBugs, MissingBarrierIsFoundInAnyOrder) {
  for_all_schedules([]<int W>(Width<W>, Executor& executor) {
#ifdef MOECHECK_UNDER_TSAN
    if (executor.options().seed <= 1) {
      EXPECT_RACE(wrong(ring<W>, 2 * W, false, [](unsigned t) { return t; }));
    }
#else
    EXPECT_GT(wrong(ring<W>, 2 * W, false, [](unsigned t) { return (t + W) % (2 * W); }), 0);
    (void)executor;
#endif
  });
}

TEST(GpuHostBugs, MissingBarrierAfterThreadZeroIsFoundInReverse) {
  for_all_schedules([]<int W>(Width<W>, Executor& executor) {
#ifdef MOECHECK_UNDER_TSAN
    if (executor.options().seed <= 1) {
      EXPECT_RACE(wrong(prepared_by_one<W>, 2 * W, false, [](unsigned) { return 42; }));
    }
#else
    const int n = wrong(prepared_by_one<W>, 2 * W, false, [](unsigned) { return 42; });
    if (executor.options().order == Order::kForward)
      EXPECT_EQ(n, 0) << "forward cannot find it: say so above";
    else
      EXPECT_GT(n, 0);
#endif
  });
}

TEST(GpuHostBugs, ShuffleAsAFenceIsFoundByTSanAlone) {
  for_all_schedules([]<int W>(Width<W>, Executor& executor) {
#ifdef MOECHECK_UNDER_TSAN
    if (executor.options().seed <= 1) {
      EXPECT_RACE(wrong(fenced_by_shuffle<W>, W, false, [](unsigned t) { return t ^ 1; }));
    }
#else
    EXPECT_EQ(wrong(fenced_by_shuffle<W>, W, false, [](unsigned t) { return t ^ 1; }), 0);
    (void)executor;
#endif
  });
}

TEST(GpuHostBugs, BlocksThatRaceAreFoundByTSan) {
  Executor executor;
  const UseExecutor use(executor);
  int sum = 0;
#ifdef MOECHECK_UNDER_TSAN
  EXPECT_RACE(launch(blocks_add, {.grid = 2, .block = 2}, &sum, false));
#endif
  launch(blocks_add, {.grid = 1, .block = 1}, &sum, false);
  EXPECT_EQ(sum, 1);
}

TEST(GpuHostBugs, ReadPastASharedArray) {
  for_all_schedules([]<int W>(Width<W>, Executor&) {
    std::vector<float> out(W);
    const auto run = [&] { launch(reads_past_array<W>, {.block = W}, out.data(), W + 1); };
#ifdef MOECHECK_UNDER_ASAN
    EXPECT_DEATH(run(), "AddressSanitizer: heap-buffer-overflow");
#else
    run();
    EXPECT_TRUE(std::isnan(out[0]) || std::fabs(out[0]) > 1e30F) << out[0];  // the guard's bytes
#endif
  });
}

TEST(GpuHostBugs, WritePastASharedArray) {
  for_all_schedules([]<int W>(Width<W>, Executor&) {
#ifdef MOECHECK_UNDER_ASAN
    EXPECT_DEATH(launch(writes_past_array<W>, {.block = W}, W + 1), "AddressSanitizer: heap-buffer-overflow");
#else
    expect_error(host::Kind::kShared, [] { launch(writes_past_array<W>, {.block = W}, W + 1); },
                 {"shared array `number` of ",
                  " bytes (gpu_host_bugs_test.cpp:", ") was written past its end [block 0,0,0"});
#endif
  });
}

TEST(GpuHostBugs, SwitchesAreCounted) {
  Executor executor;
  const UseExecutor use(executor);
  std::vector<int> out(64);
  launch(fenced_by_shuffle<32>, {.block = 32}, out.data(), true);
  EXPECT_GE(executor.statistics().switches, 32u);
  EXPECT_EQ(executor.statistics().wave_operations, 1u);
  executor.reset_statistics();
  EXPECT_EQ(executor.statistics().switches, 0u);
}

}  // namespace
}  // namespace moecheck::gpu
