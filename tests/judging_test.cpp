// Many random cases: how many run, that tensors fit each seed's shapes, and that a failure is found and named.
#include "harness/judging.h"

#include <gtest/gtest.h>

#include "tests/altered_implementation.h"

namespace moecheck::harness {
namespace {

const Implementation& cpu() { return *find_implementation("cpu"); }

TEST(JudgingMany, CountsRowsOrCases) {
  const std::vector<Case> lines = {parse_case("gating experts=16 topk=2 tokens=4"),
                                   parse_case("gating experts=8 topk=2 tokens=2")};
  const JudgingResult by_rows = judge_many(lines, cpu(), {.rows = 60});
  EXPECT_EQ(by_rows.cases, 20);
  EXPECT_EQ(by_rows.rows, 60);
  const JudgingResult by_cases = judge_many(lines, cpu(), {.cases = 31});
  EXPECT_EQ(by_cases.cases, 32) << "the same number of each line";
  EXPECT_EQ(by_cases.failed + by_rows.failed, 0);
}

// The number of blocks follows from the lengths that the seed draws.
TEST(JudgingMany, ShapesMayDependOnTheSeed) {
  const Case line = parse_case("indexer_cache form=gather tokens=60 block_size=16 requests=5");
  Case other = line;
  bool differs = false;
  for (other.seed = 1; other.seed < 20; ++other.seed)
    differs = differs ||
              operator_of(line).inputs(other).front().shape != operator_of(line).inputs(line).front().shape;
  ASSERT_TRUE(differs) << "the test needs such a case";
  EXPECT_EQ(judge_many({line}, cpu(), {.cases = 40}).failures, std::vector<std::string>());
}

TEST(JudgingMany, AFailureIsNamed) {
  const JudgingResult r = judge_many({parse_case("gating experts=16 topk=2 tokens=4")},
                                     *find_implementation("cpu!scale_dropped"), {.cases = 5});
  EXPECT_EQ(r.failed, 5);
  EXPECT_EQ(r.failures.size(), 5U);
}

TEST(JudgingMany, AnOperatorsLinesAreItsQuickSuite) {
  for (const Operator* op : operators())
    EXPECT_EQ(judging_cases(*op, cpu()).size(), op->cases(Suite::kQuick).size());
}

}  // namespace
}  // namespace moecheck::harness
