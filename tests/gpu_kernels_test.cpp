// The GPU kernels of every operator on the host executor: right under every schedule, every specialization reached, every planted
// fault found. What only one operator has is in gpu_OP_test.cpp.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "gpu_kernel_cases.h"
#include "harness/case.h"
#include "harness/implementations/gpu_host.h"
#include "harness/operator.h"
#include "harness/runner.h"
#include "harness/workers.h"
#include "optimized/gpu/specializations.h"

namespace moecheck::harness {
namespace {

constexpr std::string_view kWidths[] = {"gpu-host:reverse", "gpu-host:w64"};
constexpr std::string_view kOrders[] = {"gpu-host", "gpu-host:w64:reverse", "gpu-host:w32:seed7",
                                        "gpu-host:w64:seed3"};
constexpr std::size_t kNthRelations = 20;  // of the cases, under one schedule: they take most of the time

const Implementation* implementation(std::string_view schedule) {
  const Implementation* impl = find_implementation(schedule);
  EXPECT_NE(impl, nullptr) << schedule;
  return impl;
}

class GpuKernels : public testing::TestWithParam<std::string_view> {
 protected:
  void SetUp() override {
    ASSERT_NE(find_gpu_kernel_cases(GetParam()), nullptr)
        << GetParam() << " has GPU kernels and no entry in gpu_kernel_cases.cpp";
  }
  const GpuKernelCases& kernel_cases() const { return *find_gpu_kernel_cases(GetParam()); }
  std::vector<Case> quick_cases() const { return find_operator(GetParam())->cases(Suite::kQuick); }
};

void expect_right(const Case& c, const std::vector<const Implementation*>& implementations,
                  const CheckOptions& options) {
  for (const Implementation* impl : implementations)
    EXPECT_FALSE(impl->unsupported(c)) << c.str() << ": " << impl->unsupported(c).value_or("");
  for (const Record& r : check_case(c, implementations, options))
    EXPECT_FALSE(is_failure(r.result.verdict))
        << r.implementation << " " << c.str() << ": " << r.result.reason;
}

// Each specialization of the operator has run, at both wave widths.
void expect_all_executed(const GpuKernelCases& k) {
  int all = 0, of_32 = 0, of_64 = 0;
  for (const gpu::SpecializationUse& s : gpu::specializations()) {
    if (s.op != k.op) continue;
    ++all;
    of_32 += s.name.find("wave 32") != std::string::npos;
    of_64 += s.name.find("wave 64") != std::string::npos;
    const bool elsewhere =
        std::ranges::any_of(k.by_no_case, [&](auto& end) { return s.name.ends_with(end); });
    EXPECT_TRUE(s.executed > 0 || elsewhere) << s.name << " was never executed";
  }
  EXPECT_GE(all, k.specializations);
  EXPECT_GT(of_32, 0);
  EXPECT_GT(of_64, 0);
}

TEST_P(GpuKernels, AreRightUnderEveryScheduleAndAllReached) {
  const GpuKernelCases& k = kernel_cases();
  std::vector<Case> cases = gpu_further_cases(k.op);
  const std::vector<Case> quick = quick_cases();
  for (std::size_t i = 0; i < quick.size(); i += k.nth_quick) cases.push_back(quick[i]);
  std::vector<const Implementation*> widths, orders;
  for (const std::string_view name : kWidths) widths.push_back(implementation(name));
  for (const std::string_view name : kOrders) orders.push_back(implementation(name));
  for (std::size_t i = 0; i < cases.size(); ++i) {
    expect_right(cases[i], widths, {.clauses = i % k.nth_order == 0, .relations = false});
    if (i % k.nth_order == 0) expect_right(cases[i], orders, {.clauses = false, .relations = false});
    if (i % kNthRelations == 0) expect_right(cases[i], {widths[i / kNthRelations % 2]}, {.clauses = false});
  }
  expect_all_executed(k);
}

bool finds(const std::vector<Case>& cases, const std::vector<const Implementation*>& faulty) {
  for (auto c = cases.rbegin(); c != cases.rend(); ++c)  // the last ones are the odd ones, which find most
    for (const Implementation* impl : faulty) {
      const Implementation* one[] = {impl};
      if (is_failure(check_case(*c, one, {.clauses = false, .relations = false}).front().result.verdict))
        return true;
    }
  return false;
}

// By the quick suite, which is what a user runs. In processes of their own: a sanitizer ends those that reach outside.
TEST_P(GpuKernels, EveryPlantedFaultIsFound) {
  std::vector<PlantedFault> faults;
  std::vector<std::vector<const Implementation*>> faulty;
  for (const PlantedFault& f : planted_gpu_faults()) {
    if (f.op != GetParam()) continue;
    faults.push_back(f);
    faulty.emplace_back();
    for (const char* schedule : {"gpu-host:w64:reverse", "gpu-host"})
      faulty.back().push_back(implementation(fmt::format("{}!{}", schedule, f.name)));
  }
  EXPECT_GE(faults.size(), 4u);
  const std::vector<Case> cases = quick_cases();
  WorkerCallbacks callbacks;
  callbacks.work = [&](std::size_t i) { return std::string(finds(cases, faulty[i]) ? "found" : ""); };
  callbacks.done = [&](std::size_t i, const std::string& text) {
    EXPECT_EQ(text, "found") << faults[i].name << ": " << faults[i].what;
  };
  callbacks.lost = [&](std::size_t i, const std::string& how, bool timeout) {
    EXPECT_FALSE(timeout) << faults[i].name << ": " << how;
  };
  run_in_workers(faults.size(), {}, callbacks);
}

INSTANTIATE_TEST_SUITE_P(Operators, GpuKernels, testing::ValuesIn(gpu_operators()),
                         [](const auto& test) { return std::string(test.param); });

TEST(GpuKernelCases, AreOfOperatorsWithKernels) {
  std::set<std::string_view> with_kernels, with_cases;
  for (const std::string_view op : gpu_operators()) with_kernels.insert(op);
  for (const GpuKernelCases& k : gpu_kernel_cases()) with_cases.insert(k.op);
  EXPECT_EQ(with_cases, with_kernels);
  EXPECT_EQ(with_cases.size(), gpu_kernel_cases().size());
}

}  // namespace
}  // namespace moecheck::harness
