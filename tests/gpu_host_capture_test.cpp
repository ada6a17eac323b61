// Capture and graphs of the host executor's runtime, and implementations "gpu-host:stream" and "gpu-host:graph".
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "gpu_runtime_test_support.h"
#include "harness/case.h"
#include "harness/implementation.h"
#include "harness/operator.h"
#include "harness/runner.h"

namespace moecheck::gpu {
namespace {

using host::Kind;
using host::Order;

TEST(GpuHostCapture, AReplayIsTheEagerRun) {
  for (const host::RuntimeOptions& o : all_orders()) {
    Machine m(o);
    auto& r = m.runtime;
    int *const x = m.ints(), *const y = m.ints(), *const z = m.ints();
    const Stream s = r.create_stream(), other = r.create_stream();
    const auto work = [&] {
      m.scale(x, s);
      r.copy(y, x, kBytes, s);
      m.add(x, y, z, s);
      r.fill(y, 0, kBytes, s);
    };
    m.put(x, 2, s);
    work();
    r.wait(s);
    EXPECT_EQ(m.value(z), 12);
    r.clear_trace();
    r.begin_capture(s);
    work();
    const Graph graph = r.end_capture(s);
    r.wait_all();
    EXPECT_TRUE(r.trace().empty()) << "a capture runs nothing";
    for (const Stream on : {s, other}) r.launch(graph, on);  // not at the same time, and in this order
    r.destroy_graph(graph);
    r.wait(other);
    EXPECT_EQ(m.value(x), 54);
    EXPECT_EQ(m.value(y), 0);
    EXPECT_EQ(m.value(z), 108);
    EXPECT_EQ(r.trace_text(),
              "0 scale_all<3>, 0 copy, 0 add_all, 0 fill, 0 graph, 1 scale_all<3>, 1 copy, 1 add_all, 1 "
              "fill, 1 graph");
  }
}

TEST(GpuHostCapture, AnEmptyGraph) {
  Machine m;
  const Stream s = m.runtime.create_stream();
  m.runtime.begin_capture(s);
  m.runtime.launch(m.runtime.end_capture(s), s);
  m.runtime.wait(s);
  EXPECT_EQ(m.runtime.trace_text(), "0 graph");
}

// x = 1, then y = x + x on b beside z = 3 * 3 on a, then sum = y + z on a. `early`: whether the join comes before the kernel that needs it.
int forked(Machine& m, bool early) {
  auto& r = m.runtime;
  int *const x = m.ints(), *const y = m.ints(), *const z = m.ints(), *const sum = m.ints();
  const Stream a = r.create_stream(), b = r.create_stream();
  const Event fork = r.create_event(), join = r.create_event();
  r.begin_capture(a);
  m.put(x, 1, a);
  r.record(fork, a);
  r.wait_event(b, fork);
  m.add(x, x, y, b);
  r.record(join, b);
  m.put(z, 3, a);
  m.scale(z, a);
  if (early) r.wait_event(a, join);
  m.add(y, z, sum, a);
  if (!early) r.wait_event(a, join);
  const Graph graph = r.end_capture(a);
  r.launch(graph, a);
  r.wait(a);
  return m.value(sum);
}

TEST(GpuHostCapture, BranchesOfAGraphAreOrderedByItsEdges) {
  std::set<std::string> orders;
  for (const host::RuntimeOptions& o : all_orders()) {
    Machine m(o);
    EXPECT_EQ(forked(m, true), 11);
    EXPECT_EQ(m.runtime.trace().front().branch, 0);
    orders.insert(m.runtime.trace_text());
    EXPECT_EQ(std::count_if(m.runtime.trace().begin(), m.runtime.trace().end(),
                            [](const host::Operation& op) { return op.branch == 1; }),
              1);
  }
#ifndef MOECHECK_UNDER_TSAN
  EXPECT_EQ(orders.size(), 3u) << "y before, between and after the two kernels beside it";
#endif
}

TEST(GpuHostCapture, AJoinAfterTheKernelThatNeedsItIsFound) {
  expect_found([](Machine& m, bool early) { return forked(m, early) == 11; });
}

// Every mistake of a capture, and what is said.
TEST(GpuHostCapture, Mistakes) {
  const auto with = [](auto test) {
    Machine m;
    const Stream a = m.runtime.create_stream(), b = m.runtime.create_stream();
    test(m, m.runtime, a, b, m.runtime.create_event());
  };
  const auto expect = [](auto call, const std::string& text) {
    expect_error(Kind::kDevice, call, {"capture: " + text});
  };
  using R = host::HostRuntime;

  with([&](Machine&, R& r, Stream a, Stream, Event) {
    expect([&] { r.end_capture(a); },
           "end_capture: stream 0 is not being captured: begin_capture comes first");
    r.begin_capture(a);
    expect([&] { r.begin_capture(a); }, "begin_capture: stream 0 is being captured already");
    r.end_capture(a);
  });
  with([&](Machine& m, R& r, Stream a, Stream b, Event e) {  // work of a fork that is not joined
    r.begin_capture(a);
    r.record(e, a);
    r.wait_event(b, e);
    m.put(m.ints(), 1, b);
    expect([&] { r.end_capture(b); },
           "end_capture: this capture did not begin on stream 1 but on stream 0, and ends there");
    expect([&] { r.end_capture(a); },
           "end_capture: unjoined work on stream 1: kernel put_all: record an event after it, "
           "and let stream 0 wait for that");
    m.put(m.ints(), 1, b);  // the capture has ended
    r.wait_all();
  });
  with([&](Machine& m, R& r, Stream a, Stream b, Event e) {  // work behind the join
    r.begin_capture(a);
    r.record(e, a);
    r.wait_event(b, e);
    m.put(m.ints(), 1, b);
    r.record(e, b);
    r.wait_event(a, e);
    r.fill(m.ints(), 0, 8, b);
    expect([&] { r.end_capture(a); }, "end_capture: unjoined work on stream 1: fill of 8 bytes");
  });
  with([&](Machine& m, R& r, Stream a, Stream b, Event e) {  // events from outside make a capture invalid
    r.record(e, b);
    r.begin_capture(a);
    expect([&] { r.wait_event(a, e); }, "wait_event on stream 0: the event was not recorded in this capture");
    expect([&] { m.put(m.ints(), 1, a); },
           "kernel put_all on stream 0: its capture is invalid since wait_event");
    expect([&] { r.end_capture(a); }, "end_capture: the capture is invalid since wait_event on stream 0");
  });
  with([&](Machine& m, R& r, Stream a, Stream b,
           Event e) {  // an event of another capture, and of one that has ended
    r.begin_capture(a);
    m.put(m.ints(), 1, a);
    r.record(e, a);
    r.begin_capture(b);
    expect([&] { r.wait_event(b, e); },
           "wait_event on stream 1: the event belongs to another capture, which began on stream 0");
    r.end_capture(a);
    expect([&] { r.end_capture(b); }, "end_capture: the capture is invalid since");
    expect([&] { r.wait_event(b, e); },
           "wait_event on stream 1: the event was last recorded in a capture that has ended");
    expect_error(Kind::kDevice, [&] { r.milliseconds(e, e); }, {"last recorded in a capture"});
    r.record(e, b);
    r.wait_event(a, e);
    r.wait(a);
  });
  with([&](Machine&, R& r, Stream a, Stream b, Event e) {  // waiting
    r.begin_capture(a);
    r.record(e, a);
    r.wait_event(b, e);
    expect([&] { r.wait(b); }, "wait(stream 1): it is being captured, and does not run");
    expect([&] { r.wait_all(); }, "wait_all(): stream 0 is being captured, and does not run");
    expect([&] { r.end_capture(a); }, "end_capture: the capture is invalid since wait(stream 1)");
    r.wait_all();
  });
  with([&](Machine&, R& r, Stream a, Stream b, Event e) {  // streams that go
    r.begin_capture(a);
    r.record(e, a);
    r.wait_event(b, e);
    r.destroy(b);
    expect([&] { r.end_capture(a); }, "end_capture: the capture is invalid since stream 1 was destroyed");
    r.begin_capture(a);
    r.destroy(a);
    r.wait_all();
  });
  with([&](Machine&, R& r, Stream a, Stream b, Event) {  // a graph in a capture
    r.begin_capture(a);
    const Graph graph = r.end_capture(a);
    r.begin_capture(b);
    expect([&] { r.launch(graph, b); },
           "launch of a graph on stream 1: it is being captured, and takes no graphs");
    expect([&] { r.end_capture(b); }, "end_capture: the capture is invalid");
  });
}

TEST(GpuHostCapture, MemoryOfAGraphReleasedTooEarly) {
  Machine m;
  auto& r = m.runtime;
  const Stream s = r.create_stream();
  void* const gone = r.allocate(kBytes);
  r.begin_capture(s);
  r.fill(gone, 0, kBytes, s);
  const Graph graph = r.end_capture(s);
  r.launch(graph, s);
  r.wait(s);
  r.release(gone);
  r.launch(graph, s);
  expect_error(Kind::kDevice, [&] { r.wait(s); }, {"memory: fill of 256 bytes on stream 0, when it ran"});
}

}  // namespace
}  // namespace moecheck::gpu

namespace moecheck::harness {
namespace {

TEST(GpuHostCapture, OperatorsAsStreamsAndGraphs) {
  for (const char* name : {"gpu-host:stream", "gpu-host:w64:reverse:stream", "gpu-host:graph",
                           "gpu-host:w64:seed7:graph", "gpu-host:graph:w64"}) {
    const Implementation* one[] = {find_implementation(name)};
    ASSERT_NE(one[0], nullptr) << name;
    const bool graph = std::string_view(name).find("graph") != std::string_view::npos;
    EXPECT_NE(one[0]->summary().find(graph ? ", captured and replayed as a graph" : ", on a stream"),
              std::string_view::npos);
    for (const char* line :
         {"gating policy=hf_deepseek_v3 experts=64 tokens=5 data=ties",
          "gating policy=sglang_fused experts=256 groups=8 topk_group=4 tokens=3 remap=1"}) {
      const Case c = parse_case(find_operator("gating")->schema(), line);
      const Record r = check_case(c, one, {}).front();
      EXPECT_FALSE(is_failure(r.result.verdict)) << name << " " << line << ": " << r.result.reason;
    }
  }
}

// A planted fault stays one on streams and in graphs.
TEST(GpuHostCapture, FaultsAreFoundThereToo) {
  for (const char* how : {"stream", "graph"}) {
    const std::string name = std::string("gpu-host:") + how + "!id_weight_pairing";
    const Implementation* one[] = {find_implementation(name)};
    ASSERT_NE(one[0], nullptr) << name;
    bool found = false;
    for (const char* line : {"gating policy=hf_deepseek_v3 experts=64 tokens=3 data=ties",
                             "gating policy=hf_deepseek_v3 experts=256 groups=8 topk_group=3 tokens=515"})
      found = found || is_failure(check_case(parse_case(find_operator("gating")->schema(), line), one, {})
                                      .front()
                                      .result.verdict);
    EXPECT_TRUE(found) << name;
  }
}

}  // namespace
}  // namespace moecheck::harness
