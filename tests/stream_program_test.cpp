// Stream programs: what is refused, every error of a capture and of a lifetime, what orders and what does not.
#include "reference/stream_program.h"

#include <gtest/gtest.h>

#include "reference/stream_checker.h"
#include "reference/stream_oracle.h"

namespace moecheck::reference {
namespace {

// Two streams, a buffer, and what a test adds.
struct Two {
  StreamProgram p;
  int a = p.stream("a"), b = p.stream("b"), x = p.buffer("x", 8), y = p.buffer("y", 8);
};

StreamReport report(const StreamProgram& p) {
  EXPECT_EQ(refusal(p), std::nullopt);
  const StreamReport r = check_streams(p).report;
  const OracleResult o = explore_streams(p);
  EXPECT_TRUE(o.complete);
  EXPECT_EQ(o.capture_failed, !r.capture.empty());
  if (!o.capture_failed) {
    EXPECT_EQ(o.outcomes_differ, r.race_count > 0);
    EXPECT_EQ(o.poison, !r.lifetime.empty());
  }
  return r;
}

void expect_refused(const StreamProgram& p, const std::string& text) {
  const auto why = refusal(p);
  ASSERT_TRUE(why) << text;
  EXPECT_NE(why->find(text), std::string::npos) << *why;
}

TEST(StreamProgram, Refusals) {
  expect_refused(StreamProgram{}, "streams: there are none");
  const auto with = [](auto change, const std::string& text) {
    Two t;
    change(t.p, t);
    expect_refused(t.p, text);
  };
  with([](auto& p, auto&) { p.stream("a"); }, "two are named 'a'");
  with([](auto& p, auto&) { p.stream("l", StreamKind::kLegacy), p.stream("m", StreamKind::kLegacy); },
       "second legacy stream");
  with([](auto& p, auto&) { p.buffer("z", 0); }, "has 0 bytes");
  with([](auto& p, auto&) { p.buffer("x"); }, "two are named 'x'");
  with([](auto& p, auto&) { p.add_scratch("x", false); }, "'x' is the name of another buffer");
  with([](auto& p, auto& t) { p.view("v", t.x, 4, 5); }, "is bytes [4, 9) of 'x', which has 8");
  with([](auto& p, auto& t) { p.view("v", t.x, -1, 5); }, "a view lies inside its base");
  with([](auto& p, auto&) { p.view("v", 7, 0, 1); }, "list the base first");
  with([](auto& p, auto& t) { p.kernel("k", t.a, {t.x}, {}), p.steps[0].reads[0].end = 9; },
       "bytes [0, 9) of 'x', which has 8");
  with([](auto& p, auto& t) { p.kernel("k", t.a, {t.x}, {}), p.steps[0].reads[0].begin = 8; },
       "begin is below end");
  with([](auto& p, auto& t) { p.kernel("", t.a, {}, {}); }, "needs a name");
  with([](auto& p, auto& t) { p.kernel("k", t.a, {}, {}), p.kernel("k", t.b, {}, {}); }, "has the same name");
  with([](auto& p, auto&) { p.kernel("k", 5, {}, {}); }, "needs a known stream");
  with([](auto& p, auto& t) { p.kernel("k", t.a, {}, {}, -1); }, "duration");
  with([](auto& p, auto& t) { p.events = {"e"}, p.wait(t.a, 0); },
       "waits for event 'e', which no earlier step records");
  with([](auto& p, auto& t) { p.wait(t.a, 3); }, "needs a known event");
  with([](auto& p, auto& t) { p.free(t.x), p.free(t.x); }, "'x' was freed already");
  with([](auto& p, auto& t) { p.free(t.x), p.record_stream(t.x, t.a); },
       "record_stream comes before the free");
  with([](auto& p, auto& t) { p.free(t.x), p.alloc(t.x); }, "allocated only later");
  with([](auto& p, auto& t) { p.alloc(t.x), p.alloc(t.x); }, "was allocated already");
  with([](auto& p, auto& t) { p.alloc(t.x, t.y); }, "reuses 'y', which no earlier step frees");
  with([](auto& p, auto& t) { p.launch_graph(0, t.a); }, "needs a known graph");
  with([](auto& p, auto& t) { p.begin_capture(t.a, "g"), p.end_capture(t.a), p.steps.push_back(p.steps[0]); },
       "was captured already");
  with([](auto& p, auto&) { p.overlaps = {{0, 1}}; }, "not two different operations");
  // Edges between operations.
  with(
      [](auto& p, auto& t) {
        p.kernel("k", t.a, {}, {}), p.kernel("l", t.b, {}, {}), p.kernel("m", t.a, {}, {});
        p.steps[0].after = {1}, p.steps[1].after = {2};
      },
      "a cycle, so none of these can ever run: 'k' after 'l' after 'm' after 'k'");
  with([](auto& p,
          auto& t) { p.kernel("k", t.a, {}, {}), p.kernel("l", t.b, {}, {}), p.steps[0].after = {1}; },
       "comes after 'l', which is listed behind it");
  with(
      [](auto& p, auto& t) {
        p.begin_capture(t.a, "g"), p.end_capture(t.a), p.kernel("k", t.a, {}, {}), p.kernel("l", t.b, {}, {});
        p.steps[3].after = {2};
      },
      "do not go together");
}

// ---- what orders

TEST(StreamProgram, RangesAndViews) {
  const auto races = [](std::int64_t begin, std::int64_t end, bool view) {
    Two t;
    t.p.kernel("k", t.a, {}, {t.x});
    t.p.steps[0].writes[0] = {t.x, 0, 4};
    const int v = view ? t.p.view("v", t.x, begin, end - begin) : t.x;
    t.p.kernel("l", t.b, {v}, {});
    if (!view) t.p.steps[1].reads[0] = {t.x, begin, end};
    return report(t.p).race_count;
  };
  for (const bool view : {false, true}) {
    EXPECT_EQ(races(4, 8, view), 0);
    EXPECT_EQ(races(3, 8, view), 1);
    EXPECT_EQ(races(0, 1, view), 1);
  }
}

TEST(StreamProgram, AWaitIsASnapshot) {
  Two t;
  t.p.kernel("first", t.a, {}, {t.x});
  t.p.wait_stream(t.b, t.a);
  t.p.kernel("second", t.a, {}, {t.y});
  t.p.kernel("reader", t.b, {t.x, t.y}, {});
  const CheckedStreams c = check_streams(t.p);
  ASSERT_EQ(c.report.race_count, 1);
  EXPECT_EQ(c.memory.name(c.report.races[0].memory), "y");
  EXPECT_EQ(c.order.node(c.report.races[0].first).step, 2);
}

TEST(StreamProgram, LegacyAndBlockingStreams) {
  for (const StreamKind kind : {StreamKind::kBlocking, StreamKind::kNonBlocking}) {
    StreamProgram p;
    const int legacy = p.stream("legacy", StreamKind::kLegacy), s = p.stream("s", kind), x = p.buffer("x"),
              y = p.buffer("y");
    p.kernel("before", s, {}, {x});
    p.kernel("middle", legacy, {x}, {y});
    p.kernel("behind", s, {y}, {});
    EXPECT_EQ(report(p).race_count, kind == StreamKind::kBlocking ? 0 : 2);
  }
}

TEST(StreamProgram, HostSyncOrdersAndRecordStreamDoesNot) {
  for (const bool sync : {false, true}) {
    Two t;
    t.p.buffers[0].stream = t.a;
    t.p.kernel("k", t.a, {}, {t.x});
    if (sync)
      t.p.host_sync(t.a);
    else
      t.p.record_stream(t.x, t.b);
    t.p.kernel("l", t.b, {t.x}, {});
    EXPECT_EQ(report(t.p).race_count, sync ? 0 : 1);
  }
}

TEST(StreamProgram, ScratchPerDeviceRacesPerStreamDoesNot) {
  for (const bool per_stream : {false, true}) {
    Two t;
    t.p.add_scratch("semaphores", per_stream);
    for (const int s : {t.a, t.b})
      t.p.steps[static_cast<std::size_t>(t.p.kernel(s == t.a ? "k" : "l", s, {}, {}))].scratch = {0};
    EXPECT_EQ(report(t.p).race_count, per_stream ? 0 : 1);
  }
}

TEST(StreamProgram, WaitsThatDoNothing) {
  Two t;
  t.p.kernel("k", t.a, {}, {t.x});
  t.p.wait_stream(t.b, t.a);
  t.p.kernel("l", t.b, {t.x}, {});
  t.p.wait_stream(t.b, t.a);  // nothing new on a
  t.p.wait_stream(t.b, t.b);
  t.p.kernel("m", t.b, {t.x}, {});
  const StreamReport r = report(t.p);
  ASSERT_EQ(r.waits.size(), 3u);
  EXPECT_EQ(r.waits[0].use, WaitUse::kNeeded);
  EXPECT_EQ(r.waits[1].use, WaitUse::kRedundant);
  EXPECT_FALSE(r.waits[1].path.empty());
  EXPECT_TRUE(r.waits[2].of_itself);
}

TEST(StreamProgram, CriticalPath) {
  Two t;
  t.p.kernel("k", t.a, {}, {t.x}, 2);
  t.p.kernel("l", t.b, {}, {t.y}, 5);
  t.p.wait_stream(t.a, t.b);
  t.p.kernel("m", t.a, {t.x, t.y}, {}, 1);
  const StreamReport r = report(t.p);
  EXPECT_EQ(r.serial, 8);
  EXPECT_EQ(r.critical, 6);
  EXPECT_EQ(r.overlap_count, 1);
}

// ---- lifetimes

TEST(StreamLifetime, EveryFault) {
  const auto fault = [](auto fill) -> std::string {
    Two t;
    fill(t.p, t);
    const StreamReport r = report(t.p);
    return r.lifetime.empty() ? "" : std::string(name(r.lifetime.front().fault));
  };
  EXPECT_EQ(fault([](auto& p, auto& t) { p.free(t.x), p.kernel("k", t.a, {t.x}, {}); }), "dead pointer");
  EXPECT_EQ(fault([](auto& p, auto& t) { p.kernel("k", t.a, {t.x}, {}), p.alloc(t.x); }),
            "not yet allocated");
  EXPECT_EQ(fault([](auto& p, auto& t) { p.kernel("k", t.a, {t.x}, {}), p.free(t.x); }), "freed while used");
  EXPECT_EQ(fault([](auto& p, auto& t) { p.kernel("k", t.a, {t.x}, {}), p.host_sync(t.b), p.free(t.x); }),
            "freed while used");
  EXPECT_EQ(fault([](auto& p, auto& t) { p.kernel("k", t.a, {t.x}, {}), p.host_sync(t.a), p.free(t.x); }),
            "");
  EXPECT_EQ(fault([](auto& p, auto& t) {
              const int g = p.begin_capture(t.a, "g");
              p.kernel("k", t.a, {t.x}, {}), p.end_capture(t.a), p.host_sync(), p.free(t.x),
                  p.launch_graph(g, t.a);
            }),
            "dead at replay");
}

// A buffer of a's pool, read on b, freed by the host; then a allocates again.
std::string reused(bool record, bool own_stream, bool fork, bool known) {
  Two t;
  t.p.buffers[0].stream = t.p.buffers[1].stream = t.a;
  t.p.alloc(t.x);
  t.p.kernel("produce", t.a, {}, {t.x});
  t.p.wait_stream(t.b, t.a);
  t.p.kernel("consume", t.b, {t.x}, {});
  if (record) t.p.record_stream(t.x, own_stream ? t.a : t.b);
  t.p.free(t.x);
  if (fork) t.p.wait_stream(t.a, t.b);
  t.p.alloc(t.y, known ? t.x : -1);
  t.p.kernel("next", t.a, {}, {t.y});
  const StreamReport r = report(t.p);
  EXPECT_EQ(r.void_records.size(), record && own_stream ? 1u : 0u);
  if (fork) {
    EXPECT_EQ(r.waits.back().use, record && !own_stream ? WaitUse::kCostsOverlap : WaitUse::kNeeded);
  }
  return r.lifetime.empty() ? "" : std::string(name(r.lifetime.front().fault));
}

TEST(StreamLifetime, Reuse) {
  for (const bool known : {false, true}) {
    EXPECT_EQ(reused(false, false, false, known), "reused while used");
    EXPECT_EQ(reused(true, false, false, known), "");
    EXPECT_EQ(reused(true, true, false, known),
              "reused while used");  // record_stream of the pool's own stream is void
    EXPECT_EQ(reused(false, false, true, known), "");
  }
}

TEST(StreamLifetime, AFreeThatTheEndLeavesOpenIsNoted) {
  Two t;
  t.p.buffers[0].stream = t.a;
  t.p.kernel("consume", t.b, {t.x}, {});
  t.p.free(t.x);
  EXPECT_EQ(report(t.p).open_frees.size(), 1u);
}

// ---- captures

int first_code(const StreamProgram& p) {
  const StreamReport r = report(p);
  return r.capture.empty() ? -1 : r.capture.front().code;
}

TEST(StreamCapture, EveryCode) {
  const auto code = [](auto fill) {
    Two t;
    fill(t.p, t);
    return first_code(t.p);
  };
  const auto work = [](StreamProgram& p, int stream) {
    p.kernel("k" + std::to_string(p.steps.size()), stream, {}, {});
  };
  EXPECT_EQ(code([&](auto& p, auto& t) { p.begin_capture(t.a, "g"), work(p, t.a), p.end_capture(t.a); }), -1);
  EXPECT_EQ(code([&](auto& p, auto& t) { p.end_capture(t.a); }), 401);
  EXPECT_EQ(code([&](auto& p, auto& t) {
              p.begin_capture(t.a, "g"), p.begin_capture(t.a, "f"), p.end_capture(t.a);
            }),
            401);
  EXPECT_EQ(code([&](auto& p, auto& t) { p.begin_capture(t.a, "g"), p.host_sync(t.a), p.end_capture(t.a); }),
            900);
  EXPECT_EQ(code([&](auto& p, auto& t) { p.begin_capture(t.a, "g"), p.host_sync(), p.end_capture(t.a); }),
            900);
  EXPECT_EQ(code([&](auto& p, auto& t) { p.begin_capture(t.a, "g"), p.host_sync(t.b), p.end_capture(t.a); }),
            -1);
  EXPECT_EQ(code([&](auto& p, auto&) { p.begin_capture(p.stream("l", StreamKind::kLegacy), "g"); }), 900);
  EXPECT_EQ(code([&](auto& p, auto& t) {
              p.begin_capture(t.a, "g"), p.begin_capture(t.b, "f"), p.wait_stream(t.b, t.a),
                  p.end_capture(t.a), p.end_capture(t.b);
            }),
            902);
  EXPECT_EQ(
      code([&](auto& p, auto& t) { p.begin_capture(t.a, "g"), p.wait_stream(t.b, t.a), p.end_capture(t.b); }),
      903);
  EXPECT_EQ(code([&](auto& p, auto& t) {
              p.begin_capture(t.a, "g"), p.wait_stream(t.b, t.a), work(p, t.b), p.end_capture(t.a);
            }),
            904);
  EXPECT_EQ(code([&](auto& p, auto& t) {  // work behind the join
              p.begin_capture(t.a, "g"), p.wait_stream(t.b, t.a), work(p, t.b), p.wait_stream(t.a, t.b),
                  work(p, t.b);
              p.end_capture(t.a);
            }),
            904);
  EXPECT_EQ(
      code([&](auto& p, auto& t) { p.begin_capture(t.a, "g"), p.wait_stream(t.a, t.b), p.end_capture(t.a); }),
      905);
  EXPECT_EQ(code([&](auto& p, auto& t) {  // an event from before
              const int e = p.record(t.b);
              p.begin_capture(t.a, "g"), p.wait(t.a, e), p.end_capture(t.a);
            }),
            905);
  EXPECT_EQ(code([&](auto& p, auto&) {
              const int l = p.stream("l", StreamKind::kLegacy), s = p.stream("s", StreamKind::kBlocking);
              p.begin_capture(s, "g"), work(p, l), p.end_capture(s);
            }),
            906);
  EXPECT_EQ(code([&](auto& p, auto& t) {  // an event of a capture that has ended
              p.begin_capture(t.a, "g");
              const int e = p.record(t.a);
              p.end_capture(t.a), p.wait(t.b, e);
            }),
            907);
  EXPECT_EQ(code([&](auto& p, auto& t) { p.begin_capture(t.a, "g"), work(p, t.a); }), 0);  // never ended
  EXPECT_EQ(
      code([&](auto& p, auto& t) { p.launch_graph(p.begin_capture(t.a, "g"), t.b), p.end_capture(t.a); }), 0);
}

TEST(StreamCapture, AnInvalidCaptureSaysSoAtItsEnd) {
  Two t;
  t.p.begin_capture(t.a, "g");
  t.p.wait_stream(t.a, t.b);
  t.p.end_capture(t.a);
  const StreamReport r = report(t.p);
  ASSERT_EQ(r.capture.size(), 2u);
  EXPECT_EQ(r.capture[1].code, 901);
  EXPECT_EQ(r.capture[1].cause, 1);
}

// Names of streams vanish in a graph; what a replay is ordered with is the stream it is launched on.
TEST(StreamCapture, AGraphIsOrderedWithTheStreamThatLaunchesIt) {
  for (const bool same : {false, true}) {
    Two t;
    const int g = t.p.begin_capture(t.a, "g");
    t.p.kernel("k", t.a, {}, {t.x});
    t.p.end_capture(t.a);
    t.p.launch_graph(g, t.b);
    t.p.kernel("reader", same ? t.b : t.a, {t.x}, {});
    EXPECT_EQ(report(t.p).race_count, same ? 0 : 1);
  }
}

}  // namespace
}  // namespace moecheck::reference
