// Gating's GPU kernels on the host executor: right under every schedule, every specialization reached, every planted fault found.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <set>

#include "gpu_test_support.h"
#include "harness/case.h"
#include "harness/implementations/gpu_host.h"
#include "harness/operator.h"
#include "harness/runner.h"
#include "optimized/gpu/specializations.h"

namespace moecheck::harness {
namespace {

constexpr std::string_view kSchedules[] = {"gpu-host",           "gpu-host:w64",
                                           "gpu-host:reverse",   "gpu-host:w64:reverse",
                                           "gpu-host:w32:seed7", "gpu-host:w64:seed3"};

// Cases that together reach every specialization.
std::vector<Case> cases() {
  std::vector<Case> list;
  const auto add = [&](const std::string& line) {
    Case c = parse_case(find_operator("gating")->schema(), line);
    if (!find_operator("gating")->refusal(c)) list.push_back(c);
  };
  for (const int experts : {20, 40, 64, 100, 128, 160, 192, 256, 384, 512, 896})
    for (const char* policy : {"hf_deepseek_v3", "aiter_gating"})  // plain; ties by lane, so general
      add(fmt::format("gating policy={} experts={} tokens=3 data=ties", policy, experts));
  for (const int experts : {64, 128, 256, 512, 1024})
    add(fmt::format("gating policy=hf_deepseek_v3 experts={} groups=8 topk_group=3 tokens=3", experts));
  add("gating policy=hf_deepseek_v3_zero experts=160 groups=8 topk_group=3 tokens=2 data=negative");
  add("gating policy=sglang_fused experts=256 groups=8 topk_group=4 dtype=bf16 bias=bf16 tokens=2 "
      "shared_slots=2 scale_flag=1");
  add("gating policy=hf_deepseek_v2 experts=160 groups=8 topk_group=3 topk=6 scoring=softmax renormalize=0 "
      "rsf=16 bias=none tokens=3");
  add("gating policy=hf_deepseek_v3 experts=8 tokens=515 topk=2");  // several waves a block, and a tail
  return list;
}

TEST(GpuGating, IsRightUnderEverySchedule) {
  for (const std::string_view name : kSchedules) {
    const Implementation* one[] = {find_implementation(name)};
    ASSERT_NE(one[0], nullptr) << name;
    EXPECT_EQ(one[0]->name(), name);
    const bool all = name == "gpu-host:reverse" || name == "gpu-host:w64";
    std::size_t i = 0;
    for (const Case& c : cases()) {
      if (i++ % 4 != 0 && !all) continue;  // all cases at both widths, a part in the other orders
      const Record r = check_case(c, one, {}).front();
      EXPECT_FALSE(is_failure(r.result.verdict)) << name << " " << c.str() << ": " << r.result.reason;
    }
  }
}

TEST(GpuGating, EverySpecializationIsReached) {
  for (const std::string_view name : {"gpu-host", "gpu-host:w64"}) {
    const Implementation& impl = *find_implementation(name);
    for (const Case& c : cases()) {
      const Operator& op = operator_of(c);
      TensorSet inputs(op.inputs(c)), outputs(op.outputs(c));
      op.generate(c, inputs);
      if (!impl.unsupported(c)) impl.run(c, inputs, outputs, {});
    }
  }
  int gating = 0;
  for (const gpu::SpecializationUse& s : gpu::specializations()) {
    EXPECT_GT(s.executed, 0u) << s.name << " was never executed";
    gating += s.op == "gating";
  }
  EXPECT_GE(gating, 28);
  EXPECT_GT(gpu::fallbacks("gating").at("ties of experts do not go to the lower id"), 0u);
}

TEST(GpuGating, EveryPlantedFaultIsFound) {
  for (const PlantedFault& f : planted_gpu_faults()) {
    if (f.op != "gating") continue;
    bool found = false;
    for (const char* schedule : {"gpu-host", "gpu-host:w64"}) {
      const Implementation* one[] = {find_implementation(fmt::format("{}!{}", schedule, f.name))};
      ASSERT_NE(one[0], nullptr) << f.name;
      for (const Case& c : cases()) {
        if (found) break;
        if (c.integer("tokens") > 100) continue;
        found = is_failure(check_case(c, one, {}).front().result.verdict);
      }
    }
    EXPECT_TRUE(found) << f.name << ": " << f.what;
  }
}

TEST(GpuGating, SchedulesAreNames) {
  EXPECT_EQ(find_implementation("gpu-hos"), nullptr);
  EXPECT_EQ(find_implementation("gpu-host!no_such_fault"), nullptr);
  for (const char* wrong :
       {"gpu-host:w63", "gpu-host:", "gpu-host:seed", "gpu-host:seedx", "gpu-host:seed1x", "gpu-host:w32:"})
    EXPECT_THROW(find_implementation(wrong), UsageError) << wrong;
}

}  // namespace
}  // namespace moecheck::harness
