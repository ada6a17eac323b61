// Stream programs executed: what the checker says of a program is what its execution shows.
#include <gtest/gtest.h>

#include "harness/case.h"
#include "harness/streams/blocks.h"
#include "harness/streams/captured_graph.h"
#include "harness/streams/trial.h"
#include "stream_random_programs.h"

namespace moecheck::harness::streams {
namespace {

using namespace reference;

StreamProgram variant(const std::string& block, const std::string& name, bool capturing = false) {
  BlockOptions o;
  o.variant = name;
  o.state.capturing = capturing;
  return make_block(require_block(block), o);
}

// Wrong in some order, unless the program is right: then in none.
TEST(StreamExecution, VariantsOfBlocksAreWrongWhereTheyAreSaidToBe) {
  for (const Block& block : blocks())
    for (const BlockVariant& v : block.variants) {
      const std::string verdict = v.verdict;
      const bool sound = verdict == "clean" || verdict == "no overlap";
      for (const bool capturing : {false, true}) {
        if (capturing && block.name == std::string("two_batch")) continue;
        SCOPED_TRACE(std::string(block.name) + " " + v.name + (capturing ? " capturing" : ""));
        const Trial t = try_orders(variant(block.name, v.name, capturing),
                                   {.orders = sound ? 12 : 100, .stop_at_wrong = true});
        EXPECT_EQ(t.wrong == 0, sound) << t.what;
        EXPECT_TRUE(t.graph.empty());
        EXPECT_EQ(t.graph_nodes > 0, capturing && t.what.find("capture") == std::string::npos);
      }
    }
}

TEST(StreamExecution, EveryWaitIsNeededWhereItsRemovalGivesAWrongOutcome) {
  int waits = 0, needed = 0;
  for (const Block& block : blocks())
    for (const bool capturing : {false, true}) {
      if (capturing && block.name == std::string("two_batch")) continue;
      for (const EdgeTrial& e : try_edges(block, capturing, {.orders = 12})) {
        EXPECT_TRUE(e.agrees()) << e.block << " without " << e.wait << ": " << name(e.verdict.use)
                                << ", wrong in " << e.trial.wrong << " of " << e.trial.orders
                                << " orders: " << e.trial.what;
        ++waits;
        needed += e.trial.wrong > 0 ? 1 : 0;
      }
    }
  EXPECT_GT(waits, 50);
  EXPECT_GT(needed, 40);
}

TEST(StreamExecution, OnThreadsOfTheCpu) {
  const Trial sound = try_orders(variant("glm4_moe", "sound"), {.device = "cpu", .orders = 6, .delay = 2000});
  EXPECT_EQ(sound.wrong, 0) << sound.what;
  const Trial mla = try_orders(variant("mla_prepare", "a_v4"), {.device = "cpu", .orders = 3, .delay = 1000});
  EXPECT_EQ(mla.wrong, 0) << mla.what;
  // Captures are refused, in words.
  const Trial captured = try_orders(variant("glm4_moe", "sound", true), {.device = "cpu", .orders = 1});
  EXPECT_NE(captured.what.find("capture nothing"), std::string::npos) << captured.what;
}

// A data race by construction: not for ThreadSanitizer's build, which would say so (scripts/test.sh).
TEST(StreamExecution, OnThreadsOfTheCpuAMissingWaitIsSeen) {
  for (const char* name : {"no_fork", "no_join", "in_place"}) {
    const Trial t = try_orders(variant("glm4_moe", name), {.device = "cpu", .orders = 6, .delay = 20000});
    EXPECT_GT(t.wrong, 0) << name;
  }
}

// Small programs of all kinds: what the checker finds nothing wrong with gives one outcome in every order.
TEST(StreamExecution, RandomProgramsThatAreRightGiveOneOutcome) {
  int executed = 0, racy = 0, seen = 0;
  for (std::uint64_t seed = 0; seed < 3000 && executed < 150; ++seed) {
    const StreamProgram p = RandomProgram(seed, 5).make();
    bool plain = true, allocates = false;
    for (const ProgramStream& s : p.streams) plain = plain && s.kind == StreamKind::kNonBlocking;
    for (const StreamStep& s : p.steps)
      allocates = allocates || s.kind == StepKind::kAlloc || s.kind == StepKind::kFree;
    if (!plain || allocates || refusal(p)) continue;
    const CheckedStreams c = check_streams(p, {.waits = false});
    if (!c.report.capture.empty()) continue;
    SCOPED_TRACE(seed);
    const Trial t = try_orders(p, {.orders = 6});
    if (c.report.race_count == 0) {
      EXPECT_EQ(t.wrong, 0) << t.what;
    } else {
      ++racy;
      seen += t.wrong > 0 ? 1 : 0;
    }
    EXPECT_TRUE(t.graph.empty());
    ++executed;
  }
  EXPECT_EQ(executed, 150);
  EXPECT_GT(seen, racy * 9 / 10) << racy;  // a few orders do not show every race
}

TEST(StreamExecution, CaptureErrorsAreTheDevices) {
  const Trial unjoined = try_orders(variant("glm4_moe", "unjoined_capture"), {.orders = 2});
  EXPECT_EQ(unjoined.wrong, 2);
  EXPECT_NE(unjoined.what.find("unjoined work"), std::string::npos) << unjoined.what;
  const Trial outside = try_orders(variant("glm4_moe", "outside_event"), {.orders = 2});
  EXPECT_NE(outside.what.find("not recorded in this capture"), std::string::npos) << outside.what;
}

TEST(StreamExecution, RefusesWhatItCannotExecute) {
  StreamProgram legacy;
  legacy.stream("main", StreamKind::kLegacy);
  EXPECT_THROW((void)try_orders(legacy, {}), UsageError);
  StreamProgram large;
  large.stream("main");
  large.buffer("x", std::int64_t{1} << 40);
  large.buffer("y", std::int64_t{1} << 62);
  EXPECT_THROW((void)try_orders(large, {}), UsageError);
  StreamProgram backward;
  const int s = backward.stream("s"), other = backward.stream("t"), b = backward.buffer("b");
  backward.kernel("A", other, {}, {b});
  backward.kernel("B", s, {b}, {});
  backward.steps[0].after = {1};
  EXPECT_THROW((void)try_orders(backward, {}), UsageError);
  EXPECT_THROW((void)make_stream_device("gpu", 0), UsageError);
}

TEST(StreamExecution, ReadsPairsOfAfterAsEdges) {
  StreamProgram p;
  const int s = p.stream("s"), t = p.stream("t"), b = p.buffer("b", 64), c = p.buffer("c", 64);
  p.kernel("A", s, {}, {b});
  p.kernel("B", t, {b}, {c});
  EXPECT_GT(try_orders(p, {.orders = 8}).wrong, 0);
  p.steps[1].after = {0};
  EXPECT_EQ(try_orders(p, {.orders = 8}).wrong, 0);
}

// ---- Graphs read back

std::vector<CapturedOperation> operations(const std::vector<std::pair<int, std::vector<const void*>>>& list) {
  std::vector<CapturedOperation> all;
  for (const auto& [step, tail] : list) all.push_back({step, tail});
  return all;
}

TEST(CapturedGraph, NamesEdgesThatAreLostOrGained) {
  StreamProgram p;
  const int cur = p.stream("cur"), alt = p.stream("alt"), b = p.buffer("b");
  const int g = p.begin_capture(cur, "g");
  const int a = p.kernel("A", cur, {}, {b});
  p.wait_stream(alt, cur);
  const int side = p.kernel("S", alt, {b}, {});
  const int m = p.kernel("M", cur, {b}, {});
  p.wait_stream(cur, alt);
  const int e = p.kernel("E", cur, {}, {b});
  p.end_capture(cur);
  p.launch_graph(g, cur);
  const char n[6] = {};  // nodes: A has two
  const auto graph = [&](const std::vector<std::vector<int>>& after) {
    std::vector<gpu::GraphNode> nodes;
    for (std::size_t i = 0; i < after.size(); ++i) {
      nodes.push_back({&n[i], "kernel", {}});
      for (const int x : after[i]) nodes.back().after.push_back(&n[x]);
    }
    return nodes;
  };
  const auto captured = operations({{a, {&n[1]}}, {side, {&n[2]}}, {m, {&n[3]}}, {e, {&n[4]}}});
  EXPECT_TRUE(compare_graph(p, captured, graph({{}, {0}, {1}, {1}, {3, 2}})).empty());
  const auto lost = compare_graph(p, captured, graph({{}, {0}, {1}, {1}, {3}}));
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_TRUE(lost[0].lost);
  EXPECT_EQ(lost[0].first, side);
  EXPECT_EQ(lost[0].second, e);
  const auto gained = compare_graph(p, captured, graph({{}, {0}, {1}, {2}, {3, 2}}));
  ASSERT_EQ(gained.size(), 1u);
  EXPECT_FALSE(gained[0].lost);
  EXPECT_EQ(gained[0].first, side);
  EXPECT_EQ(gained[0].second, m);
  // Between the two kernels of A.
  const auto within = compare_graph(p, captured, graph({{}, {}, {1}, {1}, {3, 2}}));
  ASSERT_EQ(within.size(), 1u);
  EXPECT_TRUE(within[0].lost);
  EXPECT_EQ(within[0].first, -1);
}

}  // namespace
}  // namespace moecheck::harness::streams
