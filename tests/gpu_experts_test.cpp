// The GPU kernels of experts and moe_block on the host executor: what gpu_kernels_test.cpp does not ask of every operator.
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "harness/case.h"
#include "harness/operator.h"
#include "harness/operators/common.h"
#include "harness/runner.h"
#include "optimized/gpu/experts.h"
#include "optimized/gpu/moe_block.h"
#include "optimized/gpu/specializations.h"

namespace moecheck::harness {
namespace {

TEST(GpuExperts, SlowPathsAreCounted) {
  const Operator& op = *find_operator("experts");
  for (const char* line : {"experts policy=triton tokens=2 hidden=37 intermediate=29",
                           "experts policy=any dtype=f16 tokens=2 hidden=24 intermediate=12"}) {
    const Implementation* one[] = {find_implementation("gpu-host")};
    const Record r =
        check_case(parse_case(op.schema(), line), one, {.clauses = false, .relations = false}).front();
    EXPECT_FALSE(is_failure(r.result.verdict)) << line << ": " << r.result.reason;
  }
  EXPECT_GT(gpu::fallbacks("experts").at("rows are not whole runs of 16 bytes"), 0u);
  EXPECT_GT(gpu::fallbacks("experts").at("no matrix tiles of f16 and f32 numbers"), 0u);
}

// Few slots and many go through different kernels; long rows are cut into segments.
TEST(GpuExperts, BitsDoNotDependOnTheNumberOfRows) {
  for (const char* line :
       {"experts policy=triton tokens=129 experts=2 topk=1 hidden=1032 intermediate=3",
        "experts policy=vllm_fp8 tokens=129 experts=2 topk=1 hidden=1040 intermediate=3"}) {
    const Operator& op = *find_operator("experts");
    const Case many = parse_case(op.schema(), line), few = with_tokens(many, 20);
    TensorSet inputs(op.inputs(many)), of_many(op.outputs(many)), of_few(op.outputs(few));
    op.generate(many, inputs);
    std::vector<std::int64_t> rows(20);
    std::iota(rows.begin(), rows.end(), 109);
    for (const char* name : {"gpu-host", "gpu-host:w64"}) {
      const Implementation& impl = *find_implementation(name);
      impl.run(many, inputs, of_many, {});
      impl.run(few, gather_rows(inputs, rows), of_few, {});
      const Tensor &all = of_many.at("out"), &part = of_few.at("out");
      EXPECT_EQ(0, std::memcmp(part.data(), all.data() + all.bytes() - part.bytes(), part.bytes()))
          << name << " " << line;
    }
  }
}

TEST(GpuExperts, SaysWhatIsUnsupported) {
  using reference::DType;
  reference::ExpertsOptions o;
  o.topk = 2, o.local_experts = 8;
  EXPECT_FALSE(optimized::gpu_experts_unsupported(o, DType::kBF16));
  EXPECT_FALSE(optimized::gpu_experts_unsupported(o, DType::kE4M3FNUZ));
  EXPECT_NE(optimized::gpu_experts_unsupported(o, DType::kF32)->find("f32 weights with bf16"),
            std::string::npos);
  EXPECT_NE(optimized::gpu_experts_unsupported(o, DType::kE5M2)->find("e5m2"), std::string::npos);
  o.fp8_activations = true;
  EXPECT_NE(optimized::gpu_experts_unsupported(o, DType::kE4M3FNUZ)->find("one fp8 format"),
            std::string::npos);
  EXPECT_FALSE(optimized::gpu_experts_unsupported(o, DType::kE4M3FN));
  o.quant.group = 64;
  EXPECT_NE(optimized::gpu_experts_unsupported(o, DType::kE4M3FN)->find("groups of 64"), std::string::npos);
  o.quant.group = 128, o.topk = 129;
  EXPECT_NE(optimized::gpu_experts_unsupported(o, DType::kE4M3FN)->find("topk=129"), std::string::npos);
  reference::MoeBlockOptions block;
  block.insertion = reference::SlotInsertion::kSglang, block.fused = true, block.experts.topk = 2;
  EXPECT_NE(optimized::gpu_moe_block_unsupported(block, DType::kBF16)->find("insertion=sglang"),
            std::string::npos);
}

}  // namespace
}  // namespace moecheck::harness
