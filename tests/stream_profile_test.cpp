// Programs from profiles: the order that a trace tells comes out, what it does not tell is counted, and measured times that
// contradict the order are named.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "harness/streams/program_json.h"
#include "reference/stream_checker.h"
#include "stream_profile_support.h"
#include "stream_random_programs.h"

namespace moecheck::harness::streams {
namespace {

using reference::StepKind;
using reference::StreamKind;
using reference::StreamOrder;
using reference::StreamProgram;
using reference::StreamStep;

TEST(StreamProfile, DualStreamBlock) {
  const Imported t(dual_stream().json());
  EXPECT_EQ(t.program.program.streams.size(), 2u);
  EXPECT_TRUE(t.before("P", "G"));
  EXPECT_TRUE(t.before("E", "A"));
  EXPECT_TRUE(t.before("S", "A"));
  EXPECT_FALSE(t.before("S", "G"));
  EXPECT_FALSE(t.before("G", "S"));
  EXPECT_NEAR(t.measures.several, 39, 1e-6);  // S beside G, T and E: 21 to 60
  EXPECT_NEAR(t.measures.span, 80, 1e-6);
  ASSERT_EQ(t.measures.streams.size(), 2u);
  EXPECT_NEAR(t.measures.streams[0].busy, 59, 1e-6);
  EXPECT_NEAR(t.measures.streams[1].busy, 59, 1e-6);
  ASSERT_EQ(t.measures.waits.size(), 2u);
  EXPECT_EQ(t.measures.waits[0].effect, WaitEffect::kHeld);
  EXPECT_NEAR(t.measures.waits[0].held, 14, 1e-6);  // G was launched at 6, P was over at 20
  EXPECT_EQ(t.measures.waits[1].effect, WaitEffect::kHeld);
  EXPECT_NEAR(t.measures.waits[1].held, 20, 1e-6);  // S was over at 60, E at 80
  EXPECT_NEAR(t.measures.waits[1].gap, 21, 1e-6);
  EXPECT_EQ(t.measures.contradiction_count, 0);
  EXPECT_TRUE(t.program.notes.empty()) << t.text;
  EXPECT_HAS(t.text, "stream 7 for E (stream 20), ahead of A: held 20.00 us, in a gap of 21.00 us");
  EXPECT_HAS(t.text, "no wait called needed or needless");
  EXPECT_EQ(t.text.find("no data"), std::string::npos) << "a profile has no data to say that of";
}

TEST(StreamProfile, ProgramReadsBackWithStarts) {
  const Imported t(dual_stream().json());
  const std::string json = imported_json(t.program);
  EXPECT_HAS(json, "\"x-start\":10.0");
  StreamProgram p = t.program.program;
  EXPECT_EQ(parse_program(json, "p.json"), p);
}

// What was put on the recorded stream between the record and the wait is not waited for.
TEST(StreamProfile, RecordIsASnapshot) {
  TraceBuilder t;
  t.run("P", 7, 0, 10, 20);
  const int recorded = t.call("cudaEventRecord", 2);
  t.run("S", 7, 4, 20, 60);
  t.wait(20, 7, recorded, 6);
  t.run("G", 20, 8, 21, 30);
  const Imported i(t.json());
  EXPECT_TRUE(i.before("P", "G"));
  EXPECT_FALSE(i.before("S", "G"));
  EXPECT_EQ(i.measures.contradiction_count, 0);
}

// A launch's call counts, not when the device began: Q was put on stream 20 before the wait and started after it.
TEST(StreamProfile, HostOrderIsThatOfTheCalls) {
  TraceBuilder t;
  t.run("busy", 20, 0, 5, 50);
  t.run("Q", 20, 1, 50, 55);
  t.run("P", 7, 2, 10, 90);
  const int recorded = t.call("cudaEventRecord", 4);
  t.wait(20, 7, recorded, 6);
  t.run("G", 20, 8, 91, 99);
  const Imported i(t.json());
  EXPECT_FALSE(i.before("P", "Q"));
  EXPECT_TRUE(i.before("P", "G"));
  EXPECT_NEAR(i.measures.waits.at(0).held, 35, 1e-6);
}

TEST(StreamProfile, WaitThatWasOverCostsNothing) {
  TraceBuilder t;
  t.run("P", 7, 0, 1, 2);
  const int recorded = t.call("cudaEventRecord", 2);
  t.run("Q", 20, 3, 4, 30);
  t.wait(20, 7, recorded, 4);
  t.run("G", 20, 5, 40, 50);
  const Imported i(t.json());
  EXPECT_EQ(i.measures.waits.at(0).effect, WaitEffect::kFree);
  EXPECT_NEAR(i.measures.waits.at(0).gap, 10, 1e-6);
  EXPECT_HAS(i.text, "was over already, cost nothing");

  TraceBuilder late;  // the host was late: nothing to do with the wait
  late.run("P", 7, 0, 1, 20);
  const int r = late.call("cudaEventRecord", 2);
  late.wait(20, 7, r, 4);
  late.run("G", 20, 30, 32, 50);
  EXPECT_EQ(Imported(late.json()).measures.waits.at(0).effect, WaitEffect::kFree);
}

TEST(StreamProfile, OfTwoWaitsTheLongerHolds) {
  TraceBuilder t;
  t.run("P", 7, 0, 10, 40);
  t.run("Q", 8, 1, 10, 50);
  const int p = t.call("cudaEventRecord", 2), q = t.call("cudaEventRecord", 3);
  t.wait(20, 7, p, 4, 1);
  t.wait(20, 8, q, 5, 2);
  t.run("G", 20, 6, 51, 60);
  const Imported i(t.json());
  EXPECT_EQ(i.measures.waits.at(0).effect, WaitEffect::kHeldBeside);
  EXPECT_EQ(i.measures.waits.at(1).effect, WaitEffect::kHeld);
  EXPECT_NEAR(i.measures.waits.at(1).held, 10, 1e-6);
}

// Work of the waiting stream itself is not what it waits for, also where the record is behind it by another wait.
TEST(StreamProfile, AwaitedWorkIsOfOtherStreams) {
  TraceBuilder t;
  t.run("X", 20, 0, 10, 50);
  t.run("P", 7, 1, 10, 30);
  const int x = t.call("cudaEventRecord", 2);
  t.wait(7, 20, x, 3, 1);
  const int p = t.call("cudaEventRecord", 4);
  t.wait(20, 7, p, 5, 2);
  t.run("G", 20, 6, 51, 60);
  const Imported i(t.json());
  ASSERT_EQ(i.measures.waits.size(), 2u);
  EXPECT_EQ(i.measures.waits[0].effect, WaitEffect::kUnseen);  // nothing behind it on its stream
  EXPECT_EQ(i.measures.waits[1].awaited, i.program.program.find("P"));
  EXPECT_EQ(i.measures.waits[1].effect, WaitEffect::kFree);
}

TEST(StreamProfile, RedundantByOrderOnly) {
  TraceBuilder t = dual_stream();
  const int again = t.call("cudaEventRecord", 100);
  t.wait(20, 7, again, 101, 3);
  t.wait(20, 7, again, 102, 3);
  t.run("Z", 20, 103, 110, 120);
  const Imported i(t.json());
  const std::vector<WaitMeasure>& w = i.measures.waits;
  ASSERT_EQ(w.size(), 4u);
  EXPECT_FALSE(w[0].redundant);
  EXPECT_FALSE(w[1].redundant);
  EXPECT_TRUE(w[2].redundant);  // one of the two at a time
  EXPECT_TRUE(w[3].redundant);
  EXPECT_HAS(i.text, "2 are redundant by the order of the rest");
  EXPECT_HAS(i.text, "redundant, its order is there already: A, stream 20.wait(event of call 11), Z");
}

TEST(StreamProfile, LostCallsStandByTheirCorrelation) {
  TraceBuilder t;
  t.run("P", 7, 0, 10, 20);
  const int recorded = t.call("cudaEventRecord", 2);
  const int lost = t.call("cudaLaunchKernel", 3);
  t.drop_last();
  t.kernel("S", 7, 20, 60, lost);
  t.wait(20, 7, recorded, 6);
  t.run("G", 20, 8, 21, 30);
  const Imported i(t.json());
  EXPECT_TRUE(i.before("P", "S"));
  EXPECT_FALSE(i.before("S", "G"));
  EXPECT_TRUE(i.noted("1 operation without a launching call")) << i.text;
}

TEST(StreamProfile, CorrelationUsedTwice) {
  TraceBuilder t;
  const int c = t.run("P", 7, 0, 10, 20);
  t.kernel("Q", 7, 20, 30, c);
  t.raw(
      "{\"ph\": \"X\", \"cat\": \"cuda_driver\", \"name\": \"cuLaunchKernel\", \"pid\": 1, \"tid\": 1, "
      "\"ts\": 1000.5, "
      "\"dur\": \"0.2\", \"args\": {\"correlation\": \"1\"}}");
  const Imported i(t.json());
  EXPECT_TRUE(i.before("P", "Q"));
  EXPECT_TRUE(i.noted("1 operation with the correlation id of an earlier one")) << i.text;
  EXPECT_TRUE(i.noted("1 call with the correlation id of another")) << i.text;
}

TEST(StreamProfile, GraphLaunch) {
  TraceBuilder t;
  t.run("before", 7, 0, 5, 10);
  t.run("other", 9, 1, 5, 100);
  const int c = t.call("cudaGraphLaunch", 2);
  t.kernel("M", 31, 10.2, 10.8, c, 0, 10, "gpu_memset");  // the first node is not on the launch's stream
  t.kernel("P", 7, 11, 20, c, 0, 18446744073709551615ull);
  t.kernel("G", 31, 20, 40, c, 0, 12);
  t.kernel("S", 7, 20, 50, c, 0, 13);
  t.run("after", 7, 4, 51, 60);
  const Imported i(t.json());
  EXPECT_TRUE(i.before("before", "P"));
  EXPECT_TRUE(i.before("before", "G"));
  EXPECT_TRUE(i.before("before", "M"));
  EXPECT_TRUE(i.before("G", "after"));
  EXPECT_TRUE(i.before("S", "after"));
  EXPECT_FALSE(i.before("G", "S")) << "edges between nodes are not in a profile";
  EXPECT_FALSE(i.before("other", "G"));
  EXPECT_TRUE(i.noted("1 launch of graphs: assumed")) << i.text;
  EXPECT_TRUE(i.measures.waits.empty()) << "a graph's edges are no waits of the program";
  EXPECT_NEAR(i.measures.shared.at(0).time, 53, 1e-6) << "before, P, S and after beside other";
}

// Nodes that are all reported on the launch's stream, and ran at the same time all the same.
TEST(StreamProfile, GraphNodesOfOneStreamThatOverlap) {
  TraceBuilder t;
  t.run("before", 7, 0, 5, 10);
  const int c = t.call("cudaGraphLaunch", 2);
  t.kernel("P", 7, 11, 20, c, 0, 11);
  t.kernel("G", 7, 20, 40, c, 0, 12);
  t.kernel("S", 7, 21, 50, c, 0, 13);
  t.kernel("E", 7, 41, 48, c, 0, 14);
  t.run("after", 7, 4, 51, 60);
  const Imported i(t.json());
  EXPECT_EQ(i.measures.contradiction_count, 0) << i.text;
  EXPECT_EQ(i.program.program.streams.size(), 2u);
  EXPECT_FALSE(i.before("G", "S"));
  EXPECT_TRUE(i.before("P", "E"));
  EXPECT_TRUE(i.before("before", "S"));
  EXPECT_TRUE(i.before("S", "after"));
  EXPECT_NEAR(i.measures.several, 26, 1e-6);
}

TEST(StreamProfile, DevicesAndTimes) {
  TraceBuilder t = dual_stream();
  const int c = t.call("cudaLaunchKernel", 20);
  t.kernel("far", 7, 30, 40, c, 1);
  const Imported all(t.json());
  EXPECT_EQ(all.program.program.streams.size(), 3u);
  EXPECT_FALSE(all.before("P", "far")) << "stream 7 of another device is another stream";
  EXPECT_EQ(Imported(t.json(), {.device = 1}).program.activities.size(), 1u);
  EXPECT_EQ(Imported(t.json(), {.device = 0}).program.activities.size(), 6u);
  EXPECT_HAS(refused(t.json(), {.device = 4}), "nothing ran on device 4: --device takes 0, 1");
  EXPECT_EQ(Imported(t.json(), {.device = 0, .from = 20, .to = 35}).program.activities.size(), 3u);
  EXPECT_HAS(refused(t.json(), {.from = 1000}), "widen --from and --to");
}

TEST(StreamProfile, TimesThatContradictTheOrderAreNamed) {
  TraceBuilder t;
  t.run("P", 7, 0, 10, 20);
  const int recorded = t.call("cudaEventRecord", 2);
  t.wait(20, 7, recorded, 4);
  t.run("G", 20, 6, 15, 30);
  t.run("H", 20, 7, 5, 9);
  const Imported i(t.json());
  EXPECT_EQ(i.measures.contradiction_count, 3);  // P and G at the same time; H ahead of both
  EXPECT_HAS(i.text, "3 pairs ran against the program's order");
  EXPECT_HAS(i.text, "P (stream 7) should be over before G (stream 20), which began 5.00 us too early");
  EXPECT_HAS(i.text, "which ran first");
}

StreamProgram timed_program(std::uint64_t seed) {
  const StreamProgram random = reference::RandomProgram(seed, 12).make();
  StreamProgram p;
  p.streams = random.streams;
  for (auto& s : p.streams) s.kind = StreamKind::kNonBlocking;
  p.events = random.events;
  for (StreamStep s : random.steps) {
    if (!reference::is_operation(s) && s.kind != StepKind::kRecord && !reference::is_wait(s) &&
        s.kind != StepKind::kHostSync)
      continue;
    s.reads.clear(), s.writes.clear(), s.scratch.clear();
    p.steps.push_back(std::move(s));
  }
  return p;
}

// A random program runs on a simulated device: its trace gives the same order back, nothing contradicts it, and the waits that
// are called redundant are those of the checker.
RC_GTEST_PROP(StreamProfile, an_executed_program_comes_back, ()) {
  std::mt19937_64 random(*rc::gen::arbitrary<std::uint64_t>());
  const StreamProgram p = timed_program(random());
  SimulatedDevice device;
  device.lose_calls = random() % 2 == 0;
  device.events = random() % 2 == 0;
  device.last_recording = device.events && random() % 2 == 0;
  const StreamOrder order(p, false);
  RC_PRE(!order.operations().empty());
  const Imported i(device.run(p, random));
  for (const int a : order.operations())
    for (const int b : order.operations()) {
      const std::string &x = p.steps[static_cast<std::size_t>(order.node(a).step)].name,
                        &y = p.steps[static_cast<std::size_t>(order.node(b).step)].name;
      RC_ASSERT(order.before(a, b) == i.before(x, y));
    }
  RC_ASSERT(i.measures.contradiction_count == 0);
  const reference::CheckedStreams checked = reference::check_streams(i.program.program);
  for (const WaitMeasure& w : i.measures.waits)
    for (const reference::WaitVerdict& v : checked.report.waits)
      if (v.step == w.step && w.awaited >= 0 && w.behind >= 0)
        RC_ASSERT(w.redundant == (v.use == reference::WaitUse::kRedundant));
}

}  // namespace
}  // namespace moecheck::harness::streams
