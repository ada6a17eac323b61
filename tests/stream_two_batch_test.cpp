// Two-batch overlap: stages, the host's order, outstanding transfers, and the program.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "harness/case.h"
#include "harness/streams/text.h"
#include "harness/streams/two_batch.h"
#include "reference/stream_checker.h"
#include "reference/stream_oracle.h"

namespace moecheck::harness::streams {
namespace {

using namespace reference;

TEST(TwoBatch, StageCounts) {
  for (int layers = 1; layers <= 5; ++layers) {
    const auto n = [&](TwoBatchPlan p) { return static_cast<int>(stages(p, layers).size()); };
    EXPECT_EQ(n(TwoBatchPlan::kPrefill), 2 * layers + 1);
    EXPECT_EQ(n(TwoBatchPlan::kDecode), 5 * layers + 1);
    EXPECT_EQ(n(TwoBatchPlan::kDecodeBefore), 5 * layers);
    EXPECT_EQ(n(TwoBatchPlan::kQwen3Decode), 5 * layers);
  }
  EXPECT_THROW(cut_stages({{0, "a"}, {0, "|"}, {0, "|"}}), UsageError);
  EXPECT_THROW(cut_stages({{0, "|"}, {0, "a"}}), UsageError);
  EXPECT_EQ(cut_stages({{0, "a"}, {0, "|"}}).size(), 1u);
  EXPECT_THROW(turns(3, 4), UsageError);
  EXPECT_THROW(turns(3, -1), UsageError);
}

// Each batch keeps the sequential order, and A is delta stages ahead.
TEST(TwoBatch, TurnsAreTheSequentialOrderOfEachBatch) {
  for (int n = 1; n <= 12; ++n)
    for (int delta = 0; delta <= n; ++delta) {
      int at[2] = {0, 0};
      for (const Turn& t : turns(n, delta)) {
        EXPECT_EQ(t.stage, at[t.batch]);
        ++at[t.batch];
        if (t.batch == 1) {
          EXPECT_EQ(at[0], std::min(t.stage + delta + 1, n));
        }
      }
      EXPECT_EQ(at[0], n);
      EXPECT_EQ(at[1], n);
    }
}

TEST(TwoBatch, OutstandingTransfers) {
  for (int layers = 2; layers <= 4; ++layers) {
    const auto decode = stages(TwoBatchPlan::kDecode, layers);
    EXPECT_EQ(most_outstanding(decode, 2), 1);
    for (const int delta : {0, 1, 3}) EXPECT_EQ(most_outstanding(decode, delta), 2) << delta;
    EXPECT_EQ(most_outstanding(stages(TwoBatchPlan::kPrefill, layers), 0), 2);
  }
}

std::vector<std::string> names_of(const StreamProgram& p, char batch) {
  std::vector<std::string> list;
  for (const StreamStep& s : p.steps)
    if (is_operation(s) && s.name[0] == batch) list.push_back(s.name);
  return list;
}

TEST(TwoBatch, ProgramsAreCleanAndTransfersOverlap) {
  for (const TwoBatchPlan plan : {TwoBatchPlan::kPrefill, TwoBatchPlan::kDecode, TwoBatchPlan::kDecodeBefore,
                                  TwoBatchPlan::kQwen3Decode}) {
    const int delta = default_delta(plan);
    const StreamProgram p = two_batch_program(plan, 3, delta),
                        serial = two_batch_program(plan, 3, delta, false);
    const StreamReport r = check_streams(p).report;
    EXPECT_FALSE(r.wrong()) << name(plan);
    EXPECT_LT(r.critical, check_streams(serial).report.critical) << name(plan);
    for (const char batch : {'A', 'B'}) EXPECT_EQ(names_of(p, batch), names_of(serial, batch)) << name(plan);
    for (const WaitVerdict& w : r.waits) EXPECT_NE(w.use, WaitUse::kCostsOverlap);
  }
  // sglang#6711: two more operations of A come between B's dispatch and its wait.
  const auto between = [](TwoBatchPlan plan) {
    const StreamProgram p = two_batch_program(plan, 1, 2);
    bool open = false;
    int count = 0;
    const int received = [&] {
      for (std::size_t b = 0; b < p.buffers.size(); ++b)
        if (p.buffers[b].name == "B.received") return static_cast<int>(b);
      return -1;
    }();
    for (const StreamStep& s : p.steps) {
      if (!is_operation(s)) continue;
      if (s.name == "B0.experts") break;
      count += open && s.name[0] == 'A';
      open = open || (!s.writes.empty() && s.writes.front().buffer == received);
    }
    return count;
  };
  EXPECT_EQ(between(TwoBatchPlan::kDecode), between(TwoBatchPlan::kDecodeBefore) + 2);
}

}  // namespace
}  // namespace moecheck::harness::streams
