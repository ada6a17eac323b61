// Every planted fault is killed by a check, and by which is recorded. Suites are tried cheapest first.
#include "harness/implementations/faults.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "harness/operator.h"
#include "harness/runner.h"

namespace moecheck::harness {
namespace {

// What saw it: the comparison, or the first broken clause.
std::string killer(const Record& r) {
  if (r.result.failed + r.result.suspect > 0) return "comparison";
  for (const ClauseResult& c : r.result.clauses)
    if (c.verdict == Verdict::kFail) return c.name;
  return std::string(name(r.result.verdict));
}

class PlantedFaults : public testing::TestWithParam<PlantedFault> {};

TEST_P(PlantedFaults, IsKilled) {
  const PlantedFault& fault = GetParam();
  const Implementation* one[] = {find_implementation(fmt::format("cpu!{}", fault.name))};
  ASSERT_NE(one[0], nullptr);
  std::int64_t asked = 0;
  for (const Suite suite : {Suite::kQuick, Suite::kAdversarial, Suite::kModels}) {
    for (const Case& c : find_operator(fault.op)->cases(suite)) {
      const Record r = check_case(c, one, {}).front();
      ++asked;
      if (!is_failure(r.result.verdict)) continue;
      RecordProperty("killed_by", killer(r));
      RecordProperty("suite", std::string(name(suite)));
      fmt::print("{:<32} {:<28} {:<12} after {:>4} cases: {}\n", fault.name, killer(r), name(suite), asked,
                 r.case_line);
      return;
    }
  }
  FAIL() << fault.name << " survived " << asked << " cases: " << fault.what;
}

INSTANTIATE_TEST_SUITE_P(Cpu, PlantedFaults,
                         testing::ValuesIn(planted_faults().begin(), planted_faults().end()),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(PlantedFaults, AreManyAndEveryOperatorHasSome) {
  std::map<std::string_view, int> per_operator;
  std::set<std::string_view> names;
  for (const PlantedFault& f : planted_faults()) {
    ++per_operator[f.op];
    EXPECT_TRUE(names.insert(f.name).second) << f.name << " is planted twice";
    EXPECT_NE(find_operator(f.op), nullptr) << f.name;
    EXPECT_FALSE(f.what.empty());
  }
  EXPECT_GE(names.size(), 40u);
  for (const Operator* op : operators()) EXPECT_GE(per_operator[op->name()], 3) << op->name();
}

// The clean build has none of them: the same cases pass.
TEST(PlantedFaults, AreOffInTheCleanBuild) {
  const Implementation* one[] = {find_implementation("cpu")};
  for (const Operator* op : operators())
    for (const Case& c : op->cases(Suite::kQuick)) {
      const Record r = check_case(c, one, {}).front();
      EXPECT_FALSE(is_failure(r.result.verdict)) << c.str() << ": " << r.result.reason;
    }
}

}  // namespace
}  // namespace moecheck::harness
