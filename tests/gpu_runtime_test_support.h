#pragma once
// A host executor with a runtime, and kernels to put on its streams.
#include <deque>
#include <string>
#include <vector>

#include "gpu_test_support.h"
#include "optimized/gpu/gpu.h"
#include "optimized/gpu/host/runtime.h"

namespace moecheck::gpu {

inline constexpr int kCount = 64;
inline constexpr std::size_t kBytes = kCount * sizeof(int);

GPU_KERNEL inline void put_all(int* x, int value) { x[thread_x()] = value; }
template <int kFactor>
GPU_KERNEL void scale_all(int* x) {
  x[thread_x()] *= kFactor;
}
GPU_KERNEL inline void add_all(const int* a, const int* b, int* sum) {
  sum[thread_x()] = a[thread_x()] + b[thread_x()];
}
GPU_KERNEL inline void leaves_early() {
  if (thread_x() == 7) return;
  block_barrier();
}

struct Machine {
  explicit Machine(host::RuntimeOptions options = {}) : use(executor), runtime(executor, options) {}

  int* ints() { return static_cast<int*>(memory.emplace_back(runtime, kBytes).data()); }
  void put(int* x, int value, Stream s) { launch(put_all, {.block = kCount, .stream = s}, x, value); }
  void add(const int* a, const int* b, int* sum, Stream s) {
    launch(add_all, {.block = kCount, .stream = s}, a, b, sum);
  }
  void scale(int* x, Stream s) { launch(scale_all<3>, {.block = kCount, .stream = s}, x); }
  // The value of all elements; -12345 when they differ. Waits for nothing.
  int value(const int* x) {
    std::vector<int> back(kCount);
    runtime.copy_out(back.data(), x, kBytes);
    for (const int v : back)
      if (v != back[0]) return -12345;
    return back[0];
  }

  host::Executor executor;
  host::UseExecutor use;
  host::HostRuntime runtime;
  std::deque<Memory> memory;
};

inline std::vector<host::RuntimeOptions> all_orders() {
  std::vector<host::RuntimeOptions> list = {{}, {.order = host::Order::kReverse}};
#ifdef MOECHECK_UNDER_TSAN
  constexpr std::uint64_t kSeeds = 4;
#else
  constexpr std::uint64_t kSeeds = 40;
#endif
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed)
    list.push_back({.order = host::Order::kSeeded, .seed = seed});
  return list;
}

// Orders in which program(machine, right) does not come out well.
template <class Program>
std::vector<std::string> wrong_orders(Program program, bool right) {
  std::vector<std::string> wrong;
  for (const host::RuntimeOptions& o : all_orders()) {
    Machine m(o);
    if (!program(m, right)) wrong.push_back(host::text(o.order, o.seed));
  }
  return wrong;
}

// program(machine, true) is to come out well in all orders, and program(machine, false) badly in some; under TSan as a race in any.
// Its child process starts anew: in a fork of one that has fibers TSan watches neither the host nor fibers made later.
template <class Program>
void expect_found(Program program) {
  EXPECT_EQ(wrong_orders(program, true), std::vector<std::string>());
#ifdef MOECHECK_UNDER_TSAN
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const host::Order order : {host::Order::kForward, host::Order::kReverse}) {
    EXPECT_RACE({
      Machine m({.order = order});
      program(m, false);
      m.runtime.wait_all();
    });
  }
#else
  EXPECT_FALSE(wrong_orders(program, false).empty());
#endif
}

}  // namespace moecheck::gpu
