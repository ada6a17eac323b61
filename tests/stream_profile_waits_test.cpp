// Which recording a wait means: as the profile says, corrected, assumed, or left out. tests/data/kineto has traces of a real run,
// whose waits name no recording.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "harness/streams/program_json.h"
#include "harness/tasks/files.h"
#include "stream_profile_support.h"

namespace moecheck::harness::streams {
namespace {

using reference::StepKind;
using reference::StreamOrder;
using reference::StreamProgram;
using reference::StreamStep;

std::string real_trace(const std::string& name) {
  return read_text(MOECHECK_SOURCE_DIR "/tests/data/kineto/" + name + ".json");
}

void expect_all_assumed(const Imported& i, int waits) {
  EXPECT_EQ(i.measures.waits.size(), static_cast<std::size_t>(waits)) << i.text;
  for (const WaitMeasure& w : i.measures.waits)
    EXPECT_TRUE(i.program.origins[static_cast<std::size_t>(w.step)].assumed);
  EXPECT_TRUE(
      i.noted(fmt::format("{} waits for a recording that the profile does not name: *assumed*", waits)));
  EXPECT_EQ(i.program.notes.size(), 1u) << i.text;
  EXPECT_EQ(i.measures.contradiction_count, 0) << i.text;
}

TEST(StreamProfileReal, Sound) {
  const Imported i(real_trace("sound"));
  expect_all_assumed(i, 4);
  for (const std::string round : {"", "#2"}) {
    EXPECT_TRUE(i.before("P" + round, "E" + round));
    EXPECT_TRUE(i.before("E" + round, "A" + round));
    EXPECT_FALSE(i.before("S" + round, "E" + round));
    EXPECT_FALSE(i.before("E" + round, "S" + round));
  }
  EXPECT_TRUE(i.before("E", "E#2"));
  EXPECT_TRUE(i.before("A", "E#2")) << "by the second fork";
  EXPECT_HAS(i.text, "wait      stream 17 for P (stream 13, assumed), ahead of E");
  EXPECT_HAS(i.text, "0 are redundant");
}

TEST(StreamProfileReal, LateForkLeavesNothingToOverlap) {
  const Imported i(real_trace("late_fork"));
  expect_all_assumed(i, 2);
  for (const int a : i.order.operations())
    for (const int b : i.order.operations())
      EXPECT_TRUE(a == b || i.order.before(a, b) || i.order.before(b, a));
}

TEST(StreamProfileReal, OneOfTwoJoinsIsRedundant) {
  const Imported i(real_trace("extra_wait"));
  expect_all_assumed(i, 3);
  ASSERT_EQ(i.measures.waits.size(), 3u);
  EXPECT_FALSE(i.measures.waits[0].redundant);
  EXPECT_TRUE(i.measures.waits[1].redundant);
  EXPECT_TRUE(i.measures.waits[2].redundant);
}

// The event is recorded behind A too, which no wait means.
TEST(StreamProfileReal, LastRecordingOfAnEventCounts) {
  const Imported i(real_trace("events"));
  expect_all_assumed(i, 4);
  ASSERT_EQ(i.measures.waits.size(), 4u);
  for (const std::string round : {"", "#2"}) {
    EXPECT_TRUE(i.before("P" + round, "E" + round));
    EXPECT_FALSE(i.before("S" + round, "E" + round));
    EXPECT_TRUE(i.before("E" + round, "A" + round));
  }
  EXPECT_EQ(i.measures.waits[3].effect, WaitEffect::kHeld);
  EXPECT_NEAR(i.measures.waits[3].held, 7.654,
              1e-6);  // A's launch was called at 596.533, E was over at 604.187
}

TEST(StreamProfileReal, Graph) {
  const Imported i(real_trace("graph"));
  ASSERT_EQ(i.program.program.streams.size(), 2u);
  EXPECT_EQ(i.measures.streams[0].operations, 5)
      << "the launch's stream: P and A, and of the graph P, S and A";
  EXPECT_EQ(i.measures.streams[1].operations, 4);
  EXPECT_NEAR(i.measures.several, 24.705, 1e-6);  // S beside G
  EXPECT_EQ(i.measures.contradiction_count, 0);
  EXPECT_TRUE(i.noted("1 launch of graphs")) << i.text;
}

// Without cuda_sync the calls alone are there: not even who waits.
TEST(StreamProfileReal, Plain) {
  std::string text = real_trace("sound");
  for (std::size_t at; (at = text.find("\"cuda_sync\"")) != text.npos;) text.replace(at, 11, "\"passed_by\"");
  const Imported i(text);
  EXPECT_TRUE(i.measures.waits.empty());
  EXPECT_TRUE(i.noted("4 waits between streams that the profile does not tell")) << i.text;
  EXPECT_EQ(i.program.activities.size(), 8u);
}

TEST(StreamProfileReal, AssumedStepsSayIt) {
  const Imported i(real_trace("late_fork"));
  const std::string json = imported_json(i.program);
  std::size_t marks = 0;
  for (std::size_t at = 0; (at = json.find("\"x-assumed\":true", at)) != json.npos; ++at) ++marks;
  EXPECT_EQ(marks, 4u) << "two records and two waits";
  EXPECT_EQ(parse_program(json, "p.json").steps.size(), 8u);
}

// Waits by their event alone, as torch 2.11 writes them.
struct Unnamed : TraceBuilder {
  int record(double at) { return call("cudaEventRecordWithFlags", at); }
  void wait_event(int stream, int event, double at) { wait(stream, -1, -1, at, event); }
};

TEST(StreamProfileAssumed, LaunchesInBetween) {
  Unnamed t;
  t.run("P", 7, 0, 10, 20);
  t.record(2);
  t.run("S", 7, 4, 20, 60);
  t.wait_event(20, 1, 6);
  t.run("G", 20, 8, 21, 30);
  t.wait_event(20, 1, 10);  // once more: the same recording
  t.run("H", 20, 12, 31, 40);
  const Imported i(t.json());
  EXPECT_TRUE(i.before("P", "G"));
  EXPECT_FALSE(i.before("S", "H"));
  ASSERT_EQ(i.measures.waits.size(), 2u);
  EXPECT_TRUE(i.measures.waits[1].redundant);
  EXPECT_TRUE(i.noted("2 waits for a recording that the profile does not name, launches in between"))
      << i.text;
}

// Two events, and the order in which they are waited for is open.
TEST(StreamProfileAssumed, RecordingsSideBySideAreLeftOut) {
  for (const int waits : {1, 2}) {
    Unnamed t;
    t.run("P", 7, 0, 10, 20);
    t.record(2);
    t.record(3);
    for (int event = 1; event <= waits; ++event) t.wait_event(20, event, 3 + event);
    t.run("G", 20, 8, 21, 30);
    const Imported i(t.json());
    EXPECT_FALSE(i.before("P", "G"));
    EXPECT_EQ(i.program.notes.size(), 1u);
    EXPECT_TRUE(i.noted("for a recording that the profile does not name: left out")) << i.text;
  }
}

// The first wait would take the second recording, until the second wait finds none: it was passed over.
TEST(StreamProfileAssumed, OneRecordingForEachEvent) {
  for (const bool second : {false, true}) {
    Unnamed t;
    t.run("P", 7, 0, 10, 20);
    t.record(2);
    t.run("S", 7, 4, 20, 60);
    t.record(6);
    t.wait_event(20, 1, 7);
    t.run("G", 20, 8, 61, 70);
    if (second) t.wait_event(20, 2, 10);
    t.run("H", 20, 12, 71, 80);
    const Imported i(t.json());
    EXPECT_EQ(i.before("S", "G"), !second);
    EXPECT_EQ(i.noted("2 waits for a recording that the profile does not name: left out"), second) << i.text;
  }
}

TEST(StreamProfileAssumed, SeveralStreamsAreLeftOut) {
  Unnamed t;
  t.run("P", 7, 0, 10, 20);
  t.run("Q", 9, 1, 10, 20);
  t.record(2);
  t.wait_event(20, 1, 4);
  t.run("G", 20, 8, 21, 30);
  const Imported i(t.json());
  EXPECT_FALSE(i.before("P", "G"));
  EXPECT_TRUE(i.measures.waits.empty());
  EXPECT_TRUE(i.noted("1 wait for a recording that may be on several streams")) << i.text;
  EXPECT_EQ(i.program.notes.size(), 1u) << i.text;

  Unnamed late;  // the third stream has no work yet
  late.run("P", 7, 0, 10, 20);
  late.record(2);
  late.wait_event(20, 1, 4);
  late.run("G", 20, 8, 21, 30);
  late.run("Q", 9, 9, 10, 20);
  EXPECT_TRUE(Imported(late.json()).before("P", "G"));
}

TEST(StreamProfileAssumed, OtherThreadsAndCapturesDoNotCount) {
  Unnamed t;
  t.run("P", 7, 0, 10, 20);
  t.call("cudaEventRecord", 2, 1, 2);
  t.wait_event(20, 1, 4);
  t.call("cudaStreamBeginCapture", 5, 0.2);
  t.record(6);
  t.call("cudaStreamEndCapture", 7, 0.2);
  t.wait_event(20, 1, 8);
  t.run("G", 20, 9, 21, 30);
  const Imported i(t.json());
  EXPECT_FALSE(i.before("P", "G"));
  EXPECT_TRUE(i.noted("2 waits for a recording that the profile does not name: left out")) << i.text;
}

// A wrong assumption shows where operations ran against it.
TEST(StreamProfileAssumed, IsRefutedByTimes) {
  Unnamed t;
  t.run("P", 7, 0, 10, 20);
  t.record(2);
  t.wait_event(20, 1, 4);
  t.run("G", 20, 6, 15, 30);
  const Imported i(t.json());
  EXPECT_EQ(i.measures.contradiction_count, 1);
  EXPECT_HAS(i.text, "what is assumed is wrong, or does not tell the truth");
}

// Two streams that fork and join by wait_stream, without names in the trace: the whole order comes back.
RC_GTEST_PROP(StreamProfileAssumed, wait_stream_comes_back, ()) {
  std::mt19937_64 random(*rc::gen::arbitrary<std::uint64_t>());
  StreamProgram p;
  p.stream("a"), p.stream("b");
  for (int n = 0; n < 16; ++n) {
    StreamStep s;
    s.stream = static_cast<int>(random() % 2);
    s.on = 1 - s.stream;
    s.kind = random() % 3 == 0 ? StepKind::kWaitStream : StepKind::kKernel;
    if (s.kind == StepKind::kKernel) s.name = fmt::format("k{}", n), s.on = -1;
    p.steps.push_back(std::move(s));
  }
  const StreamOrder order(p, false);
  RC_PRE(!order.operations().empty());
  SimulatedDevice device;
  device.names_none = true;
  const Imported i(device.run(p, random));
  for (const int a : order.operations())
    for (const int b : order.operations()) {
      const auto name = [&](int node) {
        return p.steps[static_cast<std::size_t>(order.node(node).step)].name;
      };
      RC_ASSERT(order.before(a, b) == i.before(name(a), name(b)));
    }
  RC_ASSERT(i.measures.contradiction_count == 0);
}

TEST(StreamProfileWaits, WithoutSyncRecordsTheWaitsAreCounted) {
  TraceBuilder t;
  t.run("P", 7, 0, 10, 20);
  t.call("cudaEventRecord", 2);
  t.call("cudaStreamWaitEvent", 3);
  t.run("G", 20, 6, 21, 30);
  const Imported i(t.json());
  EXPECT_FALSE(i.before("P", "G"));
  EXPECT_TRUE(i.noted("1 wait between streams that the profile does not tell")) << i.text;
  EXPECT_TRUE(i.noted("enable_cuda_sync_events=True"));
}

// Older Kinetos name the last recording of the event; a recording behind the wait is never believed.
TEST(StreamProfileWaits, WaitBeforeItsRecord) {
  for (const bool told : {true, false}) {
    TraceBuilder t;
    t.run("P", 7, 0, 10, 20);
    const int first = t.call("cudaEventRecord", 2);
    t.wait(20, 7, first + 4, 4, 5);  // correlation ids: record, wait, G, S, record
    t.run("G", 20, 6, 21, 30);
    t.run("S", 7, 8, 22, 60);
    const int last = t.call("cudaEventRecord", 10);
    ASSERT_EQ(last, first + 4);
    t.run("Z", 20, 12, 70, 80);
    if (told) {
      t.recording(5, 7, first);
      t.recording(5, 7, last);
    }
    const Imported i(t.json());
    EXPECT_EQ(i.before("P", "G"), told);
    EXPECT_FALSE(i.before("S", "G"));
    EXPECT_FALSE(i.before("S", "Z"));
    EXPECT_EQ(i.noted("1 wait where the profile named another recording"), told) << i.text;
    EXPECT_EQ(i.noted("1 wait for a recording that the profile does not name"), !told) << i.text;
  }
}

TEST(StreamProfileWaits, WaitsInsideOfACaptureAreLeftOut) {
  TraceBuilder t;
  t.run("P", 7, 0, 10, 20);
  t.call("cudaStreamBeginCapture", 1, 0.2);
  const int recorded = t.call("cudaEventRecord", 2);
  t.wait(20, 7, recorded, 3);
  t.call("cudaStreamEndCapture", 5);
  t.run("G", 20, 6, 11, 30);
  const Imported i(t.json());
  EXPECT_FALSE(i.before("P", "G"));
  EXPECT_TRUE(i.noted("1 wait inside of a capture")) << i.text;
}

TEST(StreamProfileWaits, HostWaits) {
  for (const int threads : {1, 2}) {
    TraceBuilder t;
    t.run("P", 7, 0, 10, 20);
    const int c = t.call("cudaDeviceSynchronize", 2, 19);
    t.sync("Context Sync", -1, c, 2);
    t.run("G", 20, 22, 30, 40, threads);
    const Imported i(t.json());
    EXPECT_EQ(i.before("P", "G"), threads == 1);
    EXPECT_EQ(i.noted("2 threads launch work: 1 wait of the host left out"), threads == 2) << i.text;
  }
}

}  // namespace
}  // namespace moecheck::harness::streams
