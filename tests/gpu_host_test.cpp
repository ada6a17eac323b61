// The host executor: what kernels may do, what they may not and how that is said, and which planted bugs it finds in which build.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include "gpu_test_support.h"
#include "optimized/gpu/gpu.h"
#include "optimized/gpu/host/executor.h"

namespace moecheck::gpu {
namespace {

using host::Executor;
using host::Kind;
using host::Order;
using host::UseExecutor;

// ---- right kernels

GPU_KERNEL void write_identity(std::uint32_t* out) {
  const unsigned block = block_x() + grid_dim_x() * (block_y() + grid_dim_y() * block_z());
  const unsigned threads = block_dim_x() * block_dim_y() * block_dim_z();
  out[block * threads + thread_in_block()] +=
      thread_x() + 100 * thread_y() + 10000 * thread_z() + 1000000 * block;
}

TEST(GpuHost, EveryThreadOfEveryBlockRunsOnce) {
  for_all_schedules([](auto, Executor& executor) {
    std::vector<std::uint32_t> out(6 * 60);
    launch(write_identity, {.grid = {3, 2, 1}, .block = {5, 4, 3}}, out.data());
    for (unsigned i = 0; i < out.size(); ++i) {
      const unsigned t = i % 60;
      EXPECT_EQ(out[i], t % 5 + 100 * (t / 5 % 4) + 10000 * (t / 20) + 1000000 * (i / 60));
    }
    EXPECT_EQ(executor.statistics().threads, 360u);
    EXPECT_EQ(executor.statistics().blocks, 6u);
  });
}

template <int W>
GPU_KERNEL void shuffle_all(int* out) {
  const int me = lane<W>(), at = 6 * static_cast<int>(thread_in_block());
  out[at + 0] = shfl<W>(me, 3);
  out[at + 1] = shfl_up<W>(me, 5);
  out[at + 2] = shfl_down<W>(me, 5);
  out[at + 3] = shfl_xor<W>(me, W / 2);
  out[at + 4] =
      static_cast<int>(shfl<W>(1000000000000.0 + me, me + 1) - 1000000000000.0);  // 8 bytes; wraps at the end
  out[at + 5] = static_cast<int>(wave_max<W>(static_cast<unsigned>(me * 7 % W)) +
                                 1000 * wave_min<W>(static_cast<unsigned>(me + 4)));
}

TEST(GpuHost, Shuffles) {
  for_all_schedules([]<int W>(Width<W>, Executor&) {
    std::vector<int> out(6 * 2 * W);
    launch(shuffle_all<W>, {.block = 2 * W}, out.data());
    for (int t = 0; t < 2 * W; ++t) {
      const int l = t % W, *got = out.data() + 6 * t;
      EXPECT_EQ(got[0], 3);
      EXPECT_EQ(got[1], l < 5 ? l : l - 5);
      EXPECT_EQ(got[2], l + 5 < W ? l + 5 : l);
      EXPECT_EQ(got[3], l ^ (W / 2));
      EXPECT_EQ(got[4], (l + 1) % W);
      EXPECT_EQ(got[5], W - 1 + 4000);
    }
  });
}

// Halves of a wave do different things at different lines, each with its own mask.
template <int W>
GPU_KERNEL void masked(std::uint64_t* out) {
  const LaneMask<W> low = kAllLanes<W> >> (W / 2), high = ~low;
  const int me = lane<W>();
  std::uint64_t got = 0;
  if (me < W / 2) {
    got = ballot<W>(low, me % 3 == 0);
    got += any<W>(low, me == 100) ? 1000u : 0u;
  } else {
    got = static_cast<std::uint64_t>(shfl_xor<W>(high, me, 1));
    wave_barrier<W>(high);
    got += all<W>(high, me >= W / 2) ? 1000u : 0u;
  }
  out[thread_in_block()] = got;
}

TEST(GpuHost, MaskedOperationsOfOneWave) {
  for_all_schedules([]<int W>(Width<W>, Executor&) {
    std::vector<std::uint64_t> out(W);
    launch(masked<W>, {.block = W}, out.data());
    for (int l = 0; l < W; ++l)
      EXPECT_EQ(out[static_cast<std::size_t>(l)],
                l < W / 2 ? 0x9249249249249249u & ((std::uint64_t{1} << W / 2) - 1)
                          : static_cast<std::uint64_t>(l ^ 1) + 1000);
  });
}

template <int W>
GPU_KERNEL void last_wave_is_partial(int* out) {
  out[thread_in_block()] = count_bits(ballot<W>(true));
}

TEST(GpuHost, APartialWaveHasTheLanesThatExist) {
  for_all_schedules([]<int W>(Width<W>, Executor&) {
    std::vector<int> out(W + 8);
    launch(last_wave_is_partial<W>, {.block = W + 8}, out.data());
    EXPECT_EQ(out[0], W);
    EXPECT_EQ(out[W], 8);
  });
}

// Sums a block's numbers: waves by shuffles, then through shared memory, static and dynamic.
template <int W>
GPU_KERNEL void block_sum(const float* in, float* out, int* poison) {
  GPU_SHARED(float, partial, 16);
  GPU_DYNAMIC_SHARED(float, copy);
  const unsigned me = thread_in_block(), threads = block_dim_x();
  if (me == 0 && partial[3] != partial[3] && copy[5] != copy[5]) atomic_add(poison, 1);
  block_barrier();
  copy[me] = in[block_x() * threads + me];
  block_barrier();
  float sum = copy[threads - 1 - me];
  for (int step = W / 2; step > 0; step /= 2) sum += shfl_xor<W>(sum, step);
  if (lane<W>() == 0) partial[wave_in_block<W>()] = sum;
  block_barrier();
  if (me != 0) return;
  sum = 0;
  for (unsigned w = 0; w < threads / W; ++w) sum += partial[w];
  out[block_x()] = sum;
}

TEST(GpuHost, SharedMemoryIsFreshAndPoisonedInEveryBlock) {
  for_all_schedules([]<int W>(Width<W>, Executor& executor) {
    std::vector<float> in(4 * 256), out(4);
    std::iota(in.begin(), in.end(), 0.0F);
    int poison = 0;
    launch(block_sum<W>, {.grid = 4, .block = 256, .dynamic_shared = 256 * sizeof(float)}, in.data(),
           out.data(), &poison);
    for (std::size_t b = 0; b < 4; ++b) EXPECT_EQ(out[b], 256 * 127.5F + 65536.0F * static_cast<float>(b));
    EXPECT_EQ(poison, 4);
    EXPECT_EQ(executor.statistics().barriers, 12u);
    EXPECT_EQ(executor.statistics().shared_bytes, 64u + 1024u);
  });
}

GPU_KERNEL void count_atomically(unsigned* counter, float* sum, int* largest, std::uint64_t* wide) {
  atomic_add(counter, 1u);
  atomic_add(sum, 0.5F);
  atomic_max(largest, static_cast<int>(thread_x()) - 10);
  atomic_min(largest + 1, -static_cast<int>(thread_x()));
  atomic_add(wide, std::uint64_t{1} << 33);
  atomic_cas(counter + 1, 0u, thread_x() + 1);
}

TEST(GpuHost, Atomics) {
  for_all_schedules([](auto, Executor& executor) {
    unsigned counter[2] = {};
    float sum = 0;
    int largest[2] = {};
    std::uint64_t wide = 0;
    launch(count_atomically, {.grid = 5, .block = 96}, counter, &sum, largest, &wide);
    EXPECT_EQ(counter[0], 480u);
    EXPECT_GE(counter[1], 1u);
    EXPECT_EQ(sum, 240.0F);
    EXPECT_EQ(largest[0], 85);
    EXPECT_EQ(largest[1], -95);
    EXPECT_EQ(wide, std::uint64_t{480} << 33);
    EXPECT_GE(executor.statistics().atomics, 6u * 480u);
  });
}

struct Record {
  unsigned count = 0;
  std::vector<unsigned> seen = std::vector<unsigned>(120);
};
GPU_KERNEL void record_order(Record* r) {
  r->seen[atomic_add(&r->count, 1u)] = block_x() * 1000 + thread_x();
}

TEST(GpuHost, OrdersDifferAndSeedsRepeat) {
  const auto order_of = [](Order order, std::uint64_t seed) {
    Executor executor({.order = order, .seed = seed});
    const UseExecutor use(executor);
    Record r;
    launch(record_order, {.grid = 3, .block = 40}, &r);
    return r.seen;
  };
  std::vector<unsigned> forward = order_of(Order::kForward, 0), reverse = order_of(Order::kReverse, 0);
  EXPECT_TRUE(std::is_sorted(forward.begin(), forward.end()));
  std::reverse(reverse.begin(), reverse.end());
  EXPECT_EQ(reverse, forward);
  EXPECT_EQ(order_of(Order::kSeeded, 7), order_of(Order::kSeeded, 7));
  EXPECT_NE(order_of(Order::kSeeded, 7), order_of(Order::kSeeded, 8));
  std::vector<unsigned> seeded = order_of(Order::kSeeded, 7);
  EXPECT_NE(seeded, forward);
  std::sort(seeded.begin(), seeded.end());
  EXPECT_EQ(seeded, forward);
}

// A barrier over all blocks, by hand.
GPU_KERNEL void grid_barrier(unsigned* arrived, unsigned* seen) {
  block_barrier();
  if (thread_x() == 0) {
    atomic_add(arrived, 1u);
    while (load_acquire(arrived) < grid_dim_x()) spin_pause();
  }
  block_barrier();
  seen[block_x()] = load_acquire(arrived);
}

TEST(GpuHost, ResidentBlocksWaitForEachOther) {
  for_all_schedules([](auto, Executor&) {
    unsigned arrived = 0;
    std::vector<unsigned> seen(6);
    launch(grid_barrier, {.grid = 6, .block = 1, .all_resident = true}, &arrived, seen.data());
    EXPECT_EQ(seen, std::vector<unsigned>(6, 6));
  });
}

// ---- wrong kernels, and what is said

template <int W>
GPU_KERNEL void returns_before_barrier(int* out) {
  if (thread_x() >= 10) return;
  block_barrier();
  atomic_add(out, 1);
}
constexpr int kBarrierLine = __LINE__ - 3;

TEST(GpuHostDiagnosis, EarlyReturnBeforeABarrier) {
  for_all_schedules([]<int W>(Width<W>, Executor&) {
    int out = 0;
    expect_error(Kind::kDeadlock, [&] { launch(returns_before_barrier<W>, {.grid = 2, .block = 16}, &out); },
                 {"deadlock: a wave operation or barrier is not reached by every thread it names [block ",
                  ",0,0, wave width ",
                  "\n    threads 0..9: block_barrier at gpu_host_test.cpp:" + std::to_string(kBarrierLine),
                  "\n    threads 10..15: finished"});
    EXPECT_EQ(out, 0);
  });
}

template <int W>
GPU_KERNEL void leaves_shuffle_loop(int* out, int rounds) {
  int v = lane<W>();
  for (int i = 0; i < rounds + (lane<W>() < 16); ++i) v += shfl_xor<W>(v, 1);
  block_barrier();
  out[thread_x()] = v;
}
constexpr int kShuffleLine = __LINE__ - 4;

TEST(GpuHostDiagnosis, PartOfAWaveLeavesAShuffleLoop) {
  for_all_schedules([]<int W>(Width<W>, Executor&) {
    std::vector<int> out(2 * W);
    expect_error(Kind::kDeadlock, [&] { launch(leaves_shuffle_loop<W>, {.block = W}, out.data(), 3); },
                 {"[block 0,0,0, wave width " + std::to_string(W) + "]",
                  "\n    threads 0..15: shfl_xor at gpu_host_test.cpp:" + std::to_string(kShuffleLine),
                  "\n    threads 16.." + std::to_string(W - 1) +
                      ": block_barrier at gpu_host_test.cpp:" + std::to_string(kShuffleLine + 1)});
  });
}

template <int W>
GPU_KERNEL void different_barriers(int* out) {
  if (thread_x() < 3) {
    block_barrier();
  } else {
    block_barrier();
  }
  atomic_add(out, 1);
}

TEST(GpuHostDiagnosis, DifferentBarriers) {
  for_all_schedules([]<int W>(Width<W>, Executor&) {
    int out = 0;
    expect_error(Kind::kDivergence, [&] { launch(different_barriers<W>, {.block = 5}, &out); },
                 {"divergence: threads of one block wait at different barriers [block 0,0,0",
                  "threads 0..2: block_barrier at gpu_host_test.cpp:",
                  "threads 3..4: block_barrier at gpu_host_test.cpp:"});
    EXPECT_EQ(out, 0);
  });
}

template <int W>
GPU_KERNEL void reads_unnamed_lane(int* out) {
  if (lane<W>() < 16) out[lane<W>()] = shfl<W>(LaneMask<W>{0xFFFF}, lane<W>(), lane<W>() + 1);
}
template <int W>
GPU_KERNEL void unnamed_caller(int* out) {
  out[lane<W>()] = ballot<W>(LaneMask<W>{0xFFFE}, true) != 0;
}
template <int W>
GPU_KERNEL void reads_lane_that_is_not_there(int* out) {
  out[lane<W>()] = shfl_xor<W>(lane<W>(), 8);
}

TEST(GpuHostDiagnosis, Lanes) {
  for_all_schedules([]<int W>(Width<W>, Executor&) {
    std::vector<int> out(W);
    expect_error(Kind::kLane, [&] { launch(reads_unnamed_lane<W>, {.block = W}, out.data()); },
                 {"lane: shfl at gpu_host_test.cpp:", ": lane 15 reads lane 16, which its mask 0x",
                  "ffff does not name"});
    expect_error(Kind::kLane, [&] { launch(unnamed_caller<W>, {.block = W}, out.data()); },
                 {"lane: ballot at gpu_host_test.cpp:", ", which its mask 0x", "fffe does not name"});
    expect_error(Kind::kLane, [&] { launch(reads_lane_that_is_not_there<W>, {.block = 8}, out.data()); },
                 {"reads lane 8, which the block does not have"});
  });
}

GPU_KERNEL void spins(const unsigned* flag) {
  while (load_acquire(flag) == 0) spin_pause();
}
GPU_KERNEL void spins_without_pause(const unsigned* flag) {
  while (load_acquire(flag) == 0) {
  }
}

TEST(GpuHostDiagnosis, SpinningThatNobodyEnds) {
  for_all_schedules([](auto, Executor&) {
    unsigned flag = 0, seen[6] = {};
    expect_error(Kind::kLivelock, [&] { launch(spins, {.block = 4}, &flag); },
                 {"livelock: every thread that still runs spins, and nobody makes progress [block 0,0,0",
                  "threads 0..3: spinning at gpu_host_test.cpp:"});
    expect_error(Kind::kLivelock, [&] { launch(spins_without_pause, {.block = 4}, &flag); }, {"livelock"});
    expect_error(Kind::kLivelock, [&] { launch(grid_barrier, {.grid = 6, .block = 2}, &flag, seen); },
                 {"if it waits for another block, launch with all blocks resident"});
  });
}

GPU_KERNEL void does_nothing() {}
template <int W>
GPU_KERNEL void much_shared(int* out) {
  GPU_SHARED(int, tile, 16 * 1024 - 8);
  GPU_SHARED(float, more, 64);
  tile[thread_x()] = 1;
  more[thread_x()] = 1;
  atomic_max(out, 1);
}
GPU_KERNEL void asks_dynamic(int* out) {
  GPU_DYNAMIC_SHARED(int, values);
  out[0] = values[0];
}

TEST(GpuHostDiagnosis, LimitsOfALaunch) {
  Executor wide({.wave = 64}), narrow({.wave = 32});
  const UseExecutor use(wide);
  int out = 0;
  const auto refused = [](const LaunchConfig& c, std::string what) {
    expect_error(Kind::kLaunch, [&] { launch(does_nothing, c); }, {std::move(what)});
  };
  refused({.block = 1025}, "launch: block 1025,1,1 has 1025 threads: at most 1024");
  refused({.block = {1, 1, 65}}, "at most 64 in z");
  refused({.grid = {1, 65536}, .block = 1}, "at most 2147483647 x 65535 x 65535");
  refused({.grid = 0, .block = 1}, "every dimension must be at least 1");
  refused({.block = 32, .wave = 32}, "a kernel for waves of 32 lanes on a device whose waves have 64");
  refused({.block = 1, .dynamic_shared = 65537}, "65537 bytes of dynamic shared memory: at most 65536");
  refused({.grid = 17, .block = 1024, .all_resident = true},
          "17 blocks of 1024 threads all resident: at most 16384 threads");
  expect_error(Kind::kLaunch, [&] { launch(much_shared<64>, {.block = 64}, &out); },
               {"bytes of shared memory exceed the limit of 65536: tile 65504 bytes (gpu_host_test.cpp:",
                "), more 256 bytes ("});
  expect_error(Kind::kShared, [&] { launch(asks_dynamic, {.block = 1}, &out); },
               {"and the launch gave none"});
  EXPECT_EQ(out, 0);
  const UseExecutor other(narrow);  // 227 KiB
  launch(much_shared<32>, {.block = 64}, &out);
  EXPECT_EQ(out, 1);
  narrow.set_options({.shared_limit = 48 << 10});
  expect_error(Kind::kLaunch, [&] { launch(much_shared<32>, {.block = 64}, &out); },
               {"exceed the limit of 49152"});
}

GPU_KERNEL void loads_16(const char* p, Bytes16* out) { *out = load16(p); }

TEST(GpuHostDiagnosis, MisalignedAccess) {
  alignas(16) char bytes[64] = {};
  Bytes16 out{};
  launch(loads_16, {.block = 1}, bytes + 16, &out);
  expect_error(Kind::kAlignment, [&] { launch(loads_16, {.block = 1}, bytes + 4, &out); },
               {"alignment: an access of 16 bytes at gpu_host_test.cpp:", "4 bytes past a multiple of it"});
}

GPU_KERNEL void throws(int* ran) {
  atomic_add(ran, 1);
  block_barrier();
  if (thread_x() == 3) throw std::runtime_error("from a kernel");
  block_barrier();
}

TEST(GpuHostDiagnosis, AnExceptionOfAKernelReachesTheCaller) {
  for_all_schedules([](auto, Executor&) {
    for (int again = 0; again < 3; ++again) {
      int ran = 0;
      EXPECT_THROW(launch(throws, {.block = 64}, &ran), std::runtime_error);
      EXPECT_EQ(ran, 64);
    }
  });
}

TEST(GpuHostDiagnosis, OutsideAKernel) {
  expect_error(Kind::kDevice, [] { block_barrier(); }, {"block_barrier outside a kernel"});
}

TEST(GpuHostDiagnosis, TheExecutorStaysUsable) {
  for_all_schedules([]<int W>(Width<W>, Executor&) {
    for (int again = 0; again < 5; ++again) {
      std::vector<int> out(6 * 2 * W);
      EXPECT_THROW(launch(leaves_shuffle_loop<W>, {.grid = 3, .block = 2 * W}, out.data(), again),
                   host::Error);
      launch(shuffle_all<W>, {.block = 2 * W}, out.data());
      for (int t = 0; t < 2 * W; ++t) EXPECT_EQ(out[static_cast<std::size_t>(6 * t + 3)], (t % W) ^ (W / 2));
    }
  });
}

}  // namespace
}  // namespace moecheck::gpu
