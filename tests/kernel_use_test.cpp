// Which kernels ran, from the implementation to the records, the console, the page and the counts.
#include "harness/kernel_use.h"

#include <gtest/gtest.h>

#include "harness/json.h"
#include "harness/operator.h"
#include "harness/report/counts_json.h"
#include "harness/report/html.h"
#include "harness/runner.h"
#include "harness/verdict_text.h"

namespace moecheck::harness {
namespace {

// Has three kernels of gating and runs the first for few tokens, the second for many, the third never.
class ThreeKernels final : public Implementation {
 public:
  std::string_view name() const override { return "three-kernels"; }
  std::string_view summary() const override { return "chooses among kernels"; }
  std::optional<std::string> unsupported(const Case&) const override { return std::nullopt; }
  void run(const Case& c, const TensorSet& in, TensorSet& out, const RunOptions& o) const override {
    ++use_.executed[c.integer("tokens") < 3 ? "few rows" : "many rows"];
    if (c.integer("tokens") == 4) ++use_.fallbacks["four tokens"];
    find_implementation("cpu")->run(c, in, out, o);
  }
  KernelUse kernel_use(std::string_view) const override { return use_; }

 private:
  mutable KernelUse use_{{{"few rows", 0}, {"many rows", 0}, {"<odd> rows", 0}}, {}};
};

std::vector<Record> records_of(const Implementation& impl, std::initializer_list<const char*> lines) {
  const Implementation* one[] = {&impl};
  CheckOptions options;
  options.relations = false;
  std::vector<Record> all;
  for (const char* line : lines) all.push_back(check_case(parse_case(line), one, options).front());
  return all;
}

TEST(KernelUse, IsOfTheCheckAlone) {
  const ThreeKernels impl;
  const std::vector<Record> r = records_of(impl, {"gating tokens=2", "gating tokens=4", "gating tokens=2"});
  EXPECT_GT(r[0].kernels.executed.at("few rows"), 0u);
  // Those that did nothing are named once.
  EXPECT_EQ(r[0].kernels.executed.at("<odd> rows"), 0u);
  EXPECT_EQ(r[1].kernels.executed.count("<odd> rows"), 0u);
  EXPECT_EQ(r[1].kernels.executed.count("few rows"), 0u);
  EXPECT_EQ(r[1].kernels.fallbacks.at("four tokens"), r[1].kernels.executed.at("many rows"));
  EXPECT_TRUE(r[2].kernels.fallbacks.empty());
  const Record back = record_from_json(to_json(r[1]));
  EXPECT_EQ(back.kernels.executed, r[1].kernels.executed);
  EXPECT_EQ(back.kernels.fallbacks, r[1].kernels.fallbacks);
  EXPECT_THROW(record_from_json(R"({"schema":"moecheck.record/1","case":"c","operator":"o","implementation":"i",)"
                                R"("verdict":"PASS","kernels":{"a":"many"}})"),
               UsageError);
}

TEST(KernelUse, WhatNeverRanIsShown) {
  // A class of its own name: what a process has named is kept by name.
  class Other final : public Implementation {
   public:
    std::string_view name() const override { return "other-kernels"; }
    std::string_view summary() const override { return three_.summary(); }
    std::optional<std::string> unsupported(const Case&) const override { return std::nullopt; }
    void run(const Case& c, const TensorSet& in, TensorSet& out, const RunOptions& o) const override { three_.run(c, in, out, o); }
    KernelUse kernel_use(std::string_view op) const override { return three_.kernel_use(op); }

   private:
    ThreeKernels three_;
  } impl;
  const std::vector<Record> r = records_of(impl, {"gating tokens=2", "gating tokens=4"});
  const std::string text = summary_text(r, false);
  EXPECT_NE(text.find("other-kernels: 2 of 3 kernels ran; never: gating: <odd> rows"), std::string::npos) << text;
  const std::string page = html_report(r);
  EXPECT_NE(page.find("<b>never</b><td>gating: &lt;odd&gt; rows"), std::string::npos);
  EXPECT_NE(page.find("left the fast kernels, gating: four tokens"), std::string::npos);
  const auto counts = nlohmann::json::parse(counts_json(r, "moecheck check gating"));
  EXPECT_EQ(counts.at("command"), "moecheck check gating");
  EXPECT_EQ(counts.at("checks").at(0).at("verdicts").at("PASS"), 2);
  EXPECT_EQ(counts.at("checks").at(0).at("cases"), 2);
  EXPECT_EQ(counts.at("kernels").at(0).at("never"), nlohmann::json::array({"gating: <odd> rows"}));
  EXPECT_TRUE(counts.at("kernels").at(0).at("fallbacks").contains("gating: four tokens"));
}

TEST(KernelUse, FailuresAreCountedWithTheirCases) {
  const auto counts =
      nlohmann::json::parse(counts_json(records_of(*find_implementation("cpu!weights_reversed"), {"gating tokens=2"}), "x"));
  EXPECT_EQ(counts.at("checks").at(0).at("failed"), nlohmann::json::array({parse_case("gating tokens=2").str()}));
  EXPECT_TRUE(counts.at("kernels").empty());
}

TEST(KernelUse, TheHostExecutorNamesItsKernels) {
  const Record r = records_of(*find_implementation("gpu-host:w64"), {"gating tokens=2"}).front();
  ASSERT_FALSE(r.kernels.executed.empty());
  for (const auto& [name, n] : r.kernels.executed) EXPECT_TRUE(name.starts_with("host wave 64")) << name;
}

}  // namespace
}  // namespace moecheck::harness
