// The blocks: every variant gets the verdict that it is listed with, every wait the one that its removal shows.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "harness/case.h"
#include "harness/streams/blocks.h"
#include "harness/streams/text.h"
#include "reference/stream_checker.h"
#include "reference/stream_oracle.h"

namespace moecheck::harness::streams {
namespace {

using namespace reference;

std::vector<std::string> words(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> list;
  for (std::string w; in >> w;) list.push_back(w);
  return list;
}

// Whether the report says what a variant is listed with.
void expect_verdict(const StreamProgram& p, const std::string& verdict) {
  const CheckedStreams c = check_streams(p);
  const StreamReport& r = c.report;
  const std::string text = check_text(p, c);
  SCOPED_TRACE(text);
  const std::vector<std::string> w = words(verdict);
  if (verdict == "clean") {
    EXPECT_FALSE(failed(r));
  } else if (verdict == "no overlap") {
    EXPECT_FALSE(r.wrong());
    EXPECT_FALSE(r.lost.empty());
  } else if (w[0] == "race") {
    EXPECT_TRUE(r.capture.empty());
    std::string found;
    for (const Race& race : r.races)
      if (c.memory.name(race.memory) == w[1])
        for (const std::string& h : words(hazards(race))) found += h + " ";
    for (std::size_t i = 2; i < w.size(); ++i) EXPECT_NE(found.find(w[i]), std::string::npos) << w[i];
  } else if (w[0] == "capture") {
    ASSERT_FALSE(r.capture.empty());
    EXPECT_EQ(std::to_string(r.capture.front().code), w[1]);
  } else {
    ASSERT_EQ(w[0], "lifetime");
    ASSERT_FALSE(r.lifetime.empty());
    EXPECT_EQ("lifetime " + std::string(name(r.lifetime.front().fault)), verdict);
  }
}

BlockOptions options(const std::string& variant, bool capturing) {
  BlockOptions o;
  o.variant = variant;
  o.state.capturing = capturing;
  return o;
}

TEST(StreamBlocks, EveryVariantGetsItsVerdict) {
  for (const Block& b : blocks())
    for (const BlockVariant& v : b.variants) {
      SCOPED_TRACE(std::string(b.name) + " " + v.name);
      const StreamProgram p = make_block(b, options(v.name, false));
      ASSERT_EQ(refusal(p), std::nullopt);
      expect_verdict(p, v.verdict);
    }
}

// The same while capturing; what is missing at a capture's edge becomes an error of the capture.
TEST(StreamBlocks, EveryVariantGetsItsVerdictInACapture) {
  const std::map<std::string, std::string> other{{"glm4_moe no_fork", "capture 905"},
                                                 {"glm4_moe no_join", "capture 904"},
                                                 {"mla_prepare no_fork", "capture 905"},
                                                 {"mla_prepare no_join", "capture 904"},
                                                 {"mla_prepare original_no_fork", "capture 905"},
                                                 {"mla_prepare original_no_join", "capture 904"},
                                                 {"indexer no_F1", "capture 905"},
                                                 {"indexer no_J2", "capture 904"},
                                                 // A capture's pool gives nothing of a recorded buffer away.
                                                 {"glm4_moe recorded", "clean"}};
  for (const Block& b : blocks())
    for (const BlockVariant& v : b.variants) {
      if (std::string(b.name) == "two_batch") continue;
      const std::string key = std::string(b.name) + " " + v.name;
      SCOPED_TRACE(key + " capturing");
      const auto found = other.find(key);
      expect_verdict(make_block(b, options(v.name, true)), found == other.end() ? v.verdict : found->second);
    }
}

// "Wrong" means a wrong result: the oracle, which knows no clocks, finds two different ones or poison, and only there.
TEST(StreamBlocks, TheOracleAgrees) {
  for (const Block& b : blocks())
    for (const BlockVariant& v : b.variants)
      for (const bool capturing : {false, true}) {
        if (std::string(b.name) == "two_batch") continue;
        SCOPED_TRACE(std::string(b.name) + " " + v.name);
        const StreamProgram p = make_block(b, options(v.name, capturing));
        const StreamReport r = check_streams(p).report;
        const OracleResult o = explore_streams(p);
        ASSERT_TRUE(o.complete);
        EXPECT_EQ(o.capture_failed, !r.capture.empty());
        if (o.capture_failed) continue;
        EXPECT_EQ(o.outcomes_differ, r.race_count > 0);
        EXPECT_EQ(o.poison, !r.lifetime.empty());
      }
}

// Each wait of each sound block is taken away: those called needed give a wrong outcome, the others do not.
TEST(StreamBlocks, EveryEdgeByRemoval) {
  int needed = 0;
  for (const Block& b : blocks())
    for (const BlockVariant& v : b.variants) {
      if (std::string(v.verdict) != "clean" || std::string(b.name) == "two_batch") continue;
      const StreamProgram p = make_block(b, options(v.name, false));
      for (const WaitVerdict& w : check_streams(p).report.waits) {
        SCOPED_TRACE(std::string(b.name) + " " + v.name + " " +
                     step_labels(p)[static_cast<std::size_t>(w.step)]);
        const OracleResult o = explore_streams(without_step(p, w.step));
        ASSERT_TRUE(o.complete);
        EXPECT_EQ(w.use == WaitUse::kNeeded, o.outcomes_differ || o.poison);
        needed += w.use == WaitUse::kNeeded;
      }
    }
  EXPECT_GT(needed, 15);
}

const WaitVerdict& wait_of(const CheckedStreams& c, const StreamProgram& p, const std::string& label) {
  const std::vector<std::string> labels = step_labels(p);
  for (const WaitVerdict& w : c.report.waits)
    if (labels[static_cast<std::size_t>(w.step)] == label) return w;
  throw std::out_of_range(label);
}

// sglang#13778: "alt.wait_stream(cur) serializes, remove it". It does not, and must stay.
TEST(StreamBlocks, TheReviewOf13778) {
  const StreamProgram p = glm4_moe({});
  const CheckedStreams c = check_streams(p);
  EXPECT_FALSE(failed(c.report));
  EXPECT_EQ(wait_of(c, p, "alt.wait(cur)").use, WaitUse::kNeeded);
  EXPECT_EQ(wait_of(c, p, "cur.wait(alt)").use, WaitUse::kNeeded);
  EXPECT_EQ(c.report.overlap_count, 3);  // S with G, T and E
  EXPECT_LT(c.report.critical, c.report.serial);
  const std::string text = explain_text(p, "P->G");
  for (const char* part :
       {"alt.wait(cur): needed",
        "waits for what cur had when it was called: P; not for S, A, R, N (put there later)",
        "race RAW on h of P and G: schedule G, P", "costs none", "S|G, S|T, S|E"})
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;

  // The claim would be true of this order, where the fork comes behind S.
  const StreamProgram late = glm4_moe({.fork = Fork::kLate});
  const std::string claim = explain_text(late, "P->G");
  for (const char* part : {"not for A, R, N", "costs 3 pairs, which no data order: S|G, S|T, S|E"})
    EXPECT_NE(claim.find(part), std::string::npos) << part << "\n" << claim;
  EXPECT_EQ(check_streams(late).report.overlap_count, 0);
}

TEST(StreamBlocks, WithoutTheJoinTheNextWriterRacesToo) {
  const StreamProgram p = glm4_moe({.join = Join::kNone});
  const CheckedStreams c = check_streams(p);
  std::map<std::string, std::string> found;
  for (const Race& r : c.report.races)
    found[p.steps[static_cast<std::size_t>(c.order.node(r.first).step)].name +
          p.steps[static_cast<std::size_t>(c.order.node(r.second).step)].name] =
        c.memory.name(r.memory) + " " + hazards(r);
  EXPECT_EQ(found["EA"], "y RAW WAW");
  EXPECT_EQ(found["GN"], "h WAR");
  EXPECT_EQ(found["TN"], "h WAR");
  EXPECT_EQ(found["EN"], "h WAR");
}

// specs: concurrent pairs of the layouts.
TEST(StreamBlocks, PairsOfTheMlaLayouts) {
  const auto pairs = [](MlaPrepare m) { return check_streams(mla_prepare(m)).report.overlap_count; };
  EXPECT_EQ(pairs({}), 27);  // 9 of the indexer with q_b_proj, bmm, rope_cat_cache
  EXPECT_EQ(pairs({.join = Join::kEarly}), 9);
  EXPECT_EQ(pairs({.fork = Fork::kLate}), 18);
  EXPECT_EQ(pairs({.fork = Fork::kLate, .join = Join::kEarly}), 0);
  EXPECT_EQ(pairs({.a_v4 = false}), 9);  // the indexer with q_b_proj
  EXPECT_EQ(pairs({.capturing = true}), 27);
}

// A capture that succeeds proves nothing about the edges inside it.
TEST(StreamBlocks, ACaptureSucceedsWithoutTheInnerEdges) {
  for (const char* const edge : {"J1", "F2"}) {
    const StreamReport r = check_streams(indexer_two_stages(edge, true)).report;
    EXPECT_TRUE(r.capture.empty()) << edge;
    EXPECT_EQ(r.race_count > 0, true) << edge;
  }
}

}  // namespace
}  // namespace moecheck::harness::streams
