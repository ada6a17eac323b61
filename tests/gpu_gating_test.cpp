// Gating's GPU kernels on the host executor: what gpu_kernels_test.cpp does not ask of every operator.
#include <gtest/gtest.h>

#include "harness/case.h"
#include "harness/implementations/gpu_host.h"
#include "harness/operator.h"
#include "harness/runner.h"
#include "optimized/gpu/specializations.h"

namespace moecheck::harness {
namespace {

TEST(GpuGating, TiesOfOtherOrdersFallBack) {
  const Case c = parse_case(find_operator("gating")->schema(),
                            "gating policy=aiter_gating experts=64 tokens=3 data=ties");
  const Implementation* one[] = {find_implementation("gpu-host")};
  EXPECT_FALSE(is_failure(check_case(c, one, {.relations = false}).front().result.verdict));
  EXPECT_GT(gpu::fallbacks("gating").at("ties of experts do not go to the lower id"), 0u);
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
