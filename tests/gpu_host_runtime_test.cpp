// The host executor's runtime: what runs when, in which orders, and how misuse is said. Capture is in gpu_host_capture_test.cpp.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "gpu_runtime_test_support.h"

namespace moecheck::gpu {
namespace {

using host::Kind;
using host::Order;

TEST(GpuHostRuntime, NothingRunsUntilSomebodyWaits) {
  Machine m;
  int* const x = m.ints();
  const Stream s = m.runtime.create_stream();
  m.runtime.fill(x, 0, kBytes, s);
  m.put(x, 7, s);
#ifndef MOECHECK_UNDER_TSAN  // to which reading without a wait is a race
  EXPECT_EQ(m.value(x), -1) << "memory is not initialized: filled with 0xFF";
#endif
  EXPECT_TRUE(m.runtime.trace().empty());
  m.runtime.wait(s);
  EXPECT_EQ(m.value(x), 7);
  EXPECT_EQ(m.runtime.trace_text(), "0 fill, 0 put_all");
  m.runtime.clear_trace();
  m.scale(x, s);
  m.runtime.copy(m.ints(), x, kBytes, s);
  m.runtime.wait_all();
  EXPECT_EQ(m.runtime.trace_text(), "0 scale_all<3>, 0 copy");
  EXPECT_EQ(m.value(x), 21);
  EXPECT_EQ(m.runtime.api(), "host");
  EXPECT_EQ(m.runtime.device(), "host executor");
}

TEST(GpuHostRuntime, ArgumentsAreThoseOfTheCall) {
  Machine m;
  int* const x = m.ints();
  const Stream s = m.runtime.create_stream();
  int v = 3;
  launch(put_all, {.block = kCount, .stream = s}, x, v);
  v = 4;
  m.runtime.wait(s);
  EXPECT_EQ(m.value(x), 3);
  launch(put_all, {.block = kCount}, x, v);  // without a stream: at once
  EXPECT_EQ(m.value(x), 4);
}

// Which streams the trace names, in order: "001".
std::string streams(const host::HostRuntime& runtime) {
  std::string all;
  for (const host::Operation& o : runtime.trace()) all += static_cast<char>('0' + o.stream);
  return all;
}

TEST(GpuHostRuntime, OrdersOfTwoStreams) {
  const auto run = [](host::RuntimeOptions options, int waited) {
    Machine m(options);
    const Stream s[] = {m.runtime.create_stream(), m.runtime.create_stream()};
    for (int i = 0; i < 3; ++i)
      for (const Stream one : s) m.runtime.fill(m.ints(), 0, kBytes, one);
    m.runtime.wait(s[waited]);
    const std::string ran = streams(m.runtime);
    m.runtime.wait_all();  // before the memory goes
    return ran;
  };
  EXPECT_EQ(run({}, 0), "000");
  EXPECT_EQ(run({}, 1), "000111");
  EXPECT_EQ(run({.order = Order::kReverse}, 1), "111");
  EXPECT_EQ(run({.order = Order::kReverse}, 0), "111000");
  std::set<std::string> seen;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const host::RuntimeOptions options{.order = Order::kSeeded, .seed = seed};
    const std::string order = run(options, 0);
    EXPECT_EQ(order, run(options, 0)) << "a seed is one order";
    EXPECT_EQ(std::count(order.begin(), order.end(), '0'), 3);
    seen.insert(order);
  }
  // All that a device could do: 0 to 2 operations of stream 1 anywhere before the last of stream 0, or all 3.
  EXPECT_GE(seen.size(), 19u);
  EXPECT_TRUE(seen.contains("000"));
  EXPECT_TRUE(seen.contains("111000"));
  EXPECT_TRUE(seen.contains("01010"));
}

// ---- missing waits

TEST(GpuHostRuntime, ReadBeforeWritten) {
  expect_found([](Machine& m, bool event) {
    int *const x = m.ints(), *const y = m.ints();
    const Stream b = m.runtime.create_stream(), a = m.runtime.create_stream();
    const Event e = m.runtime.create_event();
    for (int i = 0; i < 8; ++i) m.put(x, i, a);
    if (event) m.runtime.record(e, a), m.runtime.wait_event(b, e);
    m.add(x, x, y, b);
    m.runtime.wait(b);
    return m.value(y) == 14;
  });
}

TEST(GpuHostRuntime, OverwrittenBeforeRead) {
  expect_found([](Machine& m, bool event) {
    int *const x = m.ints(), *const y = m.ints();
    const Stream a = m.runtime.create_stream(), b = m.runtime.create_stream();
    const Event e = m.runtime.create_event();
    launch(put_all, {.block = kCount}, x, 5);
    m.add(x, x, y, a);
    if (event) m.runtime.record(e, a), m.runtime.wait_event(b, e);
    for (int i = 0; i < 8; ++i) m.put(x, i, b);
    m.runtime.wait(b);
    m.runtime.wait(a);
    return m.value(y) == 10;
  });
}

TEST(GpuHostRuntime, ReadBackBeforeItIsDone) {
  expect_found([](Machine& m, bool wait) {
    int* const x = m.ints();
    const Stream a = m.runtime.create_stream();
    m.put(x, 5, a);
    if (wait) m.runtime.wait(a);
    const bool right = m.value(x) == 5;
    m.runtime.wait(a);
    return right;
  });
}

// The device is quick, and has read x before the host writes it.
TEST(GpuHostRuntime, CopiedInTooLate) {
  expect_found([](Machine& m, bool early) {
    int *const x = m.ints(), *const y = m.ints();
    const Stream a = m.runtime.create_stream();
    const std::vector<int> values(kCount, 4);
    if (early) m.runtime.copy_in(x, values.data(), kBytes);
    m.add(x, x, y, a);
    if (!early) m.runtime.copy_in(x, values.data(), kBytes);
    m.runtime.wait(a);
    return m.value(y) == 8;
  });
}

// ---- events

TEST(GpuHostRuntime, AWaitIsForWhatWasRecordedThen) {
  for (const host::RuntimeOptions& o : all_orders()) {
    Machine m(o);
    int *const x = m.ints(), *const y = m.ints();
    const Stream a = m.runtime.create_stream(), b = m.runtime.create_stream();
    const Event e = m.runtime.create_event();
    m.runtime.wait_event(b, e);  // never recorded: nothing
    m.put(x, 1, a);
    m.runtime.record(e, a);
    m.runtime.wait_event(b, e);
    m.add(x, x, y, b);
    m.runtime.record(e, b);
    m.runtime.wait_event(a, e);
    m.put(x, 2, a);
    m.runtime.destroy_event(e);  // what waits for it goes on waiting
    m.runtime.wait(a);
    EXPECT_EQ(m.value(x), 2);
    EXPECT_EQ(m.value(y), 2);
    EXPECT_EQ(m.runtime.trace_text(), "0 put_all, 0 record, 1 wait, 1 add_all, 1 record, 0 wait, 0 put_all");
  }
}

TEST(GpuHostRuntime, TimeIsSwitches) {
  Machine m;
  auto& r = m.runtime;
  const Stream s = r.create_stream();
  const Event from = r.create_event(), to = r.create_event(), never = r.create_event();
  r.record(from, s);
  m.put(m.ints(), 1, s);
  r.record(to, s);
  const auto time = [&](Event a, Event b) { return r.milliseconds(a, b); };
  expect_error(Kind::kDevice, [&] { time(from, to); },
               {"event: milliseconds: an event that is not done: wait for"});
  expect_error(Kind::kDevice, [&] { time(never, to); }, {"an event that was never recorded"});
  expect_error(Kind::kDevice, [&] { time(nullptr, to); }, {"milliseconds: no event of this runtime"});
  r.wait(s);
  EXPECT_GE(time(from, to), kCount);
  EXPECT_EQ(time(to, from), -time(from, to));
}

// ---- handles and errors

TEST(GpuHostRuntime, HandlesOfNothing) {
  Machine m, other;
  auto& r = m.runtime;
  const Stream s = r.create_stream(), foreign = other.runtime.create_stream();
  int number = 0;
  expect_error(Kind::kDevice, [&] { r.wait(foreign); },
               {"stream: wait: no stream of this runtime, or no longer"});
  expect_error(Kind::kDevice, [&] { m.put(m.ints(), 1, &number); },
               {"stream: a launch of put_all on what is no stream of the host executor"});
  expect_error(Kind::kDevice, [&] { r.record(&number, s); }, {"event: record: no event"});
  expect_error(Kind::kDevice, [&] { r.launch(&number, s); }, {"graph: launch: no graph"});
  // Calls that cannot throw are heard of at the next wait.
  const std::pair<std::function<void()>, const char*> misuses[] = {
      {[&] { r.destroy(&number); }, "stream: destroy: no stream"},
      {[&] { r.destroy_event(&number); }, "destroy_event: no event"},
      {[&] { r.destroy_graph(&number); }, "destroy_graph: no graph"},
      {[&] { r.release(&number); }, "release of memory that is not allocated"}};
  for (const auto& [misuse, text] : misuses) {
    misuse();
    expect_error(Kind::kDevice, [&] { r.wait(s); }, {text});
    r.wait_all();
  }
}

TEST(GpuHostRuntime, WorkOfADestroyedStreamStillRuns) {
  Machine m;
  int* const x = m.ints();
  const Stream s = m.runtime.create_stream();
  m.put(x, 6, s);
  m.runtime.destroy(s);
  expect_error(Kind::kDevice, [&] { m.put(x, 1, s); }, {"no stream"});
  m.runtime.wait_all();
  EXPECT_EQ(m.value(x), 6);
  EXPECT_EQ(m.runtime.trace_text(), "0 put_all");
}

TEST(GpuHostRuntime, RefusedLaunches) {
  Machine m;
  const Stream s = m.runtime.create_stream();
  int* const x = m.ints();
  expect_error(Kind::kLaunch, [&] { launch(put_all, {.block = 2000, .stream = s}, x, 1); },
               {"launch: block 2000,1,1 has 2000 threads"});
  m.runtime.wait(s);
  EXPECT_TRUE(m.runtime.trace().empty());
}

TEST(GpuHostRuntime, AnErrorOfAKernelDropsWhatIsQueued) {
  Machine m;
  int* const x = m.ints();
  const Stream a = m.runtime.create_stream(), b = m.runtime.create_stream();
  const Event e = m.runtime.create_event();
  launch(leaves_early, {.block = 64, .stream = a});
  m.put(x, 1, a);
  m.runtime.record(e, a);
  m.put(x, 2, b);
  expect_error(Kind::kDeadlock, [&] { m.runtime.wait(b); },
               {"deadlock", "block_barrier at gpu_runtime_test_support.h"});
  m.runtime.wait_event(b, e);
  m.runtime.wait_all();
  EXPECT_EQ(m.value(x), -1);
  m.put(x, 3, a);
  m.runtime.wait(a);
  EXPECT_EQ(m.value(x), 3);
}

// ---- memory

TEST(GpuHostRuntime, MemoryIsAlignedAndChecked) {
  Machine m;
  auto& r = m.runtime;
  const Stream s = r.create_stream();
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, std::size_t{257}}) {
    const Memory block(r, bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block.data()) % 256, 0u);
  }
  int *const x = m.ints(), here[kCount] = {};
  expect_error(Kind::kDevice, [&] { r.fill(x + 1, 0, kBytes, s); },
               {"memory: fill: 256 bytes from byte 4 of a block of 256"});
  expect_error(Kind::kDevice, [&] { r.copy(x, here, kBytes, s); },
               {"memory: copy, source: an address that is not"});
  expect_error(Kind::kDevice, [&] { r.copy_in(here, x, kBytes); },
               {"memory: copy_in: an address that is not"});
  expect_error(Kind::kDevice, [&] { r.copy_out(here, x + 63, 5); },
               {"5 bytes from byte 252 of a block of 256"});
  r.fill(x + 63, 0, 4, s);
  r.wait(s);
  r.copy_out(here, x + 62, 8);
  EXPECT_EQ(here[0], -1);
  EXPECT_EQ(here[1], 0);
}

TEST(GpuHostRuntime, MemoryReleasedTooEarly) {
  Machine m;
  auto& r = m.runtime;
  const Stream s = r.create_stream();
  void* const gone = r.allocate(kBytes);
  r.fill(gone, 0, kBytes, s);
  r.release(gone);
  expect_error(Kind::kDevice, [&] { r.wait(s); },
               {"memory: fill of 256 bytes on stream 0, when it ran: an address that is not allocated here, "
                "or no longer"});
#ifndef MOECHECK_UNDER_TSAN  // to which it is a race
  const auto used_by_kernel = [&] {
    int* const x = static_cast<int*>(r.allocate(kBytes));
    int* const y = m.ints();
    m.put(x, 1, s);
    r.wait(s);
    m.add(x, x, y, s);
    r.release(x);
    r.wait(s);
    return m.value(y);
  };
#ifdef MOECHECK_UNDER_ASAN
  EXPECT_DEATH(used_by_kernel(), "heap-use-after-free");
#else
  EXPECT_EQ(used_by_kernel(), -2) << "0xFF bytes";
#endif
#endif
}

}  // namespace
}  // namespace moecheck::gpu
