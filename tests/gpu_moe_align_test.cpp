// moe_align's GPU kernels on the host executor: what gpu_kernels_test.cpp does not ask of every operator.
#include "optimized/gpu/moe_align.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <span>

#include "gpu_kernel_cases.h"
#include "harness/case.h"
#include "harness/implementation.h"
#include "harness/operator.h"
#include "optimized/gpu/specializations.h"

namespace moecheck::harness {
namespace {

const Operator& op() { return *find_operator("moe_align"); }

// An expert's slots ascend: bit for bit what the reference writes, though its contract promises only the set.
void expect_stable(const Case& c, const Implementation& impl) {
  TensorSet inputs(op().inputs(c)), outputs(op().outputs(c)), want(op().outputs(c));
  op().generate(c, inputs);
  op().reference_outputs(c, inputs, *op().reference(c, inputs), want);
  impl.run(c, inputs, outputs, {});
  for (const char* name : {"sorted_token_ids", "sorted_ids"}) {
    const Tensor* t = want.find(name);
    if (t == nullptr) continue;
    EXPECT_TRUE(std::ranges::equal(std::span(t->data(), t->bytes()),
                                   std::span(std::as_const(outputs).at(name).data(), t->bytes())))
        << name << " " << c.str();
  }
}

TEST(GpuMoeAlign, IsStable) {
  std::vector<Case> cases = op().cases(Suite::kQuick);
  for (Case& c : gpu_further_cases("moe_align")) cases.push_back(std::move(c));
  for (const std::string_view name : {"gpu-host:reverse", "gpu-host:w64"})
    for (const Case& c : cases) expect_stable(c, *find_implementation(name));
  EXPECT_GT(gpu::fallbacks("moe_align").at("rows are not multiples of 16 bytes"), 0u);
}

TEST(GpuMoeAlign, RefusesWhatItCannotCount) {
  EXPECT_FALSE(optimized::gpu_moe_align_unsupported(4096, 1 << 20, 1 << 20));
  EXPECT_TRUE(optimized::gpu_moe_align_unsupported(4097, 8, 8));
  EXPECT_TRUE(optimized::gpu_moe_align_unsupported(8, 8, std::int64_t{1} << 30));
  EXPECT_EQ(optimized::gpu_moe_align_workspace(4096, 1024), 0u);
  EXPECT_GT(optimized::gpu_moe_align_workspace(4097, 8), 0u);
  EXPECT_LE(optimized::gpu_moe_align_units(std::int64_t{1} << 29).count, optimized::kGpuAlignMaxUnits);
}

}  // namespace
}  // namespace moecheck::harness
